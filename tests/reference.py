"""The paper's formulas as slow loops in float64, written from its section III alone.

Nothing here is vectorised and nothing comes from relcons: a mistake in one is no mistake in the other.
Features are numpy arrays (B, C, *spatial).
"""

import itertools
import math

import numpy as np

Matrix = list[list[float]]


def mean_representation(features: np.ndarray) -> Matrix:
    """A, (C, N): "we average the features within each batch", then "reshape the feature maps"."""
    batch, channels = features.shape[:2]
    flat = np.asarray(features, dtype=np.float64).reshape(batch, channels, -1)
    positions = flat.shape[2]
    mean = [[0.0] * positions for _ in range(channels)]
    for c in range(channels):
        for p in range(positions):
            total = 0.0
            for b in range(batch):
                total += float(flat[b, c, p])
            mean[c][p] = total / batch
    return mean


def gram(features: np.ndarray, center: bool = False) -> Matrix:
    """G = A A^T (Eq. 1): "the inner product between the vectorized activation maps"; of their deviations if centred."""
    a = mean_representation(features)
    if center:
        a = [[value - sum(row) / len(row) for value in row] for row in a]
    channels = len(a)
    g = [[0.0] * channels for _ in range(channels)]
    for m in range(channels):
        for n in range(channels):
            for x, y in zip(a[m], a[n], strict=True):
                g[m][n] += x * y
    return g


def relation(features: np.ndarray, eps: float = 0.0, center: bool = False) -> Matrix:
    """R (Eq. 2): row m of G divided by its L2 norm; 0 where that norm is at most eps times the largest."""
    return unit_rows(gram(features, center), eps)


def unit_rows(g: Matrix, eps: float = 0.0) -> Matrix:
    """Every row divided by its L2 norm; 0 where that norm is at most eps times the largest."""
    norms = [math.sqrt(sum(value * value for value in row)) for row in g]
    floor = eps * max(norms)
    return [
        [value / norm for value in row] if norm > floor else [0.0] * len(row)
        for row, norm in zip(g, norms, strict=True)
    ]


def distance(a: Matrix, b: Matrix, reduction: str = "sum") -> float:
    """||a - b||^2 as printed ("sum"), per row ("row_mean") or per entry ("mean")."""
    total = 0.0
    for row_a, row_b in zip(a, b, strict=True):
        for x, y in zip(row_a, row_b, strict=True):
            total += (x - y) ** 2
    channels = len(a)
    return total / {"sum": 1, "row_mean": channels, "mean": channels * channels}[reduction]


def general_consistency(source: np.ndarray, general: np.ndarray, reduction: str = "sum") -> float:
    """Eq. 4 without lambda_G: ||R_G(X^n) - R_G(X^c)||^2."""
    return distance(relation(source), relation(general), reduction)


def target_consistency(general: np.ndarray, target: np.ndarray, reduction: str = "sum") -> float:
    """Eq. 5 without lambda_T: -||R_G(X^c) - R_T(X^c)||^2."""
    return -distance(relation(general), relation(target), reduction)


def samples(features: np.ndarray, eps: float = 0.0) -> Matrix:
    """Relation of samples (Liu et al. 2020): inner products of flattened samples, each row over its L2 norm."""
    flat = [np.asarray(sample, dtype=np.float64).reshape(-1).tolist() for sample in features]
    return unit_rows([[sum(x * y for x, y in zip(p, q, strict=True)) for q in flat] for p in flat], eps)


def src_mt(a: np.ndarray, b: np.ndarray) -> float:
    """Loss of SRC-MT: 1/B times the sum over samples of the squared distance of their rows."""
    total = 0.0
    for row_a, row_b in zip(samples(a), samples(b), strict=True):
        total += sum((x - y) ** 2 for x, y in zip(row_a, row_b, strict=True))
    return total / len(a)


def windows(positions: int, size: int) -> list[range]:
    """Windows of adaptive pooling along an axis."""
    return [range(p * positions // size, math.ceil((p + 1) * positions / size)) for p in range(size)]


def pooled(sample: np.ndarray, sizes: tuple[int, ...]) -> list[list[float]]:
    """One sample (C, *spatial) as P feature vectors, each the mean over a window."""
    vectors = []
    axes = [windows(n, size) for n, size in zip(sample.shape[1:], sizes, strict=True)]
    for window in itertools.product(*axes):
        members = list(itertools.product(*window))
        vectors.append([sum(float(channel[m]) for m in members) / len(members) for channel in sample])
    return vectors


def positions(sample: np.ndarray, sizes: tuple[int, ...]) -> Matrix:
    """Cosine similarity of all pairs of pooled positions (Liu et al. 2019)."""
    vectors = pooled(sample, sizes)
    norms = [math.sqrt(sum(x * x for x in vector)) for vector in vectors]
    return [
        [
            sum(x * y for x, y in zip(p, q, strict=True)) / (norm_p * norm_q)
            for q, norm_q in zip(vectors, norms, strict=True)
        ]
        for p, norm_p in zip(vectors, norms, strict=True)
    ]


def pairwise(a: np.ndarray, b: np.ndarray, sizes: tuple[int, ...]) -> float:
    """Pair-wise distillation (Liu et al. 2019): 1/P^2 times the summed squared differences, averaged over samples."""
    total = 0.0
    for sample_a, sample_b in zip(a, b, strict=True):
        for row_a, row_b in zip(positions(sample_a, sizes), positions(sample_b, sizes), strict=True):
            total += sum((x - y) ** 2 for x, y in zip(row_a, row_b, strict=True)) / len(row_a) ** 2
    return total / len(a)


def per_sample(features: np.ndarray) -> list[np.ndarray]:
    """The batch as one-sample batches (what batch="none" means)."""
    return [features[b : b + 1] for b in range(features.shape[0])]


def gaussian_ramp_up(step: float, total: float, peak: float = 0.1, power: float = 1.0, rate: float = 5.0) -> float:
    """lambda(t) = 0.1 exp(-5 (1 - T/Tmax)) with power 1; Laine and Aila's has power 2."""
    if step >= total:
        return peak
    return peak * math.exp(-rate * (1.0 - max(step, 0.0) / total) ** power)


def slopes(function: object, array: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """The gradient of a loss of one array by central differences."""
    gradient = np.zeros(array.size)
    for i in range(array.size):
        values = []
        for sign in (1.0, -1.0):
            moved = np.array(array, dtype=np.float64)
            moved.reshape(-1)[i] += sign * step
            values.append(function(moved))  # type: ignore[operator]
        gradient[i] = (values[0] - values[1]) / (2 * step)
    return gradient.reshape(array.shape)
