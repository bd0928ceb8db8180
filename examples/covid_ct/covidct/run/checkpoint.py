"""What a run keeps on disk to go on later, and the weights it leaves."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save
from torch import nn

from covidct.errors import InputError
from covidct.files import parse_json, write_bytes, write_text
from covidct.run.building import build_model
from covidct.run.config import DEFAULTS, YOUNGER, Config, read_config, upgraded

# A step of metrics.jsonl: `step`, and what was measured there.
LogLine = dict[str, int | float | None]

# Fields of a config that decide no weight.
PLACES = {
    *("data", "images", "masks", "store", "source", "unlabelled", "init", "imagenet"),
    *("workers", "log_every", "relations_every", "checkpoint_every"),
}
CHECKPOINT, METRICS, WEIGHTS = "checkpoint.pt", "metrics.jsonl", "model.safetensors"


def save_checkpoint(run: Path, state: dict[str, Any]) -> None:
    """Replace `run`/checkpoint.pt by `state`, whole or not at all."""
    # By way of memory: written to a full disk directly, torch.save raises RuntimeError instead of OSError.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(run / CHECKPOINT, buffer.getvalue())


def has_begun(run: Path) -> bool:
    """Whether there is a checkpoint to go on from."""
    return (run / CHECKPOINT).exists()


def check_same_config(run: Path, config: Config, state: dict[str, Any]) -> None:
    """InputError if the checkpoint `state` is of another run than the `config` of config.json.

    Where data lie and how often is logged may differ. Checkpoints of the first version do not tell.
    """
    if (text := state.get("config")) is None:
        return
    saved = parse_json(text, dict[str, Any], f"the config in {run / CHECKPOINT}", "put the right one back")
    ours = json.loads(config.to_json())
    # An older run has not the fields that came later, and what it did is their defaults.
    theirs = {name: json.loads(json.dumps(DEFAULTS[name])) for name in YOUNGER} | upgraded(saved)
    apart = [name for name in ours if name not in PLACES and theirs.get(name) != ours[name]]
    if apart:
        name = apart[0]
        raise InputError(
            f"{run / CHECKPOINT} is of a run with other settings than config.json: {name} is {theirs.get(name)!r} "
            f"there and {ours[name]!r} here; put the right one back, or remove it to start from step 0 with --resume"
        )


def load_checkpoint(run: Path) -> dict[str, Any] | None:
    """The state that `run`/checkpoint.pt holds, on the CPU; None if there is no checkpoint yet."""
    if not has_begun(run):
        return None
    path = run / CHECKPOINT
    try:
        # PyTorch does not look at the checksums: a flipped bit would be another weight.
        with zipfile.ZipFile(path) as archive:
            if (part := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"the checksum of {part} is wrong")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state
    except Exception as error:
        # torch.load raises RuntimeError, UnpicklingError, EOFError, KeyError and more for damaged files.
        raise InputError(
            f"{path} is damaged ({type(error).__name__}); remove it and start again with --resume from step 0"
        ) from None


def cut_metrics(run: Path, step: int) -> None:
    """Drop what was logged after `step`: lines of metrics.jsonl (also a torn last one) and relation matrices."""
    lines = log_lines(run / METRICS) if (run / METRICS).exists() else []
    kept = [line for line in lines if line is not None and (line["step"] or 0) <= step]
    write_text(run / METRICS, "".join(json.dumps(line) + "\n" for line in kept))
    for path in (run / "relations").glob("step_*.npz"):
        if int(path.stem.removeprefix("step_")) > step:
            path.unlink()


def log_lines(path: Path) -> list[LogLine | None]:
    """What the lines of a metrics.jsonl hold; None for one that is torn or damaged."""
    return [_log_line(line) for line in path.read_bytes().splitlines()]


def _log_line(text: bytes) -> LogLine | None:
    try:
        found = parse_json(text, LogLine, METRICS, fix="")
    except InputError:
        return None
    return found if isinstance(found.get("step"), int) else None


def save_weights(run: Path, model: nn.Module) -> None:
    """Write model.safetensors; `safetensors.torch.load_model` reads it.

    Every tensor is stored once, under its first name. (`save_model` would add the other names of shared tensors
    in an order that changes from process to process, so two equal models would give different files.)
    """
    tensors = {name: p.detach() for name, p in (*model.named_parameters(), *model.named_buffers())}
    kept = {name: tensor.cpu().contiguous() for name, tensor in tensors.items() if name in model.state_dict()}
    write_bytes(run / WEIGHTS, save(kept, metadata={"format": "pt"}))


def load_run(run: Path) -> tuple[Config, nn.Module]:
    """Config and trained model (on the CPU, eval mode) of a run folder.

    Raises InputError if `run` is no run folder, its training has not ended, or its weights are damaged or not its
    own.
    """
    if not run.is_dir():
        raise InputError(f"{run} is not a folder; give a run folder that train.py wrote")
    config = read_config(run / "config.json")
    model = build_model(config)
    read_weights(model, run)
    return config, model.eval()


def read_weights(model: nn.Module, run: Path) -> None:
    """Give `model` the weights that `run` has kept; InputError as for `load_run`."""
    path = run / WEIGHTS
    if not path.is_file():
        raise InputError(f"{path} is missing: the training has not ended; end it with train.py --resume --output {run}")
    try:
        load_model(model, path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged ({error}); restore it with train.py --resume --output {run}") from None
    except RuntimeError as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(f"{path} does not fit the network of {run / 'config.json'}: {first}") from None
