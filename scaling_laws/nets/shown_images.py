"""Which images K nets side by side are shown, and when: of the sweep, and of the arms that repeat images or copies."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nets.digits import CHUNK, images_per_copy, open_digits, training_order, transform
from nets.learning_rate import Variant
from nets.net_training import Order, side_by_side

TEST_SEED = 900_000  # of the transformed test images: no training copy's


class Shown(NamedTuple):
    """Arrays of images, each (n, 28, 28), the labels (n,) that all of them have, and the order for K nets.

    `n_unique` different digits, in `n_copies` versions of each.
    """

    copies: list[np.ndarray]
    labels: np.ndarray
    order: Order
    n_unique: int
    n_copies: int


def shown_images(folder: str, n_samples: int, variant: Variant, generators: Sequence[torch.Generator]) -> Shown:
    """What nets with these generators see of the prepared `folder` in one run of `n_samples`."""
    size = images_per_copy(folder)
    if variant.shown == "once":
        n_copies = -(-n_samples // size)
        digits = open_digits(folder, n_copies)
        order = side_by_side([training_order(n_samples, size, generator) for generator in generators])
        return Shown(digits.copies, digits.labels, order, min(n_samples, size), n_copies)
    if n_samples % variant.passes:
        raise ValueError("n_samples must be a multiple of the passes")
    unique = n_samples // variant.passes
    pool, labels = (np.load(f"{folder}/pool_{name}.npy", mmap_mode="r") for name in ("images", "labels"))
    chosen = [torch.randperm(size, generator=generator)[:unique] for generator in generators]
    orders = [_passes(unique, variant.passes, generator) for generator in generators]
    if variant.shown == "raw":
        raw = [(torch.zeros_like(copy), rows[image]) for rows, (copy, image) in zip(chosen, orders, strict=True)]
        return Shown([pool], labels, side_by_side(raw), unique, 1)
    # The nets' images stand one after the other in each copy, so that one index says net and image.
    images = [torch.from_numpy(pool[rows.numpy()]) for rows in chosen]
    copies = [
        np.concatenate(
            [transformed(own, variant.strength, g).numpy() for own, g in zip(images, generators, strict=True)]
        )
        for _ in range(variant.passes)
    ]
    moved = [(copy, image + k * unique) for k, (copy, image) in enumerate(orders)]
    return Shown(copies, np.asarray(labels)[torch.cat(chosen).numpy()], side_by_side(moved), unique, variant.passes)


def _passes(unique: int, passes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Copy and image indices (unique x passes,): every pass shows all images, in an order of its own."""
    image = torch.cat([torch.randperm(unique, generator=generator) for _ in range(passes)])
    return torch.arange(passes).repeat_interleave(unique), image


def transformed(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """One transformed version of each image (n, 28, 28)."""
    return torch.cat([transform(chunk, generator, strength) for chunk in images.split(CHUNK)])


@lru_cache(maxsize=1)
def transformed_test(folder: str) -> np.ndarray:
    """All test images, each transformed once, as strongly as the sweep's copies, by a draw that never changes."""
    images = torch.from_numpy(np.load(f"{folder}/test_images.npy"))
    return transformed(images, 1.0, torch.Generator().manual_seed(TEST_SEED)).numpy()
