"""One call of predict.py over damaged files: `python -m tests.long.fuzz_predict --wing slices --seed 0`, by hand.

500 damaged files and some good ones are the inputs of one call, in an order of the seed. A fault is a traceback, a
crash, a hang, a message of several lines, an input that is neither written nor told of, results that are there in
part, whatever a killed call would leave, or a good file that is not done.
"""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "covid_ct"))

import nibabel as nib
import numpy as np
from covidct.ct.names import stem_of
from covidct.ct.picture import SUFFIXES as PICTURE_SUFFIXES
from covidct.results import wing_of
from covidct.run.building import build_model
from covidct.run.checkpoint import save_weights
from covidct.run.config import Config
from covidct.store.preprocess import Plan
from covidct.volumes.plan import write_plan
from PIL import Image

from tests.long.damaged_files import PICTURES, SERIES, VOLUMES, write_files

EXAMPLE = Path(__file__).parents[2] / "examples" / "covid_ct"
SECONDS = 1800
KINDS = {"slices": PICTURES, "volumes": (*VOLUMES, SERIES)}
DATASETS = {"slices": "phantom", "volumes": "phantom-volumes"}


def write_run(run: Path, wing: str) -> Path:
    """A run folder of a tiny network with the weights that it was drawn with."""
    changed: dict[str, Any] = {"features_per_stage": (4, 8), "strides": (), "kernel_sizes": (), "precision": "32"}
    changed |= {"size": (32, 32) if wing == "slices" else (4, 16, 16)}
    values = wing_of(DATASETS[wing]).PRESETS["demo"] | {"precision": "32"} | changed
    config = Config(DATASETS[wing], "", (), "unet", "demo", fold=0, seed=0, **values)
    run.mkdir(parents=True)
    (run / "config.json").write_text(config.to_json(), encoding="utf-8")
    save_weights(run, build_model(config))
    if wing == "volumes":
        write_plan(run, Plan((3.0, 2.0, 2.0), (4, 16, 16), low=0.0, high=255.0, mean=128.0, std=60.0))
    return run


def predict(run: Path, inputs: list[Path], output: Path) -> subprocess.CompletedProcess[bytes]:
    """One call of predict.py; `subprocess.TimeoutExpired` if it hangs."""
    command = [sys.executable, str(EXAMPLE / "predict.py"), str(run), *map(str, inputs), "--output", str(output)]
    paths = [str(EXAMPLE.parents[1]), str(EXAMPLE)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [*command, "--probabilities"], capture_output=True, check=False, timeout=SECONDS, env=environment
    )


def told_of(path: Path, lines: list[str]) -> int:
    """How many messages name the file, as they print a name that is no text."""
    name = str(path).encode("utf-8", "backslashreplace").decode("utf-8")
    return sum(re.search(re.escape(name) + r"(?![\w.])", line) is not None for line in lines)


def results_of(path: Path, wing: str, output: Path) -> list[Path]:
    """The files that the input at `path` is written to."""
    if wing == "slices":
        return [output / f"{path.stem}{ending}.png" for ending in ("", "_probability")]
    endings = (".nii.gz", ".png", ".json", "_probability.nii.gz")
    return [output / f"{path.name if path.is_dir() else stem_of(path)}{ending}" for ending in endings]


def is_whole(result: Path) -> bool:
    """Whether a result can be read to its end; a record, whether it has its result."""
    if result.suffix == ".json":
        return json.loads(result.read_text(encoding="utf-8"))["result"] is not None
    if result.suffix == ".png":
        with Image.open(result) as picture:
            picture.load()
        return True
    return np.asarray(nib.load(result).dataobj).ndim == 3  # type: ignore[attr-defined]


def faults(
    wing: str, bad: list[Path], good: list[Path], output: Path, done: subprocess.CompletedProcess[bytes]
) -> Iterator[str]:
    """What is wrong with a call that has ended."""
    errors, screen = done.stderr.decode("utf-8"), done.stdout.decode("utf-8")
    lines = errors.splitlines()
    if done.returncode != 2 or "Traceback" in errors:
        yield f"it ended with {done.returncode}: {errors[-2000:]}"
    yield from (f"not one line a message: {line}" for line in lines if not line.startswith(("error: ", "note: ")))
    refused = [line for line in lines if line.startswith("error: ")]
    written, total = (int(count) for count in re.findall(r"(\d+) of (\d+) \w+ written", screen)[-1])
    if total != len(bad) + len(good) or total - written != len(refused):
        yield f"{written} of {total} are said to be written, {len(refused)} of {len(bad) + len(good)} were refused"
    expected: set[Path] = set()
    for path in (*bad, *good):
        there = [result for result in results_of(path, wing, output) if os.path.lexists(result)]
        expected |= set(there)
        if bool(there) == bool(told_of(path, refused)):
            yield f"{path}: {len(there)} results, {told_of(path, refused)} messages"
        if there and len(there) < len(results_of(path, wing, output)):
            yield f"{path}: results in part: {', '.join(result.name for result in there)}"
        yield from (f"{result} is not whole" for result in there if not is_whole(result))
    yield from (f"{path} was left there" for path in sorted(set(output.iterdir()) - expected))
    yield from (f"{path} was not done" for path in good if told_of(path, refused))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wing", choices=tuple(KINDS), required=True)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--good", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files and results, which then stay")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        shutil.rmtree(folder / "out", ignore_errors=True)
        kinds = KINDS[arguments.wing]
        bad, good = write_files(folder / "in", arguments.files, arguments.good, arguments.seed, kinds)
        inputs = [*bad, *good]
        random.Random(arguments.seed).shuffle(inputs)
        started = time.monotonic()
        done = predict(write_run(folder / "run", arguments.wing), inputs, folder / "out")
        seconds = time.monotonic() - started
        found = list(faults(arguments.wing, bad, good, folder / "out", done))
    for fault in found:
        print(fault.encode("utf-8", "backslashreplace").decode("utf-8"))
    print(done.stdout.decode("utf-8").splitlines()[-1])
    pictures = ", ".join(PICTURE_SUFFIXES) if arguments.wing == "slices" else ", ".join(KINDS["volumes"])
    print(f"{len(bad)} damaged and {len(good)} good inputs ({pictures}), {seconds:.0f} s, {len(found)} faults")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
