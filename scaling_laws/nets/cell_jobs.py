"""What the worker processes of a sweep do: train and test the seeds of one cell, and measure how fast that goes.

All that fixes the numbers of a run is in this room: the name of a sweep's folder depends on the text of its files.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.device import configure_cpu, keep_freed_memory
from common.files import finite
from nets.convnet import ConvNet
from nets.digits import images_per_copy, open_digits, training_order
from nets.flop_count import macs_per_image, n_params, training_flops
from nets.net_training import evaluate, side_by_side, train


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
    lr: float | Sequence[float],
    batch: int,
    dropout: float,
    split: str,
    device: str,
    checkpoint: str,
) -> dict[str, Any]:
    """Train and test one net per seed, side by side; return {"rows": their rows of runs.csv}.

    Each seed has its own weights, order and subset; `lr` is one for all, or one for each of `seeds`, in which a seed may
    stand more than once. `folder` is a prepared folder of digits with its copies, `split`
    names the evaluation set (test, or tune where hyper-parameters are chosen), `checkpoint` the file in which a run of
    more than 30 s saves its state: started again, it goes on from there to the same numbers.
    """
    copy_size = images_per_copy(folder)
    copies = -(-n_samples // copy_size)
    digits = open_digits(folder, copies)
    generators = [run_generator(width, n_samples, seed) for seed in seeds]
    torch.manual_seed(seeds[0])  # dropout draws from the global generator
    net = ConvNet(width, len(seeds), dropout)
    net.init_weights(generators)
    net.place(torch.device(device))
    order = side_by_side([training_order(n_samples, copy_size, generator) for generator in generators])
    train_losses, seconds = train(net, digits.copies, digits.labels, order, lr, batch, Path(checkpoint))
    held_out = {"tune": (digits.tune_images, digits.tune_labels), "test": (digits.test_images, digits.test_labels)}
    losses, accuracies = evaluate(net, *held_out[split])
    seconds /= len(seeds)  # of one net
    rates = lr if isinstance(lr, Sequence) else [lr] * len(seeds)
    rows = [
        {
            "arm": arm,
            "status": "ok" if math.isfinite(loss) else "diverged",
            "width": width,
            "n_params": n_params(width),
            "macs": macs_per_image(width),
            "n_samples": n_samples,
            "n_unique": min(n_samples, copy_size),
            "copies": copies,
            "batch_size": batch,
            "steps": -(-n_samples // batch),
            "lr": rate,
            "dropout": dropout,
            "seed": seed,
            "flops": training_flops(width, n_samples),
            f"{split}_loss": finite(loss),
            f"{split}_accuracy": accuracy,
            "train_loss": finite(train_loss),
            "seconds": round(seconds, 4),
            "images_per_second": round(n_samples / seconds, 1),
            "device": device,
        }
        for seed, rate, loss, accuracy, train_loss in zip(seeds, rates, losses, accuracies, train_losses, strict=True)
    ]
    return {"rows": rows}


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
        return train(net, copies, labels, order, 1e-3, batch)[1]

    one_pass(5 * batch)  # warm up
    passes = spent = 0.0
    while spent < seconds:
        spent += one_pass(512)
        passes += 1
    images = 512 * members * passes
    return {"width": width, "batch_size": batch, "members": members, "images_per_second": images / spent}
