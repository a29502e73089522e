"""Do the estimates track the measurement at one layer, step by step?"""
