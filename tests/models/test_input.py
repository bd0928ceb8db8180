"""Images that a model does not take are refused by name, with the fix; what its network takes is let in."""

import copy

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from relcons import DualEncoderUNet, UNetParts
from tests.models.networks import TinyDecoder, TinyEncoder, tiny_parts

GREY, COLOUR = (2, 1, 8, 8), (2, 3, 8, 8)


@pytest.mark.parametrize(
    ("name", "batches"),
    [("x", (COLOUR,)), ("source", (GREY, COLOUR)), ("unlabelled", (GREY, GREY, COLOUR))],
)
def test_wrong_channels(name: str, batches: tuple[tuple[int, ...], ...]) -> None:
    model = DualEncoderUNet(tiny_parts())
    message = rf"{name} must be \(B, C, \*spatial\) with C = 1, as the network was built, got \(2, 3, 8, 8\)"
    with pytest.raises(ValueError, match=message):
        model(*map(torch.rand, batches))


def test_wrong_channels_of_a_known_network_and_of_a_copy() -> None:
    model = copy.deepcopy(DualEncoderUNet(smp.Unet("resnet18", encoder_weights=None, in_channels=3)).eval())
    assert model(torch.rand(1, 3, 32, 32)).shape == (1, 1, 32, 32)
    with pytest.raises(ValueError, match=r"C = 3, .* got \(1, 1, 32, 32\); convert .* for 1 input"):
        model(torch.rand(1, 1, 32, 32))


class GreyToo(TinyEncoder):
    """Built for colour; makes colour of grey images."""

    def __init__(self) -> None:
        super().__init__()
        self.fine[0] = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> list[Tensor]:
        return super().forward(x.expand(-1, 3, -1, -1))


def test_what_the_network_takes_is_let_in() -> None:
    model = DualEncoderUNet(UNetParts(GreyToo(), TinyDecoder(), nn.Conv2d(4, 1, 1)))
    assert model(torch.rand(GREY)).shape == model(torch.rand(COLOUR)).shape == (2, 1, 8, 8)
