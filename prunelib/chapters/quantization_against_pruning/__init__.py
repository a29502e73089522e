"""What the same memory buys: quantized models beside pruned ones."""
