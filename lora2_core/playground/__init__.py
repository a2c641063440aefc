"""The playground: a tiny text-to-image model that comes with the pack, and pictures to train it
on.
"""
