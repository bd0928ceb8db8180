"""What a preset decides for slices."""

from typing import Any

from covidct.run.config import LONG, SHORT

# "auto" precision is bf16 where the processor computes in it, 32 elsewhere.
PRESETS: dict[str, dict[str, Any]] = {
    "demo": SHORT
    | {
        "steps": 600,
        "batch_size": 4,
        "size": (112, 96),
        "resize": True,
        "features_per_stage": (8, 16, 32, 64, 128),
        "precision": "32",
        "relations_every": 100,
    },
    "cpu": SHORT
    | {
        "steps": 1200,
        "batch_size": 4,
        "size": (224, 192),
        "resize": True,
        "features_per_stage": (16, 32, 64, 128, 240, 240),
        "precision": "auto",
        "flips": True,
        "relations_every": 200,
    },
    "paper": LONG | {"size": (448, 384), "features_per_stage": (32, 64, 128, 256, 480, 480, 480)},
}
