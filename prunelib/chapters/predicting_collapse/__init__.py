"""What predicts the collapse: one-step statistics on other text, against what is left of generation."""
