"""What several chapters of a run share, each computed once: compressed models, traces, scores."""
