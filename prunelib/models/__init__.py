"""What a model is and where it comes from: layout, weights, hooks, cache."""
