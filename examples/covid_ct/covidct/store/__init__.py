"""Preprocessed volumes on disk."""
