"""What a network of Table V is trained with, instead of the preset's own: its fields of the config."""

from collections.abc import Mapping
from typing import Any

from covidct.networks.table_v import Network, Recipe
from covidct.run.systems import System

# The labelled slices that the published numbers of epochs are over.
LABELLED = 50
# Presets of minutes have no time for the published rate of 1e-4, from weights that are drawn at random.
SHORT_RATE = 1e-3
# Nor for 320 groups of 9 epochs, and the steps of three long trainings.
SHORT_GROUPS = {"pseudo_groups": 4, "pseudo_epochs": 1}
LONG_TRAININGS = 3


def with_recipe(preset: str, values: Mapping[str, Any], chosen: System) -> dict[str, Any]:
    """The fields of `preset`; of a network of Table V, those of its recipe in their place.

    Preset `paper` is the recipe itself. The others keep their size (the multiple that the network takes below it),
    batches and steps, and learn faster; what is taught on pseudo labels divides the steps among its long trainings.
    """
    if chosen.network is None:
        return dict(values)
    recipe = chosen.network.recipe
    own = _published(recipe) if preset == "paper" else _short(values, chosen, chosen.network)
    return {**values, **_shared(chosen.network), **own}


def _shared(network: Network) -> dict[str, Any]:
    recipe = network.recipe
    return {
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


def _published(recipe: Recipe) -> dict[str, Any]:
    batches = -(-LABELLED // recipe.batch)
    return {
        "size": (recipe.size, recipe.size),
        "learning_rate": recipe.learning_rate,
        "batch_size": recipe.batch,
        "steps": recipe.epochs * batches * len(recipe.scales),
        "precision": "32",
    }


def _short(values: Mapping[str, Any], chosen: System, network: Network) -> dict[str, Any]:
    divisor = 2 ** (len(network.features) - 1)
    size = tuple(max(2, length // divisor) * divisor for length in values["size"])
    own = {"size": size, "learning_rate": SHORT_RATE}
    if not chosen.pseudo_labels:
        return own
    return {**own, **SHORT_GROUPS, "steps": values["steps"] // LONG_TRAININGS}
