"""nnU-Net's training augmentation for 2D slices, from batchgeneratorsv2's transforms."""

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
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTransform

# What lies outside of the slice: label -1 until the last transform, as nnU-Net pads, so that a rotated lesion at the
# border is not averaged with background that nobody has seen.
OUTSIDE = -1


def augmentation(size: tuple[int, int]) -> ComposeTransforms:
    """nnU-Net's 2D training augmentation; the result is the centre of the input, of `size`.

    Call it with `image=` (1, H, W) float32, z-scored, and `segmentation=` (1, H, W) int16 with `OUTSIDE` where there is
    no slice (or without it); it gives a dict of the same keys with (1, *size) and labels 0 and 1. It may change its
    arguments in place. Probabilities and ranges in order: rotation .2 and scale .7 to 1.4 .2, Gaussian noise .1, blur
    .2 x .5, brightness .15, contrast .15, lower resolution .25 x .5, inverted gamma .1, gamma .3, mirroring of each
    axis .5. Randomness comes from the global generators of NumPy and torch.

    Source: nnU-Net (Isensee et al., Nature Methods 18, 2021). As in its second version the resampling is bilinear
    where the first took cubic splines.
    """
    return ComposeTransforms(
        [_spatial(size), *_intensities(), MirrorTransform((0, 1)), RemoveLabelTransform(OUTSIDE, 0)]
    )


def rotation_range(size: tuple[int, int]) -> tuple[float, float]:
    """The angles in radians that patches of `size` are rotated by: +-180 degrees, +-15 for elongated ones."""
    limit = np.deg2rad(15 if max(size) / min(size) > 1.5 else 180)
    return -float(limit), float(limit)


def larger_patch(size: tuple[int, int]) -> tuple[int, int]:
    """The (height, width) to cut from a slice so that its rotated and scaled centre of `size` has no empty corners.

    nnU-Net's rule: the box that holds the patch turned by up to 90 degrees, over .85. (Scales up to 1.4 still reach
    beyond it, as they do there.)
    """
    angle = min(rotation_range(size)[1], np.pi / 2)
    height, width = size
    turned = (
        abs(height * np.cos(angle) + width * np.sin(angle)),
        abs(-height * np.sin(angle) + width * np.cos(angle)),
    )
    return int(max(turned[0], height) / 0.85), int(max(turned[1], width) / 0.85)


def _spatial(size: tuple[int, int]) -> BasicTransform:
    return SpatialTransform(
        size,
        patch_center_dist_from_border=0,
        random_crop=False,
        p_elastic_deform=0,
        p_rotation=0.2,
        rotation=rotation_range(size),
        p_scaling=0.2,
        scaling=(0.7, 1.4),
        p_synchronize_scaling_across_axes=1,
        border_mode_seg="constant",
        padding_value_seg=OUTSIDE,
    )


def _intensities() -> list[BasicTransform]:
    noise = GaussianNoiseTransform(noise_variance=(0, 0.1), p_per_channel=1, synchronize_channels=True)
    # nnU-Net's benchmark=True chooses between two convolutions by the clock: not reproducible.
    blur = GaussianBlurTransform(blur_sigma=(0.5, 1.0), p_per_channel=0.5, benchmark=False)
    brightness = MultiplicativeBrightnessTransform(BGContrast((0.75, 1.25)), synchronize_channels=False)
    contrast = ContrastTransform(BGContrast((0.75, 1.25)), preserve_range=True, synchronize_channels=False)
    low_resolution = SimulateLowResolutionTransform(
        scale=(0.5, 1), synchronize_channels=False, synchronize_axes=True, ignore_axes=None, p_per_channel=0.5
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
