"""The demo preset of slices in float32 and with the paper's optimiser, which most tests are about."""

from typing import Any

from covidct.run.config import DEFAULTS
from covidct.slices.presets import PRESETS

OPTIMISATION = ("optimizer", "learning_rate", "weight_decay", "general_rate")
DEMO: dict[str, Any] = PRESETS["demo"] | {"precision": "32"} | {name: DEFAULTS[name] for name in OPTIMISATION}
