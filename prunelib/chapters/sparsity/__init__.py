"""What survives when weights are removed?"""
