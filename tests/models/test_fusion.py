import re

import pytest
import torch
from torch import Tensor, nn

from relcons.models.fusion import Concatenation, Projection
from relcons.parts.layers import reset_parameters


def maps(axes: int, count: int = 2, width: int = 3) -> list[Tensor]:
    return [torch.randn(2, width, *range(3, 3 + axes)) for _ in range(count)]


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_projection_starts_as_the_first_map(axes: int) -> None:
    bottlenecks = maps(axes, count=3)
    assert torch.equal(Projection(3, 6)(bottlenecks), bottlenecks[0])


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_projection_is_a_1x1_convolution_of_the_concatenation(axes: int) -> None:
    projection, (first, second) = Projection(3, 3).double(), maps(axes)
    with torch.no_grad():
        projection.weight.normal_()
        projection.bias.normal_()
    joined = torch.cat([first, second], dim=1).double()
    expected = torch.einsum("oi,bi...->bo...", projection.weight, joined)
    expected = expected + projection.bias.reshape(-1, *[1] * axes)
    assert torch.allclose(projection([first.double(), second.double()]), expected, rtol=1e-12)


def test_projection_moves_from_its_start() -> None:
    """[identity, 0] is no dead start: the weights of every map get a gradient at once."""
    projection = Projection(3, 3)
    projection(maps(2)).square().sum().backward()
    assert projection.weight.grad.abs().min() > 0
    assert projection.bias.grad.abs().min() > 0


def test_projection_gradcheck() -> None:
    projection = Projection(2, 2).double()
    bottlenecks = [torch.randn(1, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda *m: projection(m), bottlenecks)


def test_projection_tells_its_sizes() -> None:
    assert repr(Projection(3, 6)) == "Projection(width=3, extra=6)"


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_concatenation_keeps_the_order(axes: int) -> None:
    target, general = maps(axes)
    joined = Concatenation()([target, general])
    assert torch.equal(joined[:, :3], target)
    assert torch.equal(joined[:, 3:], general)
    assert list(Concatenation().parameters()) == []


@pytest.mark.parametrize("fusion", [Projection(3, 3), Concatenation()], ids=["project", "concat"])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 4, 3, 4), (1, 3, 3, 4)], ids=["sizes", "width", "batch"])
def test_exception(fusion: torch.nn.Module, shape: tuple[int, ...]) -> None:
    message = (
        "the general encoders' maps must have the target encoder's shape (2, 3, 3, 4), "
        f"got [{shape}]; give general encoders of the same architecture, depth and strides"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        fusion([torch.rand(2, 3, 3, 4), torch.rand(shape)])


def test_made_on_the_meta_device_it_is_right_after_to_empty_and_reset():
    """The recipe of FSDP2: memory holds anything until the layers are reset."""
    with torch.device("meta"):
        projection = Projection(3, 5)
    projection.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in projection.parameters():
            parameter.fill_(1e20)
    projection.reset_parameters()
    assert torch.equal(projection.weight, torch.eye(3, 8))
    assert torch.equal(projection.bias, torch.zeros(3))


def test_relcons_own_reset_takes_its_own_layers():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), Projection(2, 2))
    reset_parameters(module)
    assert torch.equal(module[1].weight, torch.eye(2, 4))
    assert module[0].weight.isfinite().all()
