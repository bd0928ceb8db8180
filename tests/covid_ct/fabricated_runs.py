"""Run folders with a config and scores and nothing else, as report.py reads them."""

import json
from pathlib import Path
from typing import Any

from covidct.run.config import Config
from covidct.run.results import NAMED
from covidct.volumes.presets import PRESETS as VOLUMES

from tests.covid_ct.plain_demo import DEMO

WHOLE = {"flips": False, "precision": "32", "overlap": 0.5, "region": "body"}


def config(*, volumes: bool, **changes: Any) -> Config:
    values = {"dataset": "covid-ct-20" if volumes else "covid_semiseg", "data": "/data", "source": ()}
    values |= {"method": "unet", "preset": "demo", "fold": 0 if volumes else None, "seed": 0}
    return Config(**values | (VOLUMES["demo"] if volumes else DEMO) | changes)


def volume_content(of: Config, scores: dict[str, tuple[float | None, float | None]], **changes: Any) -> dict[str, Any]:
    """metrics.json of a run on volumes; scores: name -> DSC and NSD."""
    volumes = [{"name": name, "dsc": dsc, "nsd": nsd} for name, (dsc, nsd) in scores.items()]
    content = {name: getattr(of, name) for name in NAMED}
    content |= {"data": "/data", "by_patient": False, "inference": WHOLE, "summary": {}, "volumes": volumes}
    return content | {"failed": []} | changes


def slice_content(of: Config, dice: dict[str, float], **changes: Any) -> dict[str, Any]:
    """metrics.json of a run on slices; dice: name -> Dice of the mask, from which all else is made."""
    images = []
    for name, value in dice.items():
        hard = {"dice": value, "sensitivity": value / 2, "specificity": 0.9, "mae": 1 - value}
        soft = {measure: number - 0.25 for measure, number in hard.items()}
        images.append({"name": name, "at_0.5": hard, "table_v_hard": hard, "table_v_soft": soft})
    content = {name: getattr(of, name) for name in NAMED}
    return content | {"data": "/data", "flips": False, "summary": {}, "images": images} | changes


def write_run(folder: Path, of: Config, content: dict[str, Any] | None) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(of.to_json())
    if content is not None:
        (folder / "metrics.json").write_text(json.dumps(content))
    return folder
