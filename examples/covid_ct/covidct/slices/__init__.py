"""Slices: from pictures to scores."""
