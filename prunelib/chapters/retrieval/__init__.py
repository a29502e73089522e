"""What does an embedding keep when sublayers are dropped?"""
