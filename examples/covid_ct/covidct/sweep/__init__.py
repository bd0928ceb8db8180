"""Many runs of train.py, on this machine or on a cluster."""
