"""Estimators that more than one project uses."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def two_batch(small_square: ArrayLike, big_square: ArrayLike, small: float, big: float) -> tuple[Array, Array]:
    """|G|^2 and tr(Sigma) from the squared norms of gradients over `small` and over `big` examples, unbiased.

    McCandlish et al. 2018, appendix A.1: E|G_B|^2 = |G|^2 + tr(Sigma) / B. ValueError where `small` is not below `big`.
    """
    if not 0 < small < big:
        raise ValueError(f"two batch sizes are needed, the smaller one first, not {small} and {big}")
    s, b = np.asarray(small_square, float), np.asarray(big_square, float)
    return (big * b - small * s) / (big - small), (s - b) / (1 / small - 1 / big)
