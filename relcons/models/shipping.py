"""Models in folders and on the hub: what they were built of, their weights, a card.

A folder holds `config.json` (format, class, network by a name of a fixed table with its arguments, the
model's own options), `model.safetensors` and `README.md`, the card. Loading builds and fills; nothing
in the folder is run, and no name outside the tables of `relcons.integrations` is built.
"""

import json
import os
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from relcons import __version__
from relcons.integrations import build_network
from relcons.models.card import write_card
from relcons.models.fusion import Concatenation

__all__ = ["load", "push", "save"]

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
FORMAT = 1
_OPTIONS = ("generals", "fusion", "levels", "fuse_levels", "route", "outputs")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def save(model: Any, folder: str | os.PathLike[str], kinds: tuple[type[Any], ...], licence: str | None) -> None:
    """Write ``model`` into ``folder``, each file whole or not at all; a card that is there stays."""
    from safetensors.torch import save_model

    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ValueError(f"folder must be a folder, got the file {folder}; give the name of another") from None
    config = _describe(model, kinds)
    _write(folder / WEIGHTS, lambda path: save_model(model, str(path), metadata={"format": "pt"}))
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    _write(folder / CONFIG, lambda path: path.write_text(text, encoding="utf-8"))
    if not (folder / CARD).exists():
        card = write_card(config, licence)
        _write(folder / CARD, lambda path: path.write_text(card, encoding="utf-8"))


def load(path: str | os.PathLike[str], net: Any, general: Any, cls: type[Any], kinds: tuple[type[Any], ...]) -> Any:
    """Model of a folder or of the hub, in evaluation mode."""
    folder = _local(path)
    config = _read_config(folder / CONFIG)
    model = _build(config, folder / CONFIG, _class(config, folder / CONFIG, cls, kinds), net, general)
    _fill(model, folder / WEIGHTS)
    _restore_training(model, config, folder / CONFIG)
    model.eval()
    return model


def push(
    model: Any,
    name: str,
    kinds: tuple[type[Any], ...],
    *,
    licence: str | None,
    private: bool | None,
    token: str | None,
    message: str,
) -> str:
    """Save ``model`` into a folder that does not stay, and upload that."""
    from huggingface_hub import HfApi

    if not isinstance(name, str) or not _HUB_NAME.fullmatch(name):
        raise ValueError(f'name must be a hub name such as "user/model", got {name!r}')
    api = HfApi(token=token)
    with TemporaryDirectory() as folder:
        save(model, folder, kinds, licence)
        api.create_repo(name, private=private, exist_ok=True)
        # The card on the hub is its owner's as soon as there is one.
        kept = [CARD] if api.file_exists(name, CARD) else None
        commit = api.upload_folder(repo_id=name, folder_path=folder, commit_message=message, ignore_patterns=kept)
    return str(commit.commit_url)


def _describe(model: Any, kinds: tuple[type[Any], ...]) -> dict[str, Any]:
    """All of ``config.json``; its network is None where what the names would build is not like ``model``."""
    concatenates = all(isinstance(layer, Concatenation) for layer in model.fusion.values())
    frozen = set(model._frozen or ())
    config: dict[str, Any] = {
        "format": FORMAT,
        "relcons": __version__,
        "class": next(kind.__name__ for kind in kinds if isinstance(model, kind)),
        "network": _plain(model._network),
        "options": {
            "generals": len(model.general_encoders),
            "fusion": "concat" if concatenates else "project",
            "levels": list(model.levels),
            "fuse_levels": list(model.fusion.levels),
            "route": model.route,
            "outputs": model.outputs,
        },
        "deep_supervision": getattr(model.decoder, "deep_supervision", None),
        "general_is_frozen": model._frozen is not None,
        "not_trainable": [
            name
            for name, parameter in model.named_parameters()
            if not parameter.requires_grad and name.removeprefix("general_encoders.") not in frozen
        ],
    }
    if config["network"] is not None and not _is_rebuilt(model, config, kinds):
        config["network"] = None
    return config


