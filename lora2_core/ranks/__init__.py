"""The maths of a learned rank: importance, rank, worth, singular basis, and its settings."""
