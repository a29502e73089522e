"""Recovery: a ladder of repairs on the same pruned models, from one temperature to fine-tuning."""
