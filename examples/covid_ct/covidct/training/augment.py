"""nnU-Net's training augmentation for slices and volumes, from batchgeneratorsv2's transforms."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTransform

from covidct.ct.labels import OUTSIDE

# Patches of volumes whose voxels are about so much longer along z are turned in their plane alone.
DUMMY_2D = 3.0


Kind = Literal["nnunet", "flips", "none"]


def augmentation(size: Sequence[int], kind: Kind = "nnunet") -> ComposeTransforms | None:
    """nnU-Net's training augmentation, its mirroring alone ("flips"), or None; `size` as for `nnunet_augmentation`."""
    if kind == "nnunet":
        return nnunet_augmentation(size)
    return ComposeTransforms([MirrorTransform(tuple(range(len(size))))]) if kind == "flips" else None


def nnunet_augmentation(size: Sequence[int]) -> ComposeTransforms:
    """nnU-Net's training augmentation; the result is the centre of the input, of `size`, (H, W) or (D, H, W).

    Call it with `image=` (1, *extent) float32, normalised, and `segmentation=` (1, *extent) int16 with `OUTSIDE` where
    there is no image (or without it), where extent is `larger_patch(size)`; it gives a dict of the same keys with
    (1, *size) and labels 0 and 1. It may change its arguments in place. Probabilities and ranges in order: rotation .2
    and scale .7 to 1.4 .2, Gaussian noise .1, blur .2 x .5, brightness .15, contrast .15, lower resolution .25 x .5,
    inverted gamma .1, gamma .3, mirroring of each axis .5. Randomness comes from the global generators of NumPy and
    torch. Flat patches (`is_flat`) are turned, scaled and lowered in resolution in their plane alone ("dummy 2D").

    Source: nnU-Net (Isensee et al., Nature Methods 18, 2021). As in its second version the resampling is bilinear
    where the first took cubic splines.
    """
    flat = is_flat(size)
    spatial = _spatial(size[1:] if flat else size, rotation_range(size))
    return ComposeTransforms(
        [
            *([Convert3DTo2DTransform(), spatial, Convert2DTo3DTransform()] if flat else [spatial]),
            *_intensities(ignore_axes=(0,) if flat else None),
            MirrorTransform(tuple(range(len(size)))),
            RemoveLabelTransform(OUTSIDE, 0),
        ]
    )


def is_flat(size: Sequence[int]) -> bool:
    """Whether patches of `size` are volumes more than three times longer in the plane than along z."""
    return len(size) == 3 and max(size) / size[0] > DUMMY_2D


def rotation_range(size: Sequence[int]) -> tuple[float, float]:
    """The angles in radians that patches of `size` are rotated by.

    Slices: +-180 degrees, +-15 for elongated ones. Volumes: +-30 degrees about each axis; flat ones +-180 in the plane.
    """
    if len(size) == 3:
        limit = np.deg2rad(180 if is_flat(size) else 30)
    else:
        limit = np.deg2rad(15 if max(size) / min(size) > 1.5 else 180)
    return -float(limit), float(limit)


def larger_patch(size: Sequence[int]) -> tuple[int, ...]:
    """What to cut from an image so that its rotated and scaled centre of `size` has no empty corners.

    nnU-Net's rule: the box that holds the patch turned by up to 90 degrees in any plane, over .85. (Scales up to 1.4
    still reach beyond it, as they do there.) A flat patch is as long along z as it is used.
    """
    angle = min(rotation_range(size)[1], np.pi / 2)
    needed = [float(length) for length in size]
    for one, other in ((0, 1),) if len(size) == 2 else ((1, 2), (2, 0), (0, 1)):
        along, across = size[one], size[other]
        needed[one] = max(needed[one], abs(along * np.cos(angle) + across * np.sin(angle)))
        needed[other] = max(needed[other], abs(-along * np.sin(angle) + across * np.cos(angle)))
    larger = [int(length / 0.85) for length in needed]
    return (size[0], *larger[1:]) if is_flat(size) else tuple(larger)


def _spatial(size: Sequence[int], rotation: tuple[float, float]) -> BasicTransform:
    return SpatialTransform(
        tuple(size),
        patch_center_dist_from_border=0,
        random_crop=False,
        p_elastic_deform=0,
        p_rotation=0.2,
        rotation=rotation,
        p_scaling=0.2,
        scaling=(0.7, 1.4),
        p_synchronize_scaling_across_axes=1,
        border_mode_seg="constant",
        padding_value_seg=OUTSIDE,
    )


def _intensities(ignore_axes: tuple[int, ...] | None) -> list[BasicTransform]:
    noise = GaussianNoiseTransform(noise_variance=(0, 0.1), p_per_channel=1, synchronize_channels=True)
    # nnU-Net's benchmark=True chooses between two convolutions by the clock: not reproducible.
    blur = GaussianBlurTransform(blur_sigma=(0.5, 1.0), p_per_channel=0.5, benchmark=False)
    brightness = MultiplicativeBrightnessTransform(BGContrast((0.75, 1.25)), synchronize_channels=False)
    contrast = ContrastTransform(BGContrast((0.75, 1.25)), preserve_range=True, synchronize_channels=False)
    low_resolution = SimulateLowResolutionTransform(
        scale=(0.5, 1), synchronize_channels=False, synchronize_axes=True, ignore_axes=ignore_axes, p_per_channel=0.5
    )
    chances = [
        (noise, 0.1),
        (blur, 0.2),
        (brightness, 0.15),
        (contrast, 0.15),
        (low_resolution, 0.25),
        (_gamma(inverted=True), 0.1),
        (_gamma(inverted=False), 0.3),
    ]
    return [RandomTransform(transform, apply_probability=chance) for transform, chance in chances]


def _gamma(*, inverted: bool) -> BasicTransform:
    return GammaTransform(
        gamma=BGContrast((0.7, 1.5)),
        p_invert_image=float(inverted),
        synchronize_channels=False,
        p_per_channel=1,
        p_retain_stats=1,
    )
