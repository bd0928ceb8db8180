"""`import relcons` loads torch and nothing else of weight."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import relcons

ROOT = Path(__file__).resolve().parents[1]
PROBE = """
import json, sys
import torch
before = set(sys.modules)
import relcons
new = sorted(set(sys.modules) - before)
print(json.dumps({"new": new, "file": relcons.__file__}))
"""
# Every library that some part of the project uses beside torch and what torch itself brings.
NEIGHBOURS = [
    "accelerate",
    "batchgeneratorsv2",
    "dynamic_network_architectures",
    "huggingface_hub",
    "ignite",
    "lightning",
    "lightning_fabric",
    "matplotlib",
    "monai",
    "nibabel",
    "numpy",
    "nnunetv2",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "pandas",
    "PIL",
    "pytorch_lightning",
    "rich",
    "safetensors",
    "scipy",
    "segmentation_models_pytorch",
    "SimpleITK",
    "tensorboard",
    "timm",
    "torchdistill",
    "torchvision",
    "transformers",
    "tyro",
]


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_light():
    report = json.loads(python(PROBE))
    assert Path(report["file"]) == ROOT / "relcons" / "__init__.py"
    heavy = [
        name
        for name in report["new"]
        if name.partition(".")[0] not in sys.stdlib_module_names and name.partition(".")[0] != "relcons"
    ]
    assert heavy == []
    assert {"relcons.functional", "relcons.losses", "relcons.routing"} <= set(report["new"])


def test_import_without_neighbours():
    """With torch as the only neighbour installed, import and a relation loss still work."""
    python(f"""
import sys, warnings
warnings.filterwarnings("ignore", "Failed to initialize NumPy")
sys.modules.update(dict.fromkeys({NEIGHBOURS!r}))
import torch, relcons
maps = (torch.rand(2, 4, 6, 5, requires_grad=True),)
output = relcons.DualEncoderOutput(None, maps, (maps[0] ** 2,), (maps[0] ** 3,))
relcons.RelationLoss(weight=relcons.GaussianRampUp(10))(output).backward()
assert maps[0].grad.isfinite().all()
try:
    relcons.split_unet(torch.nn.Linear(1, 1))
except TypeError as error:
    assert "UNetParts" in str(error)
else:
    raise SystemExit("split_unet took a Linear")
""")


def test_public_names():
    assert relcons.__all__ == sorted(relcons.__all__)
    assert len(set(relcons.__all__)) == len(relcons.__all__)
    for name in relcons.__all__:
        assert getattr(relcons, name) is not None
    assert relcons.functional.__all__ == sorted(relcons.functional.__all__)


@pytest.mark.parametrize("name", ["DualEncoderOutput", "MultiEncoderOutput"])
def test_output_fields(name):
    """source, general and target mean the same three tensors everywhere, in this order in outputs."""
    assert getattr(relcons, name)._fields == ("logits", "target", "general", "source")
    assert isinstance(getattr(relcons, name)(torch.zeros(1), (), (), None), tuple)
