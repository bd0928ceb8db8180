from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from covidct.errors import InputError
from covidct.networks.backbone import backbone, imagenet_input
from safetensors.torch import save_file
from torch import Tensor

# Small networks that timm keeps for tests.
NAME, OTHER = "test_resnet", "test_byobnet"
LEVELS = (1, 2, 3, 4)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    torch.manual_seed(7)
    return timm.create_model(NAME).state_dict()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".tar"])
def test_weights_of_a_file(weights: dict[str, Tensor], suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save({"state_dict": weights, "epoch": 3} if suffix == ".tar" else weights, path)
    net = backbone(NAME, LEVELS, pretrained=path)
    assert any(key.startswith("fc.") for key in weights)
    for key, value in net.state_dict().items():
        assert torch.equal(value, weights[key]), key


def test_levels_and_channels() -> None:
    net = backbone(NAME, LEVELS, in_channels=1)
    maps = net(torch.rand(2, 1, 64, 64))
    assert [x.shape[2] for x in maps] == [16, 8, 4, 2]


def test_another_networks_file(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file(timm.create_model(OTHER).state_dict(), path)
    with pytest.raises(
        InputError, match=rf"other.safetensors holds no weights of {NAME}: conv1.* is missing, expected"
    ):
        backbone(NAME, LEVELS, pretrained=path)


def test_a_shape_that_differs(weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "grey.safetensors"
    first = next(iter(weights))
    save_file({**weights, first: weights[first][:, :1].contiguous()}, path)
    with pytest.raises(
        InputError, match=rf"{first} is \(\d+, 1, 3, 3\), expected \(\d+, 3, 3, 3\); give timm's weights"
    ):
        backbone(NAME, LEVELS, pretrained=path)


def test_more_than_the_network(weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "more.safetensors"
    save_file({**weights, "layer9.weight": torch.ones(1)}, path)
    with pytest.raises(InputError, match=r"holds more than weights of test_resnet: layer9.weight"):
        backbone(NAME, LEVELS, pretrained=path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", bytes(range(256)) * 4])
def test_a_damaged_file(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"damaged{suffix} cannot be read as weights \(.*\); give a .safetensors or"):
        backbone(NAME, LEVELS, pretrained=path)


def test_a_file_that_would_run_code_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save(Trap(), tmp_path / "trap.pth")
    with pytest.raises(InputError, match=r"trap.pth cannot be read as weights"):
        backbone(NAME, LEVELS, pretrained=tmp_path / "trap.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}])
def test_no_weights_by_name(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "list.pth")
    with pytest.raises(InputError, match=r"list.pth holds no weights by name; give the state_dict"):
        backbone(NAME, LEVELS, pretrained=tmp_path / "list.pth")


def test_imagenet_input() -> None:
    found = imagenet_input(torch.tensor([0.485, 0.75]).reshape(2, 1, 1, 1))
    expected = [[0.0, (0.485 - 0.456) / 0.224, (0.485 - 0.406) / 0.225], [1.157205, 1.3125, 1.528889]]
    torch.testing.assert_close(found[..., 0, 0], torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.pth is not a file; give a file of ImageNet weights"):
        backbone(NAME, LEVELS, pretrained=tmp_path / "none.pth")


def test_pretrained_takes_three_channels() -> None:
    with pytest.raises(InputError, match="in_channels is 1: weights from ImageNet take 3"):
        backbone(NAME, LEVELS, in_channels=1, pretrained=True)


def test_timms_own_download(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def create(name: str, **options: Any) -> None:
        asked.append({"name": name, **options})
        raise OSError("no route to host\nand more")

    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(InputError, match=r"weights of test_resnet cannot be downloaded \(no route to host\); give a"):
        backbone(NAME, LEVELS, pretrained=True)
    assert asked == [
        {"name": NAME, "pretrained": True, "features_only": True, "out_indices": LEVELS, "in_chans": 3},
    ]
