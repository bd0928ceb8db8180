"""What the paper leaves open: each choice is a field of the config, an option of train.py, and words in a caption."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from covidct.errors import InputError
from covidct.run.building import dual_width, fused_levels, general_rate
from covidct.run.config import DEFAULTS, OPTIONS, Config
from covidct.run.systems import SYSTEMS, System, system


@dataclass(frozen=True)
class Choice:
    """A field, what a caption calls it, and the methods in which it changes anything."""

    field: str
    words: str
    acts: Callable[[System], bool]

    @property
    def option(self) -> str:
        """What train.py calls it."""
        return OPTIONS.get(self.field, f"--{self.field.replace('_', '-')}")

    @property
    def argument(self) -> str:
        """Its name among the arguments of train.py."""
        return self.option.removeprefix("--").replace("-", "_")


CHOICES = (
    Choice("relation_reduction", "reduction", lambda chosen: chosen.relates),
    Choice("relation_peak_general", "lambda_G to", lambda chosen: chosen.general),
    Choice("relation_peak_target", "lambda_T to", lambda chosen: chosen.target),
    Choice("relation_power", "ramp power", lambda chosen: chosen.relates),
    Choice("general_rate", "general encoder's rate x", lambda chosen: chosen.general),
    Choice("anchor", "anchor", lambda chosen: chosen.general),
    Choice("relation_levels", "levels", lambda chosen: chosen.relates),
    Choice("fuse_levels", "fused levels", lambda chosen: chosen.dual),
    Choice("fusion", "fusion", lambda chosen: chosen.dual),
    Choice("route", "route", lambda chosen: chosen.dual),
    Choice("width", "width", lambda chosen: not chosen.dual and chosen.network is None),
    Choice("variant", "Inf-Net", lambda chosen: chosen.network is not None and chosen.network.recipe.edges),
    Choice("imagenet", "ImageNet weights", lambda chosen: chosen.network is not None and bool(chosen.network.backbone)),
    Choice("pseudo_group", "slices a group", lambda chosen: chosen.pseudo_labels),
    Choice("pseudo_epochs", "epochs a group", lambda chosen: chosen.pseudo_labels),
    Choice("pseudo_groups", "groups", lambda chosen: chosen.pseudo_labels),
    Choice("hidden_block", "hidden squares of", lambda chosen: chosen.learns == "hidden parts" or chosen.self_taught),
    Choice("hidden_share", "share hidden", lambda chosen: chosen.learns == "hidden parts" or chosen.self_taught),
    Choice("ema", "EMA", lambda chosen: not chosen.pseudo_labels),
    Choice("hidden_steps", "steps of reconstruction", lambda chosen: chosen.self_taught),
    Choice("target_draw", "draw", lambda chosen: chosen.learns == "lesions"),
    Choice("target_cases", "target slices", lambda chosen: chosen.learns != "source lesions"),
    Choice("source_cases", "source slices", lambda chosen: chosen.needs_source),
    Choice("source_policy", "slice of each scan", lambda chosen: chosen.needs_source),
)
# Which images, not which method: rows of the paper have either.
OF_DATA = {"target_cases", "target_draw", "source_cases", "source_policy"}
# Said only where they are chosen.
UNSAID = OF_DATA | {"ema", "general_rate", "hidden_steps"}
# How long, as the number of steps, what goes with the optimiser, and from which weights, which published systems have.
OF_BUDGET = {"pseudo_epochs", "pseudo_groups", "imagenet", "general_rate"}
DUAL = "dual"


def asked_choices(given: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """Fields of the config by what train.py was `given`, its arguments by name; None is not given.

    Raises InputError for one that changes nothing in the method of `config`.
    """
    asked = {}
    for choice in CHOICES:
        value = given[choice.argument]
        if value is None:
            continue
        if not choice.acts(system(config.method)):
            methods = ", ".join(name for name, entry in SYSTEMS.items() if choice.acts(entry))
            raise InputError(
                f"{choice.option} changes nothing in method {config.method}; leave it out, or take --method {methods}"
            )
        asked[choice.field] = _width(value, config) if choice.field == "width" else value
    if "target_draw" in asked and asked.get("target_cases", config.target_cases) is None:
        raise InputError("--target-draw says which draw of --target-cases; give that too, or leave it out")
    if "general_rate" in asked and asked.get("route", config.route) == "joint":
        raise InputError("--general-rate changes nothing under --route joint, which trains both encoders alike")
    if (power := asked.get("relation_power", 1)) not in (1, 2):
        raise InputError(f"--ramp-power must be 1 (as printed) or 2 (Laine & Aila 2017), got {power:g}")
    if "source_policy" in asked and asked.get("source_cases", config.source_cases) is None:
        raise InputError(
            "--source-policy changes nothing where all slices are taken; leave it out, or add --source-cases"
        )
    return asked


def acting(config: Config) -> list[Choice]:
    """The choices that change anything in a run of `config`, without those of `UNSAID` that were not made."""
    chosen = system(config.method)
    return [
        choice
        for choice in CHOICES
        if choice.acts(chosen) and not (choice.field in UNSAID and _acting(choice, config) == DEFAULTS[choice.field])
    ]


def caption(config: Config) -> str:
    """What the run chose where the paper leaves it open, the paper's own choices among it."""
    chosen = system(config.method)
    parts = [f"{choice.words} {in_words(_acting(choice, config))}" for choice in acting(config)]
    if chosen.start == "general encoder":
        parts.append(f"general encoder from {config.init}" if config.init else "general encoder random at first")
    return ", ".join(parts)


def departures(config: Config) -> str:
    """In words, where a run chose something else than the paper did; empty for the paper's own systems."""
    if config.method not in SYSTEMS:
        return ""
    parts = []
    for choice in acting(config):
        papers = replace(config, **{choice.field: DEFAULTS[choice.field]})
        if choice.field not in OF_DATA | OF_BUDGET and _comparable(choice, config) != _comparable(choice, papers):
            parts.append(f"{choice.words} {in_words(_acting(choice, config))}")
    return ", ".join(parts)


def in_words(value: Any) -> str:
    """A setting as it is printed."""
    if value is None:
        return "all"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | list):
        return " ".join(map(in_words, value)) or "by default"
    if value == "":
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _acting(choice: Choice, config: Config) -> Any:
    made = {"fuse_levels": fused_levels, "general_rate": general_rate}.get(choice.field)
    return getattr(config, choice.field) if made is None else made(config)


def _comparable(choice: Choice, config: Config) -> Any:
    value, stages = _acting(choice, config), len(config.features_per_stage)
    return {level % stages for level in value} if choice.field in ("relation_levels", "fuse_levels") else value


def _width(given: str, config: Config) -> float:
    if given == DUAL:
        return dual_width(config)
    try:
        return float(given)
    except ValueError:
        raise InputError(f"--width must be a factor such as 1.2, or {DUAL}, got {given!r}") from None
