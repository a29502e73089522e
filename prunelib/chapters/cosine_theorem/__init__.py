"""Does Theorem 1 say how far a perturbation turns the hidden state?"""
