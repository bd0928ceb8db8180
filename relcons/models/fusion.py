"""How the maps of several encoders become what the decoder takes."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

__all__ = ["Concatenation", "Fusion", "Projection"]


class Fusion(nn.ModuleDict):
    """One fusion for each level at which the general encoders' maps join the target's.

    Args:
        levels: index of the encoder's map -> module that makes one map of several.
    """

    def __init__(self, levels: Mapping[int, nn.Module]) -> None:
        super().__init__({str(level): module for level, module in levels.items()})
        self.levels = tuple(levels)

    def forward(self, target: Sequence[Tensor], generals: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """The target's maps, those of the levels fused with every general encoder's."""
        fused = list(target)
        for level in self.levels:
            fused[level] = self[str(level)]([target[level], *(maps[level] for maps in generals)])
        return fused


class Concatenation(nn.Module):
    """Concatenation along the channels, as in the paper's Fig. 2."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """One map of all channels."""
        return torch.cat(_same_shape(maps), dim=1)


class Projection(nn.Module):
    """Concatenation, then a 1x1 convolution back to the first map's width.

    It starts as [identity, 0], so that its output is the first map until training says otherwise.

    Args:
        width: channels of the first map.
        extra: channels of all others together.
    """

    def __init__(self, width: int, extra: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, width + extra))
        self.bias = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Back to [identity, 0]."""
        nn.init.eye_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """One map as wide as the first."""
        joined = torch.cat(_same_shape(maps), dim=1)
        convolve = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)[joined.ndim - 3]
        return convolve(joined, self.weight[(...,) + (None,) * (joined.ndim - 2)], self.bias)

    def extra_repr(self) -> str:
        """Arguments, for ``repr``."""
        width, total = self.weight.shape
        return f"width={width}, extra={total - width}"


def _same_shape(maps: Sequence[Tensor]) -> list[Tensor]:
    shapes = [tuple(features.shape) for features in maps]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(
            f"the general encoders' maps must have the target encoder's shape {shapes[0]}, got {shapes[1:]}; "
            "give general encoders of the same architecture, depth and strides"
        )
    return list(maps)
