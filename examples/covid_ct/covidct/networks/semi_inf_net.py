"""Semi-Inf-Net: Inf-Net taught on its own predictions of unlabelled slices, group by group."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from covidct.errors import InputError

Kind = Literal["supervised", "round", "pseudo", "semi"]
Start = Literal["scratch", "previous"]


@dataclass(frozen=True)
class SemiInfNetPlan:
    """Published: 320 rounds of 5 slices out of 1600, 9 epochs each with Adam at 3e-4 and batches of 16.

    `rounds` stops after that many groups, None takes all. The three long trainings (supervised, pseudo, semi) have
    Inf-Net's own recipe.
    """

    group: int = 5
    epochs: int = 9
    rounds: int | None = None
    learning_rate: float = 3e-4
    batch: int = 16


@dataclass(frozen=True)
class Stage:
    """One training of the loop.

    kind: "supervised" on the labelled slices; "round" on them and all that is pseudo-labelled so far; "pseudo" on the
        pseudo-labelled ones alone; "semi" on the labelled ones again.
    start: "scratch", the weights Inf-Net starts from (ImageNet's where given); "previous", those of the stage before.
    to_label: slices to predict with the previous stage's weights before this training; their maps stay as they are
        ever after (the stretched probabilities, in 8 bits, as soft masks, and `canny_edges` of them).
    labelled, pseudo: what is trained on, in the order it was added.
    epochs, learning_rate, batch: None where Inf-Net's own recipe holds.
    """

    kind: Kind
    start: Start
    labelled: tuple[str, ...] = ()
    pseudo: tuple[str, ...] = ()
    to_label: tuple[str, ...] = ()
    epochs: int | None = None
    learning_rate: float | None = None
    batch: int | None = None


def semi_inf_net_stages(
    labelled: Sequence[str], unlabelled: Sequence[str], plan: SemiInfNetPlan | None = None, *, seed: int = 0
) -> Iterator[Stage]:
    """The trainings of Semi-Inf-Net in their order; the last one's weights are the result.

    The names in `unlabelled` are shuffled by `seed` alone (their given order does not matter) and cut into groups;
    the last group is smaller where they do not divide (the release leaves it out; of 1600, 5 leave none).

    Raises InputError for slices or a plan that give no such loop.
    """
    plan = plan or SemiInfNetPlan()
    groups = _groups(labelled, unlabelled, plan, seed)
    return _stages(tuple(labelled), groups, plan)


def _stages(labelled: tuple[str, ...], groups: list[tuple[str, ...]], plan: SemiInfNetPlan) -> Iterator[Stage]:
    yield Stage("supervised", "scratch", labelled=labelled)
    pseudo: tuple[str, ...] = ()
    for group in groups:
        pseudo += group
        yield Stage(
            "round",
            "previous",
            labelled=labelled,
            pseudo=pseudo,
            to_label=group,
            epochs=plan.epochs,
            learning_rate=plan.learning_rate,
            batch=plan.batch,
        )
    yield Stage("pseudo", "scratch", pseudo=pseudo)
    yield Stage("semi", "previous", labelled=labelled)


def _groups(
    labelled: Sequence[str], unlabelled: Sequence[str], plan: SemiInfNetPlan, seed: int
) -> list[tuple[str, ...]]:
    for name in ("group", "epochs", "batch", "rounds"):
        value = getattr(plan, name)
        if value is not None and value < 1:
            raise InputError(f"{name} of the pseudo-label loop is {value}; give 1 or more")
    if not labelled or not unlabelled:
        raise InputError(
            f"the pseudo-label loop has {len(labelled)} labelled and {len(unlabelled)} unlabelled slices; it needs both"
        )
    both = sorted(set(labelled) & set(unlabelled))
    if both:
        raise InputError(f"{both[0]} is among the labelled and the unlabelled slices; take it out of one of the two")
    names = sorted(unlabelled)
    random.Random(seed).shuffle(names)
    groups = [tuple(names[first : first + plan.group]) for first in range(0, len(names), plan.group)]
    if plan.rounds is not None and plan.rounds > len(groups):
        raise InputError(
            f"{plan.rounds} rounds of {plan.group} unlabelled slices were asked for, and {len(names)} slices make "
            f"{len(groups)}; ask for fewer, or give more slices"
        )
    return groups[: plan.rounds]
