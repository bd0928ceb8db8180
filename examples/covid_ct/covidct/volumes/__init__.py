"""Volumes: from stores to scores."""
