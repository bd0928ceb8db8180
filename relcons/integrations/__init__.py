"""Trainers of other libraries: one file knows one neighbour, and is imported by its own name."""
