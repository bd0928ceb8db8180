"""Settings of the whole suite."""

import os

# Before anything imports the libraries that read them: no download, no window.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from hypothesis import settings

# A shared machine can stall for longer than Hypothesis' deadline; the same examples in every run.
settings.register_profile("relcons", deadline=None, derandomize=True)
settings.load_profile("relcons")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
