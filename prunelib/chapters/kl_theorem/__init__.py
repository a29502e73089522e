"""Does Theorem 3 say how large the KL divergence is that a logit perturbation causes?"""
