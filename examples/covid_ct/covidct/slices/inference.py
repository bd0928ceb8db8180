"""From a picture of any size to lesion probabilities of the same size."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from covidct.ct.picture import SUFFIXES, check_shown, in_8_bits, read_pixels
from covidct.errors import InputError
from covidct.networks.inf_net_training import prediction
from covidct.run.precision import autocast_dtype
from covidct.run.prediction import device_of, evaluating, probabilities
from covidct.slices.sampling import normalise, resize_image, unit

# Which axes of (batch, channel, row, column) are mirrored in each of the passes of `flips`.
MIRRORINGS = ((), (2,), (3,), (2, 3))


# 16-bit pictures whose largest value is below this hold a scanner's 12-bit numbers, not a picture's grey values.
SMALLEST_DEEP_WHITE = 4096


def read_picture(path: Path) -> NDArray[np.float32]:
    """A picture as `predict_probability` takes it: (H, W), grey values 0..255, pixels as every viewer shows them.

    Colours become grey (ITU-R 601 luma). 16-bit grey is divided by 257, so that 65535 is white; one whose values
    all lie below 4096 is refused: it most likely holds raw scanner values, for which the lung window must be
    applied first. Raises InputError, naming the file, if it cannot be used.
    """
    if path.is_file() and path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path} is not a picture by its name; expected {', '.join(SUFFIXES)}")
    pixels = read_pixels(path)
    if pixels.dtype != np.uint16 or pixels.max() <= 255:
        image = in_8_bits(pixels, path)
        check_shown(image, path)
        return image
    if pixels.max() < SMALLEST_DEEP_WHITE:
        raise InputError(
            f"{path} is a 16-bit picture with values up to {pixels.max()} only, raw scanner values it seems; "
            "save it with the lung window, HU [-1250, 250] -> 0..255 (8 bits) or 0..65535 (16 bits)"
        )
    return pixels.astype(np.float32) / np.float32(257)


def predict_probability(
    model: nn.Module,
    image: NDArray[np.float32],
    *,
    size: tuple[int, int],
    resize: bool,
    flips: bool = False,
    precision: str = "32",
) -> NDArray[np.float32]:
    """Probability of lesion for every pixel of a slice.

    The slice is z-scored as in training. With `resize` the whole slice goes through the network at `size`
    and its probabilities are brought back bilinearly; without, a window of `size` slides over it, windows
    overlap by half and are blended with Gaussian weights, and a smaller slice is padded with its mean.

    Args:
        model: one output channel of logits; of a list (deep supervision) the first counts. It runs where its
            parameters are, in eval mode, and is given back in the mode it came in.
        image: (H, W), grey values 0..255, any H and W.
        size: (height, width) of the network's input.
        resize: as in the run's config.
        flips: mean of the probabilities over the four mirrorings of the slice (of each window).
        precision: "32", or "bf16" or "16" for autocast.

    Returns:
        (H, W), float32, in [0, 1]; NaN where the network's output is.
    """
    if image.ndim != 2 or image.size == 0:
        raise ValueError(f"image must be one slice (height, width), got shape {image.shape}")
    dtype = autocast_dtype(precision)
    device = next(model.parameters()).device

    def predictor(windows: Tensor) -> Tensor:
        return probabilities(model, windows, MIRRORINGS if flips else MIRRORINGS[:1], dtype)

    height, width = image.shape
    normalised = torch.from_numpy(normalise(image))[None, None].to(device)
    with evaluating(model), torch.inference_mode():
        if resize:
            probability = resize_image(predictor(resize_image(normalised, size)), (height, width))
        else:
            probability = _slide(normalised, size, predictor)
    # Bilinear weights and Gaussian blending may leave [0, 1] by a rounding error.
    return probability[0, 0].clamp(0, 1).cpu().numpy()


def predict_stretched(
    model: nn.Module, image: NDArray[np.float32], *, size: tuple[int, int], precision: str = "32"
) -> NDArray[np.float32]:
    """Inf-Net's probabilities for every pixel of a slice, stretched to 0 to 1 in it.

    The slice in 0 to 1 is resized to `size`, the logits are brought back; see `inf_net_training.prediction`.
    `model`, `image`, `precision` and what is returned as for `predict_probability`.
    """
    dtype, device = autocast_dtype(precision), device_of(model)
    whole = torch.from_numpy(unit(image))[None, None].to(device)
    with evaluating(model), torch.inference_mode():
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            logits = model(resize_image(whole, size))
        return prediction(logits.float(), (image.shape[0], image.shape[1]))[0, 0].cpu().numpy()


def _slide(image: Tensor, size: tuple[int, int], predictor: Callable[[Tensor], Tensor]) -> Tensor:
    # Here and not above: MONAI takes seconds to import, and presets that resize never need it.
    from monai.inferers.utils import sliding_window_inference

    found = sliding_window_inference(image, size, sw_batch_size=1, predictor=predictor, overlap=0.5, mode="gaussian")
    # Of a predictor that gives one tensor; of several MONAI gives several.
    return cast(Tensor, found)
