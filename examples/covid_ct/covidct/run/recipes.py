"""What a network of Table V is trained with, instead of the preset's own: its fields of the config."""

from collections.abc import Mapping
from typing import Any

from covidct.networks.table_v import Network

# The labelled slices that the published numbers of epochs are over.
LABELLED = 50
# Presets of minutes have no time for the published rate of 1e-4, from weights that are drawn at random.
SHORT_RATE = 1e-3


def with_recipe(preset: str, values: Mapping[str, Any], network: Network) -> dict[str, Any]:
    """The fields of `preset`, those of the recipe of `network` in their place.

    Preset `paper` is the recipe itself. The others keep their size (to the nearest multiple that the network takes),
    batches and steps, and learn faster.
    """
    recipe = network.recipe
    shared = {
        "features_per_stage": network.features,
        "resize": True,
        "flips": False,
        "optimizer": "adam",
        "weight_decay": 0.0,
        "clip": None,
        "clip_value": recipe.clip_value,
        "poly": 0.0,
        "schedule": "inf-net" if recipe.schedule == "inf-net" else "poly",
        "augmentation": recipe.augmentation,
        "unit_input": recipe.stretched,
        "scales": recipe.scales,
    }
    if preset != "paper":
        divisor = 2 ** (len(network.features) - 1)
        size = tuple(max(2, length // divisor) * divisor for length in values["size"])
        return {**values, **shared, "size": size, "learning_rate": SHORT_RATE}
    batches = -(-LABELLED // recipe.batch)
    return {
        **values,
        **shared,
        "size": (recipe.size, recipe.size),
        "learning_rate": recipe.learning_rate,
        "batch_size": recipe.batch,
        "steps": recipe.epochs * batches * len(recipe.scales),
        "precision": "32",
    }