def _plain(network: dict[str, Any] | None) -> Any:
    """The same as JSON gives it back; None where it holds what JSON cannot."""
    try:
        return json.loads(json.dumps(network, allow_nan=False))
    except (TypeError, ValueError):
        return None


def _is_rebuilt(model: nn.Module, config: dict[str, Any], kinds: tuple[type[Any], ...]) -> bool:
    kind = next(kind for kind in kinds if kind.__name__ == config["class"])
    try:
        twin = _build(config, Path(CONFIG), kind, None, "copy")
    except ValueError:
        return False
    shapes = [{name: tensor.shape for name, tensor in m.state_dict().items()} for m in (model, twin)]
    children = [{name: repr(child) for name, child in m.named_children()} for m in (model, twin)]
    return shapes[0] == shapes[1] and children[0] == children[1]


def _build(config: dict[str, Any], file: Path, kind: type[Any], net: Any, general: Any) -> Any:
    """Model as ``config`` says, with weights that are about to be replaced; the random state stays."""
    with torch.random.fork_rng(devices=[]):
        if net is None:
            if config["network"] is None:
                raise ValueError(
                    f"{file} names no network, since it was none of a supported library or was changed after it was "
                    "built; build it as it was and pass it as from_pretrained(path, net=...)"
                )
            net = _named_network(config["network"], file)
        options = dict(config["options"])
        if config["class"] == "DualEncoderUNet":
            options.pop("generals")
        try:
            model = kind(net, general=general, **options)
        except ValueError as error:
            raise ValueError(f"{file} does not fit its network or net: {error}") from None
    _set_deep_supervision(model, config["deep_supervision"])
    return model


def _named_network(network: Any, file: Path) -> nn.Module:
    try:
        return build_network(network["family"], network["class"], dict(network["arguments"]))
    except ImportError:
        raise
    except Exception as error:  # whatever a library makes of arguments that are not its own
        raise ValueError(
            f"{file}: its network cannot be built ({type(error).__name__}: {error}); the file is damaged or of another "
            "version of that library; build the network yourself and pass it as net="
        ) from error


def _set_deep_supervision(model: Any, value: Any) -> None:
    if isinstance(value, bool) and hasattr(model.decoder, "deep_supervision"):
        model.decoder.deep_supervision = value


def _class(config: dict[str, Any], file: Path, cls: type[Any], kinds: tuple[type[Any], ...]) -> type[Any]:
    kind = next(kind for kind in kinds if kind.__name__ == config["class"])
    if next(own for own in kinds if issubclass(cls, own)) is kind:
        return cls
    if issubclass(kind, cls):
        return kind
    raise ValueError(f"{file} is of a {kind.__name__}; load it by {kind.__name__}.from_pretrained(path)")


def _local(path: str | os.PathLike[str]) -> Path:
    """The folder itself, or the hub's copy of it; ``HF_HUB_OFFLINE`` is the hub library's to respect."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a folder or a hub name, got {type(path).__name__}")
    folder = Path(path)
    if folder.is_dir():
        return folder
    if folder.exists() or not isinstance(path, str) or not _HUB_NAME.fullmatch(path):
        raise ValueError(
            f'path must be a folder that save_pretrained wrote or a hub name such as "user/model", got {str(path)!r}'
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path, allow_patterns=[CONFIG, WEIGHTS]))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path!r} is no folder here and could not be fetched from the hub ({type(error).__name__}: {error}); "
            "check the name, the network and HF_HUB_OFFLINE"
        ) from error


def _read_config(file: Path) -> dict[str, Any]:
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


def _fill(model: nn.Module, file: Path) -> None:
    """Give ``model`` the file's weights, in the file's types."""
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


def _restore_training(model: Any, config: dict[str, Any], file: Path) -> None:
    parameters = dict(model.named_parameters())
    unknown = [name for name in config["not_trainable"] if name not in parameters]
    if unknown:
        raise ValueError(f"{file}: not_trainable names {unknown[0]!r}, which the model lacks; {CONFIG} is damaged")
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    for name in config["not_trainable"]:
        parameters[name].requires_grad_(False)
    model.freeze_general(bool(config["general_is_frozen"]))


def _write(file: Path, write: Callable[[Path], Any]) -> None:
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
