"""Does Theorem 2 say how far a logit perturbation turns the probabilities?"""
