"""What do the compressed models write?"""
