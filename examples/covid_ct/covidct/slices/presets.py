"""What a preset decides for slices."""

from typing import Any

from covidct.run.config import LONG, SHORT

# In so few steps better than the paper's SGD with all labels, with ten not (docs: When it helps). AdamW moves the
# general encoder by its rate, however small lambda_G is: hence a small one.
ADAMW = {"optimizer": "adamw", "learning_rate": 2e-3, "weight_decay": 0.01, "general_rate": 0.005}
# "auto" precision is bf16 where the processor computes in it, 32 elsewhere.
PRESETS: dict[str, dict[str, Any]] = {
    "demo": SHORT
    | ADAMW
    | {
        "steps": 600,
        "batch_size": 4,
        "size": (112, 96),
        "resize": True,
        "features_per_stage": (16, 32, 64, 128, 128),
        "precision": "auto",
        "relations_every": 100,
    },
    "cpu": SHORT
    | ADAMW
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
