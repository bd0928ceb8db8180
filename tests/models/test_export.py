"""Inference exported: torch.export and ONNX give what the model gives, for any batch size."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import Tensor

from relcons import DualEncoderUNet, MultiEncoderUNet
from tests.models.checking import different
from tests.models.networks import SMP, SWIN, Case, dna_case, monai_case, nested_case, own_case, smp_case

BATCH = torch.export.Dim("batch", min=1)
FEW = [dna_case(PlainConvUNet, 2, True), own_case(3)]
CUT = [nested_case(2), nested_case(3)]
# In one dimension each; the other, and the large ones in both, by hand: tests/long/onnx_of_monai.py.
MONAI = [
    monai_case("SegResNet", 3),
    monai_case("FlexibleUNet", 2, side=32),
    monai_case("BasicUNet", 2),
    monai_case("DynUNet", 2, deep_supervision=True, deep_supr_num=2),
    monai_case("UNet", 3),
    monai_case("AttentionUnet", 2, channels=(4, 6), strides=(2,)),
]
EVERY = [
    *[smp_case(architecture) for architecture in SMP],
    smp_case("Segformer", "mit_b0"),
    smp_case("UPerNet", **SWIN),
    *[dna_case(kind, axes, axes == 3) for kind in (PlainConvUNet, ResidualEncoderUNet) for axes in (2, 3)],
]


def model_of(case: Case) -> MultiEncoderUNet:
    return different(case.build(), general="reset").eval()


def exported(model: MultiEncoderUNet, x: Tensor, strict: bool = False) -> torch.export.ExportedProgram:
    with torch.no_grad():
        return torch.export.export(model, (x,), dynamic_shapes=({0: BATCH},), strict=strict)


def assert_exports(case: Case, strict: bool = False) -> None:
    model = model_of(case)
    program = exported(model, case.batch(2), strict)
    other = case.batch(3)
    with torch.no_grad():
        assert torch.allclose(program.module()(other), model(other), rtol=1e-4, atol=1e-4)


def assert_onnx(model: MultiEncoderUNet, case: Case, folder: Path) -> None:
    with torch.no_grad():
        torch.onnx.export(
            model,
            (case.batch(2),),
            folder / "model.onnx",
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: BATCH},),
            dynamo=True,
            verbose=False,
        )
        session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        for samples in (1, 3):
            x = case.batch(samples)
            (found,) = session.run(["logits"], {"image": x.numpy()})
            expected = model(x).numpy()
            assert found.shape == expected.shape
            assert np.abs(found - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("case", FEW, ids=str)
def test_export(case: Case) -> None:
    assert_exports(case)


def test_export_depends_on_both_encoders() -> None:
    model = model_of(FEW[1])
    x = FEW[1].batch()
    before = exported(model, x).module()(x)
    with torch.no_grad():
        next(model.general_encoder.parameters()).add_(1)
    after = exported(model, x).module()(x)
    assert not torch.allclose(before, after)


# The attributes by which a cut network's bottleneck is swapped: set and put back within the pass.
side_effects = pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects:UserWarning")


@pytest.mark.slow
@side_effects
def test_export_of_a_cut_network_is_strict() -> None:
    """Its encoder's pass ends in an exception; without `strict` the exporter loses count of the modules it is in."""
    assert_exports(CUT[0], strict=True)
    with pytest.raises(AssertionError, match="Unexpected key"):
        exported(model_of(CUT[0]), CUT[0].batch())


@pytest.mark.slow
@side_effects
@pytest.mark.parametrize("case", [*CUT, *MONAI], ids=str)
def test_onnx_of_monai_and_of_cut_networks(case: Case, tmp_path: Path) -> None:
    assert_onnx(model_of(case), case, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("case", EVERY, ids=str)
def test_onnx(case: Case, tmp_path: Path) -> None:
    assert_exports(case)
    assert_onnx(model_of(case), case, tmp_path)


@pytest.mark.slow
def test_onnx_of_the_papers_model(tmp_path: Path) -> None:
    case = dna_case(PlainConvUNet, 2, False)
    assert_onnx(different(case.build(), general="reset", fusion="concat").eval(), case, tmp_path)


@pytest.mark.slow
def test_onnx_of_several_general_encoders(tmp_path: Path) -> None:
    case = dna_case(PlainConvUNet, 2, False)
    assert_onnx(MultiEncoderUNet(case.build(), generals=2, fuse_levels=(-1, 0)).eval(), case, tmp_path)


@pytest.mark.slow
def test_onnx_of_a_loaded_model(tmp_path: Path) -> None:
    case = dna_case(PlainConvUNet, 2, False)
    model_of(case).save_pretrained(tmp_path)
    assert_onnx(DualEncoderUNet.from_pretrained(tmp_path), case, tmp_path)
