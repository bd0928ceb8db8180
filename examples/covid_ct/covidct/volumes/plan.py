"""The plan of a run of volumes, kept beside its config: plan.json."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from covidct.errors import InputError
from covidct.files import read_json, write_text
from covidct.run.config import Config, read_config
from covidct.run.groups import key
from covidct.store.preprocess import Plan

PLAN = "plan.json"


def write_plan(run: Path, plan: Plan) -> None:
    """Write `run`/plan.json, whole or not at all."""
    write_text(run / PLAN, json.dumps(asdict(plan), indent=2) + "\n")


def has_plan(run: Path) -> bool:
    """Whether `run` has a plan.json that can be read."""
    try:
        read_plan(run)
    except InputError:
        return False
    return True


def keep_plan(run: Path, plan: Plan) -> None:
    """Write `plan` unless the run has one; InputError if it has another: the store has changed since.

    A damaged plan.json is replaced.
    """
    if not has_plan(run):
        write_plan(run, plan)
        return
    kept = read_plan(run)
    if kept != plan:
        raise InputError(
            f"{run / PLAN} is not the plan of the run's data now: {_apart(kept, plan)}; put the store back as it was, "
            "or start another run"
        )


def check_start(config: Config, plan: Plan) -> None:
    """InputError unless the run that `config.init` names was trained for the same fold and by the same plan."""
    init = Path(config.init)
    fold = read_config(init / "config.json").fold
    if fold != config.fold:
        raise InputError(
            f"--init {init} is a run of fold {fold}, this one is of fold {config.fold}: test volumes of the one are "
            f"not those of the other; give the pre-training of fold {config.fold}"
        )
    started = read_plan(init)
    if started != plan:
        raise InputError(
            f"--init {init} was trained by another plan: {_apart(started, plan)}; train both with the same --store "
            "and --preset"
        )


def check_plans(runs: Sequence[tuple[Path, Config, Plan]]) -> None:
    """InputError where runs on volumes of one group were trained on different grids, whose scores are no one row.

    The statistics of the grey values are each fold's own.
    """
    first: dict[str, tuple[Path, Plan]] = {}
    for run, config, plan in runs:
        other, like = first.setdefault(key(config), (run, plan))
        if (plan.spacing, plan.patch_size) != (like.spacing, like.patch_size):
            raise InputError(
                f"{other} was trained at spacing {like.spacing} mm on patches of {like.patch_size} voxels, {run} at "
                f"{plan.spacing} mm on {plan.patch_size}: folds of one row share both; evaluate them apart"
            )


def _apart(one: Plan, other: Plan) -> str:
    pairs = zip(asdict(one).items(), asdict(other).values(), strict=True)
    return "; ".join(f"{name} {value} there, {now} now" for (name, value), now in pairs if value != now)


def read_plan(run: Path) -> Plan:
    """The plan in `run`/plan.json; InputError if it is missing or damaged."""
    path = run / PLAN
    return read_json(
        path,
        Plan,
        fix=f"restore it with train.py --resume --output {run}",
        missing=f"{run} is no run on volumes, or its training has not begun",
    )
