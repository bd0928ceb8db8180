"""The COVID-19 CT example: the paper's systems in 2D, from data to pictures."""

import os

# Before torch is loaded. GNU OpenMP's threads spin for milliseconds while they wait for each other; where another
# process has a core, that makes two threads up to ten times slower than one. Short spinning costs nothing elsewhere
# (measured: a training step of 0.047 s on two free cores either way; beside other processes 0.055 s, not 0.255 s).
os.environ.setdefault("GOMP_SPINCOUNT", "20000")
