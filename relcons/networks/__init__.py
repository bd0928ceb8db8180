"""Networks of other libraries as encoder, decoder and head: one file knows one neighbour."""

from importlib import import_module
from typing import Any

from torch import nn

from relcons.parts import UNetParts

__all__ = ["build_network", "split_unet"]

# Of a width, a size or another number that a network is built with.
LARGEST = 16384

FAMILIES = {
    "dynamic_network_architectures": "relcons.networks.dna",
    "monai": "relcons.networks.monai",
    "segmentation_models_pytorch": "relcons.networks.smp",
}


def split_unet(net: nn.Module) -> UNetParts:
    """Encoder, decoder and head of a supported network, or of a subclass of one.

    Args:
        net: a network of segmentation_models_pytorch, dynamic-network-architectures or MONAI. It is not
            copied; of the residual blocks of the second, lambdas become functions that can be pickled.

    Returns:
        Its parts, sharing its modules.

    Raises:
        TypeError: ``net`` belongs to no supported family.

    Examples:
        >>> import segmentation_models_pytorch as smp
        >>> split_unet(smp.Unet("resnet18", encoder_weights=None)).channels
        (3, 64, 64, 128, 256, 512)
    """
    for base in type(net).__mro__:
        family = FAMILIES.get(base.__module__.partition(".")[0])
        if family is not None:
            parts: UNetParts = import_module(family).split(net)
            return parts
    raise TypeError(
        f"cannot split {type(net).__name__}: supported are networks of {', '.join(sorted(FAMILIES))}; pass any other "
        "as relcons.UNetParts(encoder, decoder, head, channels=...), or as relcons.UNetParts.at(net, name of its "
        "bottleneck module, example=...)"
    )


def build_network(family: str, name: str, arguments: dict[str, Any]) -> nn.Module:
    """Network of a supported family, with weights of no meaning: ``UNetParts.describe`` backwards.

    Args:
        family: name of the library, one of ``FAMILIES``.
        name: class of the network, of the fixed table of that library's module.
        arguments: what it was built with, as JSON holds it.

    Raises:
        ValueError: family or name is in no table, or an argument is refused.
        ImportError: the library is not installed.
    """
    if family not in FAMILIES:
        raise ValueError(f"network of family {family!r}; known are {', '.join(sorted(FAMILIES))}")
    _check_numbers(arguments)
    if family == "monai":  # its networks keep no arguments, and describe() gives None for them
        raise ValueError("networks of MONAI are not built by name; build it and pass it as net=")
    network: nn.Module = import_module(FAMILIES[family]).build(name, arguments)
    return network


def _check_numbers(value: Any, name: str = "") -> None:
    """ValueError for numbers that only a damaged or hostile file holds, before memory is taken for them."""
    if isinstance(value, dict):
        for key, entry in value.items():
            _check_numbers(entry, name or str(key))
    elif isinstance(value, list | tuple):
        for entry in value:
            _check_numbers(entry, name)
    elif isinstance(value, int | float) and not abs(value) <= LARGEST:
        raise ValueError(f"{name} holds {value!r}, more than {LARGEST}; the file is damaged, or not what it says")
