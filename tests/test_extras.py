"""With torch alone installed: what works, and that every missing extra is named by its error, with its command."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from relcons.checks import needing

ROOT = Path(__file__).resolve().parents[1]
# None of the neighbours can be imported, as in an environment with torch and nothing else.
ALONE = """
import sys
import warnings

warnings.filterwarnings("ignore", "Failed to initialize NumPy")
neighbours = (
    "batchgenerators dynamic_network_architectures huggingface_hub lightning matplotlib monai nnunetv2 numpy "
    "pytorch_lightning safetensors segmentation_models_pytorch timm"
).split()
sys.modules.update(dict.fromkeys(neighbours))
import torch
from torch import nn

import relcons


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList([nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 2, 2)])

    def forward(self, x):
        return [x := stage(x) for stage in self.stages]


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)

    def forward(self, maps):
        return self.up(maps[-1]) + maps[0]


model = relcons.DualEncoderUNet(relcons.UNetParts(Encoder(), Decoder(), nn.Conv2d(8, 1, 1), channels=(8, 16)))
out = model(torch.rand(2, 1, 8, 8), source=torch.rand(2, 1, 8, 8))
(out.logits.mean() + relcons.RelationLoss()(out)).backward()
assert all(parameter.grad is not None for parameter in model.parameters())


def plot():
    import relcons.plot

    relcons.plot.plot_relation(torch.eye(2))


def module(name):
    return lambda: __import__(name)


calls = {
    "save_pretrained hub": lambda: model.save_pretrained("never"),
    "from_pretrained hub": lambda: relcons.DualEncoderUNet.from_pretrained("user/model"),
    "push_to_hub hub": lambda: model.push_to_hub("user/model"),
    "relcons.plot plot": plot,
    "relcons.networks.smp smp": module("relcons.networks.smp"),
    "relcons.networks.dna dna": module("relcons.networks.dna"),
    "relcons.networks.monai monai": module("relcons.networks.monai"),
    "relcons.integrations.lightning lightning": module("relcons.integrations.lightning"),
    "relcons.integrations.nnunet nnunet": module("relcons.integrations.nnunet"),
}
for call in calls:
    what, extra = call.split()
    try:
        calls[call]()
    except ImportError as error:
        assert str(error).startswith(f"{what} needs "), error
        assert str(error).endswith(f'; pip install "relcons[{extra}]"'), error
        print(extra)
    else:
        raise SystemExit(f"{call}: no error")
"""
MAIN = """
import runpy

sys.argv = ["nnunet"]
runpy.run_module("relcons.integrations.nnunet", run_name="__main__")
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_with_torch_alone() -> None:
    done = python(ALONE)
    assert done.returncode == 0, done.stderr
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(done.stdout.split()) == {"dna", "hub", "lightning", "monai", "nnunet", "plot", "smp"} <= set(extras)
    assert not (ROOT / "never").exists()


def test_the_folder_of_the_trainers_without_nnunet() -> None:
    """One line, no traceback: the command's output goes into a variable."""
    done = python(ALONE + MAIN)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1:] == ["nnunet"]
    assert done.stderr.splitlines()[-1].startswith("relcons.integrations.nnunet needs ")
    assert len(done.stderr.splitlines()) == 1


def test_needing_keeps_kind_and_name() -> None:
    with (
        pytest.raises(ModuleNotFoundError, match=r'^x needs absent .*; pip install "relcons\[plot\]"$') as missing,
        needing("plot", "x"),
    ):
        raise ModuleNotFoundError("No module named 'absent.part'", name="absent.part")
    assert missing.value.name == "absent.part"
    with pytest.raises(ImportError, match=r"x needs old .cannot import name") as older, needing("plot", "x"):
        raise ImportError("cannot import name 'new'", name="old")
    assert not isinstance(older.value, ModuleNotFoundError)
