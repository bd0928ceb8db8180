"""Networks of the paper's tables."""
