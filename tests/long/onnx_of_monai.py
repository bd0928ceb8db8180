"""Inference of MONAI's networks through onnxruntime, what CI leaves out: `pytest tests/long/onnx_of_monai.py`."""

from pathlib import Path

import pytest

from tests.models.networks import Case, monai_case
from tests.models.test_export import MONAI, assert_onnx, model_of, side_effects

SIDES = {"FlexibleUNet": 32, "SwinUNETR": 32}
NETWORKS = ("SegResNet", "FlexibleUNet", "BasicUNet", "DynUNet", "SwinUNETR", "UNet", "AttentionUnet", "VNet")
TESTED = {(case.name.partition("-")[0], len(case.size) - 1) for case in MONAI}
REST = [
    monai_case(name, axes, side=SIDES.get(name, 16))
    for name in NETWORKS
    for axes in (2, 3)
    if (name, axes) not in TESTED
]


@side_effects
@pytest.mark.parametrize("case", REST, ids=str)
def test_onnx(case: Case, tmp_path: Path) -> None:
    assert_onnx(model_of(case), case, tmp_path)
