"""What does each way to prune and quantize do to weights, stream and perplexity?"""
