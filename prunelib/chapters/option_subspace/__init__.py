"""Do the answer options stay while the distribution around them moves?"""
