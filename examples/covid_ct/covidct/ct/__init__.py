"""Reading a CT in any format: volumes and pictures."""
