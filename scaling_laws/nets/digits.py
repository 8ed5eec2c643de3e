"""The training data: transformed copies of the digits, made once and shared by all worker processes.

Copy k holds every training image once, each rotated, scaled, shifted and elastically distorted in both axes (Simard
et al. 2003) by a draw that k and the image's place fix. The four transformations are composed into one sampling grid,
so that an image is interpolated once. Every training image is a transformed one, at every data size; clean images are
for testing only.
"""

import hashlib
import io
import math
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.data import Mnist, cache_root
from common.files import atomic_save, remove_stale_temporaries, write_text

ROTATION_DEGREES = 15.0
SCALE = 0.1
SHIFT_PIXELS = 2.0
ELASTIC_PIXELS = 1.0  # standard deviation of the displacement, in each axis
ELASTIC_SIGMA = 4.0  # correlation length of the displacement field, in pixels
SIDE = 28
CHUNK = 500  # images transformed at a time: the best fit to the caches of a core
COPY_SEED = 1000


# ---------------------------------------------------------------- augmentation


def smooth_basis(side: int = SIDE, sigma: float = ELASTIC_SIGMA) -> Tensor:
    """K (side, m): K Z K^T with Z (m, m) standard normal is a smooth field of variance exactly 1 at every pixel.

    The rows are Gaussian bumps of width sigma / sqrt(2) around the pixel, sampled at nodes sigma / 1.5 apart, each of
    Euclidean norm 1; the field's correlation falls off as exp(-d^2 / (2 sigma^2)), as that of white noise blurred by
    a Gaussian of sigma / sqrt(2) does.
    """
    nodes = torch.arange(-sigma, side + sigma, sigma / 1.5)
    pixels = torch.arange(side, dtype=torch.float32)
    bumps = torch.exp(-((pixels[:, None] - nodes[None, :]) ** 2) / sigma**2)
    return bumps / bumps.norm(dim=1, keepdim=True)


