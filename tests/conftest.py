"""Settings of the whole suite."""

import os
import signal

# Before anything imports the libraries that read them: no download, no window.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from hypothesis import settings

# A shell starts what runs in the background with interrupts ignored, and every process below inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A shared machine can stall for longer than Hypothesis' deadline; the same examples in every run.
settings.register_profile("relcons", deadline=None, derandomize=True)
settings.load_profile("relcons")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
