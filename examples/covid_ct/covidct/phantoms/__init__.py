"""Chests that no patient had: slices and volumes drawn from a seed."""