def sampling_grid(n: int, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Grids (n, 28, 28, 2) for `grid_sample`: a random affine map plus a smooth displacement in x and in y.

    `strength` multiplies the range of every part.
    """
    angle, scale, dx, dy = ((2 * torch.rand(n, 4, generator=generator) - 1) * strength).unbind(1)
    angle, scale = angle * math.radians(ROTATION_DEGREES), 1 + SCALE * scale
    pixel = 2 / SIDE  # grid_sample's coordinates run from -1 to 1
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    row_x = torch.stack([cos, -sin, dx * SHIFT_PIXELS * pixel], 1)
    row_y = torch.stack([sin, cos, dy * SHIFT_PIXELS * pixel], 1)
    grid = F.affine_grid(torch.stack([row_x, row_y], 1), [n, 1, SIDE, SIDE], align_corners=False)
    basis = smooth_basis()
    noise = torch.randn(2 * n, basis.shape[1], basis.shape[1], generator=generator)
    field = (basis @ noise @ basis.T).view(n, 2, SIDE, SIDE)  # (n, xy, rows, columns), in standard deviations
    return grid + field.permute(0, 2, 3, 1) * (strength * ELASTIC_PIXELS * pixel)


def transform(images: Tensor, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Transformed uint8 images (n, 28, 28) from uint8 images (n, 28, 28); what comes from outside is black."""
    grid = sampling_grid(len(images), generator, strength)
    moved = F.grid_sample(images[:, None].float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return moved[:, 0].round_().to(torch.uint8)


def transformed_copy(images: Tensor, k: int) -> Tensor:
    """Copy k of all training images (n, 28, 28) -> (n, 28, 28): the same on every machine of one kind."""
    generator = torch.Generator().manual_seed(COPY_SEED + k)
    return torch.cat([transform(chunk, generator) for chunk in images.split(CHUNK)])


# ---------------------------------------------------------------- the shared folder of copies


@dataclass(frozen=True)
class Digits:
    """Memory-mapped arrays of one data set: `copies`, each (n, 28, 28), their `labels` (n,), tuning and test sets."""

    copies: list[np.ndarray]
    labels: np.ndarray
    tune_images: np.ndarray
    tune_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def prepare(mnist: Mnist) -> Path:
    """Write the split arrays into a folder of the cache named after their content and this file; return the folder.

    Damaged ones are written again. Worker processes map these files, so that they share one copy of the data in memory.
    """
    digest = hashlib.sha256(Path(__file__).read_bytes())
    names = ("pool_images", "pool_labels", "tune_images", "tune_labels", "test_images", "test_labels")
    for name in names:
        digest.update(np.ascontiguousarray(getattr(mnist, name)).tobytes())
    folder = cache_root() / f"{mnist.name}-{digest.hexdigest()[:12]}"
    remove_stale_temporaries(folder)
    for name in names:
        path = folder / f"{name}.npy"
        if not is_whole(path):
            save_array(path, getattr(mnist, name))
    return folder


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an .npy file in one step, then its checksum beside it."""
    memory = io.BytesIO()  # numpy hides what the system says of a failed write
    np.save(memory, array)
    checksum_file(path).unlink(missing_ok=True)
    atomic_save(path, lambda file: file.write(memory.getbuffer()))
    write_text(checksum_file(path), f"{zlib.crc32(memory.getbuffer()):08x}")


def checksum_file(path: Path) -> Path:
    """Where the checksum of an array's file is kept."""
    return path.with_name(f"{path.name}.crc32")


def is_whole(path: Path) -> bool:
    """Whether an array's file is there with every bit that was written: a sweep lives on it, and so do all later ones."""
    try:
        return zlib.crc32(path.read_bytes()) == int(checksum_file(path).read_text(), 16)
    except (FileNotFoundError, ValueError):
        return False


def copy_file(folder: str | Path, k: int) -> Path:
    """Where copy k of a prepared folder is, or will be."""
    return Path(folder) / f"copy_{k:03d}.npy"


def make_copy(folder: str, k: int) -> dict[str, int]:
    """Make copy k in `folder` if it is not there, whole: a worker's job."""
    path = copy_file(folder, k)
    if not is_whole(path):
        images = torch.from_numpy(np.load(Path(folder) / "pool_images.npy"))
        save_array(path, transformed_copy(images, k).numpy())
    return {"copy": k}


def images_per_copy(folder: str | Path) -> int:
    """How many images a copy of a prepared folder has: as many as there are to train on."""
    return len(np.load(Path(folder) / "pool_labels.npy", mmap_mode="r"))


@lru_cache(maxsize=2)
def open_digits(folder: str, n_copies: int) -> Digits:
    """Map the arrays and the first `n_copies` copies of a prepared folder."""

    def open_array(name: str) -> np.ndarray:
        return np.load(Path(folder) / f"{name}.npy", mmap_mode="r")

    copies = [np.load(copy_file(folder, k), mmap_mode="r") for k in range(n_copies)]
    rest = ("pool_labels", "tune_images", "tune_labels", "test_images", "test_labels")
    return Digits(copies, *(open_array(name) for name in rest))


# ---------------------------------------------------------------- which images a run sees


def training_order(n_samples: int, copy_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Copy and image indices (n_samples,) of one pass: whole copies, then a random part of the next, all shuffled."""
    whole, part = divmod(n_samples, copy_size)
    image = torch.cat([torch.arange(copy_size)] * whole + [torch.randperm(copy_size, generator=generator)[:part]])
    copy = torch.arange(whole + 1).repeat_interleave(torch.tensor([copy_size] * whole + [part]))
    shuffle = torch.randperm(n_samples, generator=generator)
    return copy[shuffle], image[shuffle]


def gather(copies: list[np.ndarray], copy: Tensor, image: Tensor) -> Tensor:
    """The uint8 images (..., 28, 28) that copy and image indices of any one shape (...) name."""
    copy_index, image_index = copy.reshape(-1).numpy(), image.reshape(-1).numpy()
    found = np.empty((len(image_index), SIDE, SIDE), dtype=np.uint8)
    for k in np.unique(copy_index):
        rows = np.flatnonzero(copy_index == k)
        found[rows] = copies[k][image_index[rows]]
    return torch.from_numpy(found).unflatten(0, copy.shape)


def normalise(images: Tensor) -> Tensor:
    """uint8 -> float32 with mean 0 and deviation 1 over MNIST's training pixels (33.3 and 78.6 as they are)."""
    return images.float().sub_(33.3).div_(78.6)
