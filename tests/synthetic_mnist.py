"""Small files in MNIST's real format, with digits that a tiny net can learn: a bright bar whose place is the label."""

from pathlib import Path

import numpy as np


def bars(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 28, 28) and labels (n,): label k lights rows 2k + 4 and 2k + 5 on a noisy ground."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 10).astype(np.uint8)
    images = rng.integers(0, 40, (n, 28, 28), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label + 4 : 2 * label + 6, 6:22] = 255
    return images, labels


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(header + array.tobytes())


def write_mnist(root: Path, n_train: int = 1200, n_test: int = 300) -> Path:
    """`<root>/MNIST/raw` as torchvision lays it out; returns `root`."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part, n, seed in (("train", n_train, 0), ("t10k", n_test, 1)):
        images, labels = bars(n, seed)
        write_idx(folder / f"{part}-images-idx3-ubyte", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte", labels)
    return root
