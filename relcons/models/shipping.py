"""Models in folders and on the hub: what they were built of, their weights, a card.

A folder holds `config.json` (format, class, network by a name of a fixed table with its arguments, the
model's own options), `model.safetensors` and `README.md`, the card. Loading builds and fills; nothing
in the folder is run, and no name outside the tables of `relcons.networks` is built.
"""

import json
import os
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from relcons.checks import needing
from relcons.models.build import build_fusion
from relcons.models.card import write_card
from relcons.models.folder import CARD, CONFIG, FORMAT, HUB_NAME, WEIGHTS, fill, locate, read_config, write
from relcons.models.fusion import Concatenation
from relcons.networks import build_network, split_unet

__all__ = ["load", "push", "save"]


def save(model: Any, folder: str | os.PathLike[str], licence: str | None) -> None:
    """Write ``model`` into ``folder``, each file whole or not at all; a card that is there stays."""
    with needing("hub", "save_pretrained"):
        from safetensors.torch import save_model

    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ValueError(f"folder must be a folder, got the file {folder}; give the name of another") from None
    config = _describe(model)
    write(folder / WEIGHTS, lambda path: save_model(model, str(path), metadata={"format": "pt"}))
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    write(folder / CONFIG, lambda path: path.write_text(text, encoding="utf-8"))
    if not (folder / CARD).exists():
        card = write_card(config, licence)
        write(folder / CARD, lambda path: path.write_text(card, encoding="utf-8"))


def load(
    path: str | os.PathLike[str], net: Any, general: Any, cls: type[Any], revision: str | None, token: str | None
) -> Any:
    """Model of a folder or of the hub, in evaluation mode."""
    folder = locate(path, revision, token)
    config = read_config(folder / CONFIG)
    model = _build(config, folder / CONFIG, cls, net, general)
    fill(model, folder / WEIGHTS)
    _restore_training(model, config, folder / CONFIG)
    model.eval()
    return model


def push(
    model: Any,
    name: str,
    *,
    licence: str | None,
    private: bool | None,
    token: str | None,
    message: str,
) -> str:
    """Save ``model`` into a folder that does not stay, and upload that."""
    with needing("hub", "push_to_hub"):
        from huggingface_hub import HfApi

    if not isinstance(name, str) or not HUB_NAME.fullmatch(name):
        raise ValueError(f'name must be a hub name such as "user/model", got {name!r}')
    api = HfApi(token=token)
    with TemporaryDirectory() as folder:
        save(model, folder, licence)
        api.create_repo(name, private=private, exist_ok=True)
        # The card on the hub is its owner's as soon as there is one.
        kept = [CARD] if api.file_exists(name, CARD) else None
        commit = api.upload_folder(repo_id=name, folder_path=folder, commit_message=message, ignore_patterns=kept)
    return str(commit.commit_url)


def _describe(model: Any) -> dict[str, Any]:
    """All of ``config.json``; its network is None where what the names would build is not like ``model``."""
    concatenates = all(isinstance(layer, Concatenation) for layer in model.fusion.values())
    frozen = set(model._frozen or ())
    config: dict[str, Any] = {
        "format": FORMAT,
        "relcons": version("relcons"),
        "class": _own_class(type(model)).__name__,
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
    if config["network"] is not None and not _is_rebuilt(model, config):
        config["network"] = None
    return config


def _plain(network: dict[str, Any] | None) -> Any:
    """The same as JSON gives it back; None where it holds what JSON cannot."""
    try:
        return json.loads(json.dumps(network, allow_nan=False))
    except (TypeError, ValueError):
        return None


def _is_rebuilt(model: Any, config: dict[str, Any]) -> bool:
    """Whether the network that ``config`` names has the layers of ``model``.

    Its parts are compared, since a second model would run its trial passes and copy its encoders for nothing. On the
    meta device no weights are drawn; encoders that read numbers while they are built (MiT's) cannot be built there.
    """
    options, encoders = config["options"], [model.target_encoder, *model.general_encoders]
    own = [*encoders, model.fusion, model.decoder, model.head, model.classification_head]
    for device in ("meta", "cpu"):
        with suppress(ValueError), torch.random.fork_rng(devices=[]), torch.device(device):
            parts = split_unet(_named_network(config["network"], Path(CONFIG)))
            fused = build_fusion(parts, options["fusion"], options["fuse_levels"], options["generals"])
            heads = [parts.head or nn.Identity(), parts.classification_head]
            if [*map(_layers, own)] == [*map(_layers, [*[parts.encoder] * len(encoders), *fused, *heads])]:
                return True
    return False


def _layers(module: nn.Module | None) -> tuple[str, dict[str, torch.Size]]:
    """What tells one module from another, but for its weights."""
    state = {} if module is None else module.state_dict()
    return repr(module), {name: tensor.shape for name, tensor in state.items()}


def _build(config: dict[str, Any], file: Path, cls: type[Any], net: Any, general: Any) -> Any:
    """Model as ``config`` says, with weights that are about to be replaced; the random state stays."""
    options = _options_for(cls, config, file)
    with torch.random.fork_rng(devices=[]):
        if net is None:
            if config["network"] is None:
                raise ValueError(
                    f"{file} names no network, since it was none of a supported library or was changed after it was "
                    "built; build it as it was and pass it as from_pretrained(path, net=...)"
                )
            net = _named_network(config["network"], file)
        try:
            model = cls(net, general=general, **options)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{file} does not fit its network or net: {error}") from None
    if isinstance(config["deep_supervision"], bool) and hasattr(model.decoder, "deep_supervision"):
        model.decoder.deep_supervision = config["deep_supervision"]
    return model


def _named_network(network: Any, file: Path) -> nn.Module:
    try:
        return build_network(network["family"], network["class"], dict(network["arguments"]))
    except (ImportError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a library makes of arguments that are not its own
        raise ValueError(
            f"{file}: its network cannot be built ({type(error).__name__}: {error}); the file is damaged or of another "
            "version of that library; build the network yourself and pass it as net="
        ) from error


def _own_class(cls: type[Any]) -> type[Any]:
    """The class of this library that ``cls`` is or extends."""
    return next(base for base in cls.__mro__ if base.__module__.partition(".")[0] == "relcons")


def _options_for(cls: type[Any], config: dict[str, Any], file: Path) -> dict[str, Any]:
    """Arguments for ``cls``; the two classes differ in whether the number of general encoders is one of them."""
    options = dict(config["options"])
    if _own_class(cls).__name__ == "DualEncoderUNet" and options.pop("generals") != 1:
        raise ValueError(f"{file} is of a MultiEncoderUNet; load it by MultiEncoderUNet.from_pretrained(path)")
    return options


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
