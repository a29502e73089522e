"""What does the LM head do to a perturbation?"""
