"""What survives when sublayers are dropped?"""
