"""The plan of a run of volumes, kept beside its config: plan.json."""

import json
from dataclasses import asdict
from pathlib import Path

from covidct.data.preprocess import Plan
from covidct.errors import InputError
from covidct.files import write_text

PLAN = "plan.json"


def write_plan(run: Path, plan: Plan) -> None:
    """Write `run`/plan.json, whole or not at all."""
    write_text(run / PLAN, json.dumps(asdict(plan), indent=2) + "\n")


def read_plan(run: Path) -> Plan:
    """The plan in `run`/plan.json; InputError if it is missing or damaged."""
    path = run / PLAN
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        z, y, x = map(float, content.pop("spacing"))
        depth, height, width = map(int, content.pop("patch_size"))
        return Plan(spacing=(z, y, x), patch_size=(depth, height, width), **{k: float(v) for k, v in content.items()})
    except FileNotFoundError:
        raise InputError(f"{path} is missing: {run} is no run on volumes, or its training has not begun") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error}); restore it with train.py --resume --output {run}") from None
