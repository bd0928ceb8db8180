"""The training loop, and what it takes its batches from."""
