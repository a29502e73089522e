"""How far do h, z and p move, layer by layer?"""
