import numpy as np
import pytest
import torch
from covidct.volumes.inference import body_box, predict_volume, region_box, window_span, window_starts
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from monai.inferers.utils import sliding_window_inference
from torch import nn

PATCH = (4, 16, 12)


class Voxelwise(nn.Module):
    """Logits are the voxels themselves: what comes out says where every voxel went."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.shapes, self.trained, self.autocast = [], [], []

    def forward(self, x):
        self.shapes.append(tuple(x.shape))
        self.trained.append(self.training)
        self.autocast.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)
        return x * self.scale


class Ramp(Voxelwise):
    """Logits depend on the place in the window alone, unlike along the three axes."""

    def forward(self, x):
        z, y, extent = (torch.arange(n, dtype=torch.float32) for n in x.shape[2:])
        return (self.scale * (0.3 * z[:, None, None] + 0.1 * y[:, None] + 0.03 * extent)).expand(x.shape)


def small_unet():
    torch.manual_seed(0)
    net = PlainConvUNet(
        *(1, 2, [4, 8], nn.Conv3d, 3, [[1, 1, 1], [1, 2, 2]], 1, 1, 1, True, nn.InstanceNorm3d),
        norm_op_kwargs={"affine": True},
        nonlin=nn.LeakyReLU,
    )
    net.apply(PlainConvUNet.initialize)
    return net.eval()


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def chest(shape=(12, 64, 60)):
    """Air of -1000, a body of 40 at [2:11, 20:46, 12:50], two lungs of -850 in it; noise of a few HU."""
    hu = np.full(shape, -1000, dtype=np.float32)
    hu[2:11, 20:46, 12:50] = 40
    hu[4:10, 24:42, 16:28] = hu[4:10, 24:42, 33:46] = -850
    return hu + 5 * noise(shape)


def on_whole_grid(model, image, patch=PATCH, overlap=0.5):
    with torch.inference_mode():
        found = sliding_window_inference(
            torch.from_numpy(image)[None, None], patch, 1, lambda x: model(x).sigmoid(), overlap, "gaussian"
        )
    return found[0, 0].numpy()


@pytest.mark.parametrize("shape", [(4, 16, 12), (9, 40, 31), (3, 7, 50), (1, 20, 20), (1, 1, 1)])
def test_any_size_comes_back_in_its_size(shape):
    probability = predict_volume(small_unet(), noise(shape), patch_size=PATCH, flips=True)
    assert probability.shape == shape
    assert probability.dtype == np.float32
    assert 0 <= probability.min() <= probability.max() <= 1


@pytest.mark.parametrize("shape", [(4, 16, 12), (9, 40, 31), (3, 7, 50)])
@pytest.mark.parametrize("flips", [True, False])
def test_every_voxel_comes_back_in_its_place(shape, flips):
    image = noise(shape)
    probability = predict_volume(Voxelwise(), image, patch_size=PATCH, flips=flips, body=False)
    np.testing.assert_allclose(probability, sigmoid(image), atol=1e-5)


def test_flips_are_the_mean_of_eight_mirrorings():
    shape = (4, 6, 5)
    z, y, x = np.ix_(*(np.arange(n, dtype=np.float32) for n in shape))
    ramp = sigmoid(0.3 * z + 0.1 * y + 0.03 * x)
    probability = predict_volume(Ramp(), noise(shape), patch_size=shape, flips=True, body=False)
    mirrored = [np.flip(ramp, [a for a in range(3) if n >> a & 1]) for n in range(8)]
    np.testing.assert_allclose(probability, np.mean(mirrored, axis=0), atol=1e-6)
    alone = predict_volume(Ramp(), noise(shape), patch_size=shape, body=False)
    np.testing.assert_allclose(alone, ramp, atol=1e-6)


@pytest.mark.parametrize(("shape", "overlap"), [((12, 64, 60), 0.5), ((11, 45, 37), 0.5), ((9, 50, 33), 0.3)])
def test_whole_grid_is_monais_result(shape, overlap):
    image, model = noise(shape), small_unet()
    probability = predict_volume(model, image, patch_size=PATCH, overlap=overlap, body=False)
    np.testing.assert_allclose(probability, on_whole_grid(model, image, overlap=overlap), atol=1e-6)


@pytest.mark.parametrize("overlap", [0.5, 0.3, 0.0])
@pytest.mark.parametrize(("length", "patch"), [(64, 16), (61, 16), (16, 16), (7, 16), (33, 16), (100, 7)])
def test_windows_stand_where_monai_lays_them(length, patch, overlap):
    from monai.data.utils import dense_patch_slices
    from monai.inferers.utils import _get_scan_interval

    size = (max(length, patch),)
    laid = dense_patch_slices(size, (patch,), _get_scan_interval(size, (patch,), 1, (overlap,)))
    assert window_starts(length, patch, overlap) == [window[0].start for window in laid]


def test_far_from_the_rim_the_box_changes_nothing():
    image, model = chest(), small_unet()
    box = body_box(image)
    assert box[1:] != (slice(0, 64), slice(0, 60))
    boxed = predict_volume(model, image / 500, patch_size=PATCH)
    whole = on_whole_grid(model, image / 500)
    # Inside by half a window, every window that counts is there.
    inner = (slice(2, 11), slice(box[1].start + 8, box[1].stop - 8), slice(box[2].start + 6, box[2].stop - 6))
    np.testing.assert_allclose(boxed[inner], whole[inner], atol=2e-3)
    assert np.ptp(whole[inner]) > 0.1


def test_outside_of_the_body_is_background():
    image, model = chest() / 500, Voxelwise()
    probability = predict_volume(model, image, patch_size=PATCH)
    box = body_box(image)
    outside = np.ones(image.shape, dtype=bool)
    outside[box] = False
    assert (probability[outside] == 0).all()
    np.testing.assert_allclose(probability[box], sigmoid(image[box]), atol=1e-5)
    everywhere = Voxelwise()
    predict_volume(everywhere, image, patch_size=PATCH, body=False)
    assert len(model.shapes) < len(everywhere.shapes)


@pytest.mark.parametrize("scale", [(1.0, 0.0), (0.17, 212.5), (0.004, 2.0)])
def test_body_is_found_in_any_scale_without_table_and_outside_air(scale):
    hu = chest((12, 160, 140))
    hu[2:11, 50:110, 30:115] = 40
    hu[4:10, 60:100, 40:70] = -850
    hu[:, 110:112, 5:135] = 100  # the table, on which the body lies, and wider
    hu[:, 10:12, 60:62] = 3000  # a wire
    box = body_box((hu * scale[0] + scale[1]).astype(np.float32))
    # Cells are 1 x 2 x 2 voxels; the box is a cell wider, the last column is half a cell, and of the table it holds
    # what the body lies on.
    assert box == (slice(1, 12), slice(48, 114), slice(28, 116))


def test_body_by_an_own_threshold():
    hu = chest()
    assert body_box(hu, tissue=-400) == body_box(hu)
    assert body_box(hu, tissue=5000) == (slice(0, 12), slice(0, 64), slice(0, 60))


def test_volume_without_any_contrast_is_done_whole():
    image = np.zeros((5, 20, 20), dtype=np.float32)
    assert body_box(image) == (slice(0, 5), slice(0, 20), slice(0, 20))


def test_region_replaces_the_body():
    image, region, model = chest() / 500, np.zeros((12, 64, 60), dtype=bool), Voxelwise()
    region[4:10, 24:42, 16:28] = True
    probability = predict_volume(model, image, patch_size=PATCH, region=region)
    box = region_box(region)
    assert box == (slice(3, 11), slice(22, 44), slice(14, 30))
    np.testing.assert_allclose(probability[box], sigmoid(image[box]), atol=1e-5)
    assert probability.sum() == pytest.approx(probability[box].sum())


def test_empty_region_has_no_lesion_and_costs_nothing():
    model = Voxelwise()
    probability = predict_volume(model, chest(), patch_size=PATCH, region=np.zeros((12, 64, 60), dtype=bool))
    assert not probability.any()
    assert not model.shapes


@pytest.mark.parametrize(
    ("box", "span"),
    [
        ((30, 60), (24, 64)),  # windows of 16 begin at 0, 8, ..., 80, 84
        ((0, 100), (0, 100)),
        ((86, 99), (84, 100)),
        ((25, 30), (16, 32)),  # windows 16 and 24 hold it: 27.5 is as near to 24 as to 32, the first counts
        ((26, 31), (24, 40)),
    ],
)
def test_span_is_the_lattices_cover_of_the_box(box, span):
    found = window_span((slice(0, 1), slice(*box), slice(0, 4)), (1, 100, 4), (1, 16, 4), 0.5)
    assert found == (slice(0, 1), slice(*span), slice(0, 4))


def test_progress_counts_windows():
    calls, model = [], Voxelwise()
    predict_volume(model, chest(), patch_size=PATCH, progress=lambda *at: calls.append(at))
    assert calls == [(n + 1, len(model.shapes)) for n in range(len(model.shapes))]


def test_runs_in_eval_mode_and_is_given_back_in_its_own():
    model = Voxelwise().train()
    predict_volume(model, noise(PATCH), patch_size=PATCH)
    assert model.trained == [False]
    assert model.training


def test_first_of_several_outputs_counts():
    class Supervised(Voxelwise):
        def forward(self, x):
            return [super().forward(x), torch.zeros_like(x)[..., ::2, ::2]]

    image = noise((6, 20, 20))
    probability = predict_volume(Supervised(), image, patch_size=PATCH, body=False)
    np.testing.assert_allclose(probability, sigmoid(image), atol=1e-5)


@pytest.mark.parametrize(("precision", "dtype"), [("32", None), ("bf16", torch.bfloat16), ("16", torch.float16)])
def test_precision_is_autocast(precision, dtype):
    model = Voxelwise()
    probability = predict_volume(model, noise(PATCH), patch_size=PATCH, precision=precision)
    assert model.autocast == [dtype]
    assert probability.dtype == np.float32


def test_nan_output_is_given_back_as_nan():
    model = Voxelwise()
    model.scale.data *= np.nan
    assert np.isnan(predict_volume(model, noise(PATCH), patch_size=PATCH, body=False)).all()


def test_image_is_not_changed():
    image = chest()
    before = image.copy()
    predict_volume(Voxelwise(), image, patch_size=PATCH, flips=True)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": np.zeros((4, 4), np.float32)}, r"one volume \(z, y, x\), got shape \(4, 4\)"),
        ({"image": np.zeros((0, 4, 4), np.float32)}, r"got shape \(0, 4, 4\)"),
        ({"image": np.zeros((4, 4, 4))}, r"float32, got float64; convert it with astype"),
        ({"patch_size": (4, 4)}, r"three lengths of 1 or more, got \(4, 4\)"),
        ({"overlap": 1.0}, "at least 0 and less than 1, got 1"),
        ({"precision": "fp8"}, "32, bf16, 16, got 'fp8'"),
        ({"region": np.ones((4, 4, 5), bool)}, r"grid \(4, 4, 4\), got bool of \(4, 4, 5\)"),
        ({"region": np.ones((4, 4, 4), np.uint8)}, "region must be boolean on the image's grid"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(changes, message):
    arguments = {"image": np.zeros((4, 4, 4), np.float32), "patch_size": (4, 4, 4)} | changes
    with pytest.raises(ValueError, match=message):
        predict_volume(Voxelwise(), **arguments)
