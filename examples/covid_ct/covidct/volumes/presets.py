"""What a preset decides for volumes; in preset `paper` the recipe of Table I, planned by nnU-Net."""

from typing import Any

from covidct.run.config import LONG, SHORT

# "auto" precision is bf16 where the processor computes in it, 32 elsewhere.
PRESETS: dict[str, dict[str, Any]] = {
    "demo": SHORT
    | {
        "steps": 300,
        "batch_size": 2,
        "size": (16, 48, 48),
        "features_per_stage": (8, 16, 32, 64),
        "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2)),
        "kernel_sizes": ((1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
        "precision": "32",
        "relations_every": 50,
        "checkpoint_every": 50,
        # Momentum 0.99 looks back over 100 steps: in 300 it finds no lesion.
        "learning_rate": 0.05,
        "momentum": 0.9,
    },
    "cpu": SHORT
    | {
        "steps": 1200,
        "batch_size": 2,
        "size": (28, 96, 112),
        "features_per_stage": (16, 32, 64, 128, 160),
        "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2)),
        "kernel_sizes": ((1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
        "precision": "auto",
        "relations_every": 200,
    },
    "paper": LONG
    | {
        "size": (56, 160, 192),
        "features_per_stage": (32, 64, 128, 256, 320, 320),
        "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2)),
        "kernel_sizes": ((1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    },
}
