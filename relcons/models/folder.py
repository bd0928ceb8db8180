"""The files of a saved model: found, read and checked before anything is built of them, written whole."""

import json
import os
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from relcons.checks import needing

__all__ = ["CARD", "CONFIG", "FORMAT", "HUB_NAME", "WEIGHTS", "fill", "locate", "read_config", "write"]

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
FORMAT = 1
_OPTIONS = ("generals", "fusion", "levels", "fuse_levels", "route", "outputs")
HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def locate(path: str | os.PathLike[str], revision: str | None = None, token: str | None = None) -> Path:
    """The folder itself, or the hub's copy of it; ``HF_HUB_OFFLINE`` is the hub library's to respect."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a folder or a hub name, got {type(path).__name__}")
    folder = Path(path)
    if folder.is_dir():
        return folder
    if folder.exists() or not isinstance(path, str) or not HUB_NAME.fullmatch(path):
        raise ValueError(
            f'path must be a folder that save_pretrained wrote or a hub name such as "user/model", got {str(path)!r}'
        )
    with needing("hub", "from_pretrained"):
        from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path, revision=revision, token=token, allow_patterns=[CONFIG, WEIGHTS]))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path!r} is no folder here and could not be fetched from the hub ({type(error).__name__}: {error}); "
            "check the name, the network and HF_HUB_OFFLINE"
        ) from error


def read_config(file: Path) -> dict[str, Any]:
    """What ``config.json`` holds; ValueError where that is not of the form that `save_pretrained` writes."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{file.parent} holds no {CONFIG}; give a folder that save_pretrained wrote") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read ({error}); copy or download the folder anew") from None
    foreign = f"{file} was not written by relcons; give a folder that save_pretrained wrote"
    if not isinstance(config, dict) or "format" not in config:
        raise ValueError(foreign)
    if config["format"] != FORMAT:
        raise ValueError(f"{file} has format {config['format']!r}, expected {FORMAT}; install a newer relcons")
    options, network, names = config.get("options"), config.get("network"), config.get("not_trainable")
    well_formed = (
        config.get("class") in ("DualEncoderUNet", "MultiEncoderUNet")
        and isinstance(options, dict)
        and set(options) == set(_OPTIONS)
        and all(isinstance(options[name], list) for name in ("levels", "fuse_levels"))
        and isinstance(names, list)
        and all(isinstance(name, str) for name in names)
        and (network is None or (isinstance(network, dict) and set(network) == {"family", "class", "arguments"}))
        and {"deep_supervision", "general_is_frozen"} <= set(config)
    )
    if not well_formed:
        raise ValueError(foreign)
    return config


def fill(model: nn.Module, file: Path) -> None:
    """Give ``model`` the file's weights, in the file's types."""
    with needing("hub", "from_pretrained"):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

    try:
        saved = load_file(file)
    except FileNotFoundError:
        raise ValueError(f"{file.parent} holds no {WEIGHTS}; give a folder that save_pretrained wrote") from None
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{file} is truncated or no safetensors file ({error}); copy or download the folder anew"
        ) from None
    state: dict[str, Tensor] = model.state_dict(keep_vars=True)
    _check_match(state, saved, file)
    with torch.no_grad():
        for name, tensor in saved.items():
            if state[name].dtype != tensor.dtype:
                state[name].data = state[name].data.to(tensor.dtype)
            state[name].copy_(tensor)


def _check_match(state: dict[str, Tensor], saved: dict[str, Tensor], file: Path) -> None:
    names = {name: (tensor.data_ptr(), tensor.shape) for name, tensor in state.items()}
    # A tensor with several names (blocks that repeat their layers) is saved under one of them.
    present = {names[name] for name in saved if name in names}
    problems = [f"no {name!r}" for name, place in names.items() if place not in present]
    problems += [f"{name!r}, which the model lacks" for name in saved if name not in state]
    problems += [
        f"{name!r} in {tensor.dtype} where the model has {state[name].dtype}"
        for name, tensor in saved.items()
        if name in state and _kind(state[name]) != _kind(tensor)
    ]
    problems += [
        f"{name!r} of shape {tuple(tensor.shape)} where the model has {tuple(state[name].shape)}"
        for name, tensor in saved.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(
            f"{file} does not match the model: it has {', '.join(problems[:3])}{more}; pass a net= (and a general=, "
            "for encoders of your own) built like the one that was saved, or take both files from one folder"
        )


def _kind(tensor: Tensor) -> tuple[bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex()


def write(file: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` write a sibling, which then takes the place of ``file``."""
    temporary = file.with_name(f".{file.stem}-{secrets.token_hex(4)}{file.suffix}")
    try:
        write(temporary)
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, file)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
