"""nnU-Net's augmentation: what is in it, and that image and mask stay together."""

import numpy as np
import pytest
import torch
from covidct.ct.labels import OUTSIDE
from covidct.training.augment import augmentation, is_flat, larger_patch, rotation_range


def picture(size, outside=0):
    """An image that is 3 in a lesion without symmetry and -0.5 elsewhere, and the lesion's labels."""
    label = torch.zeros((1, *size), dtype=torch.int16)
    label[:, size[0] // 5 : size[0] // 2, size[1] // 6 : size[1] // 3] = 1
    label[:, size[0] // 3 : size[0] // 2, size[1] // 3 : 3 * size[1] // 4] = 1
    if outside:
        label[:, :, -outside:] = OUTSIDE
    return torch.where(label == 1, 3.0, -0.5), label


def seeded(seed, size, given):
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    image, label = picture(given)
    return augmentation(size)(image=image, segmentation=label)


def test_the_list():
    """PAPER_SPEC's order and probabilities; spatial and mirroring are always called and draw for themselves."""
    expected = [
        ("SpatialTransform", 1),
        ("GaussianNoiseTransform", 0.1),
        ("GaussianBlurTransform", 0.2),
        ("MultiplicativeBrightnessTransform", 0.15),
        ("ContrastTransform", 0.15),
        ("SimulateLowResolutionTransform", 0.25),
        ("GammaTransform", 0.1),
        ("GammaTransform", 0.3),
        ("MirrorTransform", 1),
        ("RemoveLabelTransform", 1),
    ]
    found = [
        (type(getattr(each, "transform", each)).__name__, getattr(each, "apply_probability", 1))
        for each in augmentation((64, 48)).transforms
    ]
    assert found == expected


def test_ranges():
    spatial, noise, blur, bright, contrast, low, inverted, gamma, mirror, _ = (
        getattr(each, "transform", each) for each in augmentation((64, 48)).transforms
    )
    assert (spatial.p_rotation, spatial.p_scaling, spatial.scaling) == (0.2, 0.2, (0.7, 1.4))
    assert spatial.p_elastic_deform == 0
    assert noise.noise_variance == (0, 0.1)
    assert (blur.blur_sigma, blur.benchmark) == ((0.5, 1.0), False)
    assert bright.multiplier_range.contrast_range == contrast.contrast_range.contrast_range == (0.75, 1.25)
    assert (low.scale, low.p_per_channel, blur.p_per_channel) == ((0.5, 1), 0.5, 0.5)
    assert (inverted.p_invert_image, gamma.p_invert_image) == (1, 0)
    assert gamma.gamma.contrast_range == (0.7, 1.5)
    assert gamma.p_retain_stats == 1
    assert mirror.allowed_axes == (0, 1)


@pytest.mark.parametrize(("size", "degrees"), [((448, 384), 180), ((60, 40), 180), ((61, 40), 15), ((40, 61), 15)])
def test_rotation_range(size, degrees):
    assert rotation_range(size) == pytest.approx((-np.deg2rad(degrees), np.deg2rad(degrees)))


def test_larger_patch():
    # Turned by 90 degrees the longer side is what both axes need; nnU-Net divides by .85.
    assert larger_patch((448, 384)) == (527, 527)
    # 15 degrees: 160 cos + 80 sin = 175.25; -160 sin + 80 cos = 35.9, less than 80.
    assert larger_patch((160, 80)) == (206, 94)


def test_image_and_mask_move_together():
    turned = 0
    for seed in range(80):
        result = seeded(seed, (96, 80), (140, 140))
        image, label = result["image"], result["segmentation"]
        assert image.shape == label.shape == (1, 96, 80)
        assert set(label.unique().tolist()) <= {0, 1}
        bright = image > (image.max() + image.min()) / 2
        both = (bright & (label == 1)).sum() / (bright | (label == 1)).sum()
        assert both > 0.9
        _, centre = picture((140, 140))
        turned += not torch.equal(label, centre[:, 22:118, 30:110])
    # Three quarters are mirrored alone.
    assert turned > 50


def test_outside_becomes_background():
    for seed in range(20):
        torch.manual_seed(seed)
        image, label = picture((40, 40), outside=30)
        assert augmentation((40, 40))(image=image, segmentation=label)["segmentation"].min() == 0


def test_without_mask():
    image, _ = picture((40, 40))
    result = augmentation((32, 24))(image=image)
    assert set(result) == {"image"}
    assert result["image"].shape == (1, 32, 24)


def test_seeds_decide():
    first, again, other = (seeded(seed, (32, 32), (40, 40))["image"] for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_list_of_flat_volumes():
    """The plane alone is turned, scaled and lowered in resolution; blur, noise and mirroring know all axes."""
    found = augmentation((56, 160, 192)).transforms
    names = [type(getattr(each, "transform", each)).__name__ for each in found]
    slices = [type(getattr(each, "transform", each)).__name__ for each in augmentation((64, 48)).transforms]
    assert names == ["Convert3DTo2DTransform", "SpatialTransform", "Convert2DTo3DTransform", *slices[1:]]
    assert tuple(found[1].patch_size) == (160, 192)
    assert found[1].rotation == pytest.approx((-np.pi, np.pi))
    assert found[names.index("SimulateLowResolutionTransform")].transform.ignore_axes == (0,)
    assert found[names.index("MirrorTransform")].allowed_axes == (0, 1, 2)


def test_the_list_of_other_volumes():
    found = augmentation((64, 64, 80)).transforms
    names = [type(getattr(each, "transform", each)).__name__ for each in found]
    assert names[0] == "SpatialTransform"
    assert "Convert3DTo2DTransform" not in names
    assert tuple(found[0].patch_size) == (64, 64, 80)
    assert found[0].rotation == pytest.approx((-np.pi / 6, np.pi / 6))
    assert found[names.index("SimulateLowResolutionTransform")].transform.ignore_axes is None


def test_flat_volumes():
    # 192 / 56 = 3.43; slices are never flat.
    assert is_flat((56, 160, 192))
    assert not is_flat((64, 160, 192))
    assert not is_flat((20, 160))


@pytest.mark.parametrize(
    ("size", "larger"),
    [
        # As long along z as it is used; 192 / .85 = 225.9.
        ((56, 160, 192), (56, 225, 225)),
        ((64, 64, 64), (102, 102, 102)),
        # By 30 degrees: 40 cos + 56 sin = 62.6, 56 cos + 64 sin = 80.5, 64 cos + 40 sin = 75.4.
        ((40, 56, 64), (73, 94, 88)),
    ],
)
def test_larger_patch_of_volumes(size, larger):
    assert larger_patch(size) == larger


@pytest.mark.parametrize("size", [(8, 32, 28), (24, 32, 28)])
def test_volume_and_mask_move_together(size):
    turned = 0
    for seed in range(40):
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        extent = larger_patch(size)
        label = torch.zeros((1, *extent), dtype=torch.int16)
        label[:, : extent[0] // 2, extent[1] // 3 : 2 * extent[1] // 3, extent[2] // 3 : extent[2] // 2] = 1
        box = [slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(extent, size, strict=True)]
        centre = label[:, *box]
        result = augmentation(size)(image=torch.where(label == 1, 3.0, -0.5), segmentation=label.clone())
        image, moved = result["image"], result["segmentation"]
        assert image.shape == moved.shape == (1, *size)
        # Whatever was done to the grey values.
        assert np.corrcoef(image.flatten(), moved.flatten())[0, 1] > 0.7
        turned += not torch.equal(moved, centre)
    assert turned > 25
