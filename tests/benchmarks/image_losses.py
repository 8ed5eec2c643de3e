"""How much of a run's test loss is the luck of its 10,000 test images? Run by hand, about a minute on one core:

    python tests/benchmarks/image_losses.py

Trains cells of different sizes with the sweep's own recipe, keeps the loss of every test image, and draws the images
again with replacement. Writes results/reference/scaling_laws/tuning/image_losses.csv: a row per run with the deviation
of its log loss and log error rate over draws of the images, and their correlation with those of all other cells.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scaling_laws"))

from common.data import data_root, load_mnist
from common.files import write_csv
from nets.cell_jobs import run_generator, start_worker
from nets.convnet import ConvNet
from nets.digits import images_per_copy, make_copy, normalise, open_digits, prepare, training_order
from nets.learning_rate import batch_size, learning_rate
from nets.net_training import side_by_side, train

CELLS = ((3, 3_438), (4, 13_750), (6, 27_500), (8, 55_000), (11, 55_000), (16, 110_000))
SEEDS, DRAWS = (0, 1), 2_000


def image_losses(folder: Path, width: int, n_samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cross-entropy and error of every test image, (10,000,) each, of one run of the sweep's recipe."""
    size = images_per_copy(folder)
    copies = -(-n_samples // size)
    for k in range(copies):
        make_copy(str(folder), k)
    digits = open_digits(str(folder), copies)
    generator = run_generator(width, n_samples, seed)
    net = ConvNet(width)
    net.init_weights([generator])
    net.place(torch.device("cpu"))
    order = side_by_side([training_order(n_samples, size, generator)])
    train(net, digits.copies, digits.labels, order, learning_rate(width, n_samples), batch_size(n_samples))
    net.eval()
    labels = torch.from_numpy(np.array(digits.test_labels, dtype=np.int64))
    with torch.no_grad():
        images = torch.from_numpy(np.array(digits.test_images))
        logits = torch.cat([net(normalise(part[:, None]))[0] for part in images.split(500)])
        losses = F.cross_entropy(logits, labels, reduction="none")
    return losses.double().numpy(), (logits.argmax(1) != labels).double().numpy()


def main() -> None:
    start_worker(1)
    folder = prepare(load_mnist(data_root(None), "mnist"))
    runs = [(width, n_samples, seed) for width, n_samples in CELLS for seed in SEEDS]
    measured = [image_losses(folder, *run) for run in runs]
    losses, errors = (np.stack(part) for part in zip(*measured, strict=True))
    rng = np.random.default_rng(0)
    n = losses.shape[1]
    counts = np.stack([np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(DRAWS)]).astype(float)
    log_loss, log_error = np.log(counts @ losses.T / n), np.log(counts @ errors.T / n)
    correlation = np.corrcoef(log_loss.T)
    rows = []
    for i, (width, n_samples, seed) in enumerate(runs):
        others = [j for j, run in enumerate(runs) if run[0] != width]
        rows.append(
            {
                "width": width,
                "n_samples": n_samples,
                "seed": seed,
                "test_loss": losses[i].mean(),
                "test_error": errors[i].mean(),
                "sd_log_loss": log_loss[:, i].std(),
                "sd_log_error": log_error[:, i].std(),
                "correlation_with_other_cells": correlation[i, others].mean(),
            }
        )
        print(" ".join(f"{value:.4g}" for value in rows[-1].values()))
    write_csv(ROOT / "results/reference/scaling_laws/tuning/image_losses.csv", rows)


if __name__ == "__main__":
    main()
