"""Encoders of timm's with or without weights from ImageNet."""

import re
import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from covidct.errors import InputError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def imagenet_input(image: Tensor) -> Tensor:
    """`image` (B, 1 or 3, H, W) in 0 to 1 as three channels, by ImageNet's mean and deviation: what weights expect."""
    mean, deviation = (image.new_tensor(values).reshape(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (image - mean) / deviation


def backbone(name: str, levels: tuple[int, ...], *, in_channels: int = 3, pretrained: bool | Path = False) -> nn.Module:
    """timm's network `name` without its classifier; it returns the maps of `levels`, finest first.

    pretrained: True for the weights that timm downloads, a file of the same network's weights (`.safetensors`, else
        what `torch.save` wrote: timm's own, torchvision's and Res2Net's files are read), or False.

    InputError if the weights cannot be had, are damaged or another network's.
    """
    # Here, since timm takes seconds to import, which no other method should wait for.
    with warnings.catch_warnings():
        # timm uses what torch has deprecated.
        warnings.filterwarnings("ignore", message=".*torch.jit.interface.*", category=FutureWarning)
        import timm

    if pretrained and in_channels != 3:
        raise InputError(f"in_channels is {in_channels}: weights from ImageNet take 3; leave one of the two out")
    options: dict[str, Any] = {"features_only": True, "out_indices": levels, "in_chans": in_channels}
    if pretrained is True:
        try:
            return timm.create_model(name, pretrained=True, **options)
        except (OSError, RuntimeError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise InputError(
                f"the ImageNet weights of {name} cannot be downloaded ({reason}); give a file of them instead"
            ) from None
    net = timm.create_model(name, pretrained=False, **options)
    if pretrained:
        _fill(net, Path(pretrained), name)
    return net


def _fill(net: nn.Module, path: Path, name: str) -> None:
    expected = {key: value for key, value in net.state_dict().items() if not key.endswith("num_batches_tracked")}
    given = {_timm_key(key): value for key, value in _read(path).items()}
    for key, value in expected.items():
        found = tuple(given[key].shape) if key in given else "missing"
        if found != tuple(value.shape):
            raise InputError(
                f"{path} holds no weights of {name}: {key} is {found}, expected {tuple(value.shape)}; "
                f"give timm's weights of {name}"
            )
    unknown = sorted(given.keys() - net.state_dict().keys())
    if unknown:
        raise InputError(f"{path} holds more than weights of {name}: {unknown[0]}; give timm's weights of {name}")
    net.load_state_dict(given)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{path} is not a file; give a file of ImageNet weights (.safetensors, .pth)")
    try:
        content = _content(path)
    # torch.load raises these, and more of their kinds, for files that are damaged or none of its own.
    except (OSError, RuntimeError, ValueError, LookupError, EOFError, UnpicklingError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"{path} cannot be read as weights ({reason}); give a .safetensors or .pth file") from None
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path} holds no weights by name; give the state_dict of the network")
    return {key: value for key, value in content.items() if not key.startswith(("fc.", "classifier."))}


def _content(path: Path) -> object:
    if path.suffix == ".safetensors":
        return load_file(path)
    content = torch.load(path, map_location="cpu", weights_only=True)
    return content.get("state_dict", content) if isinstance(content, dict) else content


def _timm_key(key: str) -> str:
    # torchvision's first files of DenseNet say norm.1 for norm1; timm's feature extractor joins the first two names.
    key = re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)", r"\1\2", key)
    return re.sub(r"^features\.", "features_", key)
