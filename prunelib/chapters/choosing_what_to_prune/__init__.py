"""Choosing what to prune: sublayers that matter little at the output, against those that turn the stream little."""
