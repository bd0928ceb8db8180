"""Grids, smooth random fields and scanner noise for the phantom."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Grid:
    """Pixel centres of one axial slice in mm: `x` (H,) to the patient's left, `y` (W,) to the back, `z` to the feet.

    `spacing` is the size of a pixel and `thickness` that of the slice, both in mm.
    """

    x: Array
    y: Array
    z: float
    spacing: float
    thickness: float

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.x), len(self.y)


class Field:
    """A smooth random function of (x, y, z) in mm: mean about 0, standard deviation about 1.

    Cubic B-splines over a lattice of normal numbers with nodes `wavelength` / 2 apart, so that the same field can be
    read on any grid and at any level, and neighbouring slices agree.
    """

    def __init__(self, rng: np.random.Generator, wavelength: float, extent: float = 240.0):
        self._step = wavelength / 2
        nodes = int(2 * extent / self._step) + 5
        self._origin = -extent - 2 * self._step
        # Slices of one case lie close together: the lattice repeats along z.
        self._lattice = rng.standard_normal((8, nodes, nodes), dtype=np.float32)

    def __call__(self, grid: Grid) -> Array:
        """The field on `grid`: (H, W)."""
        levels = self._lattice.shape[0]
        place = grid.z / self._step
        first = int(np.floor(place))
        taps = _cubic_spline(np.asarray(place - first))
        plane = sum(w * self._lattice[(first + k) % levels] for k, w in enumerate(taps))
        # 3 axes of B-spline smoothing keep 0.48 of the variance each (mean of the summed squared weights).
        result = self._weights(grid.x) @ plane @ self._weights(grid.y).T
        return np.asarray(result / 0.48**1.5, dtype=np.float32)

    def _weights(self, positions: Array) -> Array:
        nodes = self._lattice.shape[1]
        place = np.clip((positions - self._origin) / self._step, 0, nodes - 4.001)
        first = np.floor(place).astype(int)
        weights = np.zeros((len(positions), nodes), np.float32)
        for k, tap in enumerate(_cubic_spline(place - first)):
            weights[np.arange(len(positions)), first + k] = tap
        return weights


def _cubic_spline(t: NDArray[np.floating]) -> list[NDArray[np.floating]]:
    return [(1 - t) ** 3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6, t**3 / 6]


@dataclass(frozen=True)
class Scanner:
    """How a scan looks: noise and streaks (standard deviation, HU), point spread and grain of the noise (mm)."""

    noise: float
    blur: float
    grain: float
    sharpening: float
    streaks: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Scanner":
        """From soft, quiet reconstructions to sharp, noisy ones."""
        sharpness = rng.beta(1.2, 1.6)
        return cls(
            noise=float(rng.uniform(10, 26) + 90 * sharpness**2 * rng.random()),
            blur=float(1.3 - 0.75 * sharpness),
            grain=float(2.6 - 1.5 * sharpness),
            sharpening=float(0.2 + 0.9 * sharpness),
            streaks=float(rng.choice([0.0, rng.uniform(2, 10)])),
        )

    def scan(self, rng: np.random.Generator, hu: Array, grid: Grid) -> Array:
        """Blur, sharpen as reconstruction kernels do, and add noise: (H, W) HU."""
        return np.asarray(self.reconstruct(hu, grid) + self.noise_of(rng, grid), dtype=np.float32)

    def reconstruct(self, hu: Array, grid: Grid) -> Array:
        """Blur and sharpen as reconstruction kernels do: (H, W) HU."""
        sigma = self.blur / grid.spacing / 2
        blurred = ndimage.gaussian_filter(hu, sigma)
        return np.asarray(blurred + self.sharpening * (blurred - ndimage.gaussian_filter(blurred, 1.6 * sigma)))

    def noise_of(self, rng: np.random.Generator, grid: Grid) -> Array:
        """Noise and streaks of one slice: (H, W) HU."""
        height, width = grid.shape
        spectrum = np.fft.rfft2(rng.standard_normal((height, width), dtype=np.float32))
        u = np.fft.fftfreq(height, grid.spacing)[:, None]
        v = np.fft.rfftfreq(width, grid.spacing)[None, :]
        frequency = np.hypot(u, v)
        # The ramp of filtered back-projection, rolled off by the kernel: noise that is grainy, not white.
        gain = frequency * np.exp(-((frequency * self.grain) ** 2))
        noise = np.fft.irfft2(spectrum * gain, s=(height, width))
        noise *= self.noise / noise.std()
        if self.streaks:
            # Photon starvation runs from shoulder to shoulder, along x.
            lines = np.fft.irfft2(spectrum * np.exp(-((60 * u) ** 2) - (v / 0.16) ** 2), s=noise.shape)
            noise += self.streaks * lines / lines.std()
        return np.asarray(noise, dtype=np.float32)
