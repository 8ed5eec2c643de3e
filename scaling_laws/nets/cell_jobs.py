"""What the worker processes of a sweep do: train and test the seeds of one cell, and measure how fast that goes.

All that fixes the numbers of a run is in this room: the name of a sweep's folder depends on the text of its files.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.device import configure_cpu, keep_freed_memory
from common.files import finite
from nets.convnet import ConvNet
from nets.digits import open_digits, training_order
from nets.flop_count import macs_per_image, n_params, training_flops
from nets.learning_rate import USUAL, Variant
from nets.net_training import evaluate, side_by_side, train
from nets.shown_images import shown_images, transformed_test


def start_worker(threads: int) -> None:
    """What a worker process does once, before its first run."""
    configure_cpu(threads)
    keep_freed_memory()


def seeds_together(width: int, batch: int, device: str) -> bool:
    """Whether the seeds of a cell train side by side in one `ConvNet`.

    On an accelerator always: a step there costs its launches. On a CPU while a step's activations of all seeds fit into
    a core's cache; three together then take 0.4 (small batches) to 0.9 of the time of three alone.
    """
    return device != "cpu" or width * batch <= 768


def run_generator(*key: int) -> torch.Generator:
    """Random numbers of a run's weights, order and subset: neither two seeds nor two cells of one seed share any."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))


def train_cell(
    folder: str,
    arm: str,
    width: int,
    n_samples: int,
    seeds: Sequence[int],
    lr: float,
    batch: int,
    dropout: float,
    split: str,
    device: str,
    checkpoint: str,
    variant: Variant = USUAL,
) -> dict[str, Any]:
    """Train and test one net per seed, side by side; return {"rows": their rows of runs.csv, or of arms.csv}.

    Each seed has its own weights, order and subset. `folder` is a prepared folder of digits with its copies, `split`
    names the evaluation set (test, or tune where hyper-parameters are chosen), `checkpoint` the file in which a run of
    more than 30 s saves its state: started again, it goes on from there to the same numbers. A net that is tested on its
    way too has a row for each test.
    """
    generators = [run_generator(width, n_samples, seed) for seed in seeds]
    torch.manual_seed(seeds[0])  # dropout draws from the global generator
    net = ConvNet(width, len(seeds), dropout)
    net.init_weights(generators)
    net.place(torch.device(device))
    shown = shown_images(folder, n_samples, variant, generators)
    digits = open_digits(folder, 0)
    held_out = {"tune": (digits.tune_images, digits.tune_labels), "test": (digits.test_images, digits.test_labels)}

    def test() -> Tensor:
        return torch.tensor(evaluate(net, *held_out[split]))

    done = train(net, shown.copies, shown.labels, shown.order, lr, batch, Path(checkpoint), variant, test)
    tests: dict[int, Any] = {n: tested.tolist() for n, tested in zip(variant.tested_after, done.tested, strict=False)}
    none = [[math.nan] * len(seeds)] * 2  # of a run that diverged before
    tests = {n: tests.get(n, none) for n in variant.tested_after}
    tests[n_samples] = evaluate(net, *held_out[split])
    moved = evaluate(net, transformed_test(folder), digits.test_labels) if variant.tested_transformed else None
    rows = []
    for n, (losses, accuracies) in tests.items():
        for k, (seed, loss, accuracy, train_loss) in enumerate(
            zip(seeds, losses, accuracies, done.late_losses, strict=True)
        ):
            row = {
                "arm": arm,
                "status": "ok" if math.isfinite(loss) else "diverged",
                **_size(width, n),
                "n_unique": min(n, shown.n_unique),
                "copies": shown.n_copies,
                "batch_size": batch,
                "steps": -(-n // batch),
                "lr": lr,
                "dropout": dropout,
                "seed": seed,
                "flops": training_flops(width, n),
                f"{split}_loss": finite(loss),
                f"{split}_accuracy": finite(accuracy),
                "train_loss": finite(train_loss),
                "seconds": round(done.seconds / len(seeds) * n / n_samples, 4),  # of one net
                "images_per_second": round(n_samples * len(seeds) / done.seconds, 1),
                "device": device,
            }
            if moved:
                row |= {"transformed_test_loss": finite(moved[0][k]), "transformed_test_accuracy": moved[1][k]}
            rows.append(row)
    return {"rows": rows}


def _size(width: int, n_samples: int) -> dict[str, int]:
    macs = macs_per_image(width)
    return {"width": width, "n_params": n_params(width), "macs": macs, "n_samples": n_samples}


def measure_speed(width: int, batch: int, members: int, device: str, seconds: float = 0.3) -> dict[str, float]:
    """Training images per second of `members` nets on random digits, for the plan's estimate."""
    generator = torch.Generator().manual_seed(0)
    net = ConvNet(width, members)
    net.init_weights([generator] * members)
    net.place(torch.device(device))
    copies = [torch.randint(0, 256, (2048, 28, 28), generator=generator, dtype=torch.uint8).numpy()]
    labels = torch.randint(0, 10, (2048,), generator=generator).numpy()

    def one_pass(n_samples: int) -> float:
        order = side_by_side([training_order(n_samples, 2048, generator)] * members)
        return train(net, copies, labels, order, 1e-3, batch).seconds

    one_pass(5 * batch)  # warm up
    passes = spent = 0.0
    while spent < seconds:
        spent += one_pass(512)
        passes += 1
    images = 512 * members * passes
    return {"width": width, "batch_size": batch, "members": members, "images_per_second": images / spent}
