"""Tasks: the same items in three read-outs, standard benchmarks, retrieval, sandboxed code."""
