"""How the net and the batch size of the sweep were chosen. Run by hand, 10 minutes on two cores:

    python tests/benchmarks/choose_recipe.py

Every comparison is on the 5,000 tuning images, with the learning rate searched for each cell. Writes net.csv and
batch.csv (one row per run) into results/reference/scaling_laws/tuning/ and prints the best of each.
"""

import argparse
import math
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scaling_laws"))

from common.data import cache_root, data_root, load_mnist
from common.files import write_csv
from common.pool import Job, Pool
from common.provenance import available_cores, short_hash, source_hashes
from nets.cell_jobs import run_generator, start_worker
from nets.convnet import ConvNet
from nets.digits import make_copy, open_digits, prepare, training_order
from nets.learning_rate import batch_size
from nets.net_training import evaluate, side_by_side, train

LRS = (0.00625, 0.0125, 0.025, 0.05)
BUDGETS = (1.6e10, 6.4e10)
MAX_SAMPLES = 330_000  # six copies
NET_WIDTHS = {"two_conv": (3, 4, 6, 8, 11), "three_conv": (2, 3, 4, 6, 8), "three_conv_mean": (3, 4, 6, 8, 11)}


class ThreeConv(nn.Module):
    """The net of the sweep with a third convolution (2w -> 2w at 7 x 7); its head sees the mean over all positions
    (`pooled`) or a max-pool to 3 x 3, flattened."""

    members = 1

    def __init__(self, width: int, pooled: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.conv3 = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.head = nn.Linear(2 * width * (1 if pooled else 9), 10)
        self.pooled = pooled
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def init_weights(self, generators: list[torch.Generator]) -> None:
        for layer, gain in ((self.conv1, 2), (self.conv2, 2), (self.conv3, 2), (self.head, 1)):
            std = math.sqrt(gain / layer.weight[0].numel())
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generators[0]) * std)
            assert layer.bias is not None
            layer.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        x = F.relu(self.conv3(x))  # (B, 2w, 7, 7)
        x = x.mean((2, 3)) if self.pooled else F.max_pool2d(x, 2).flatten(1)
        return self.head(x)[None]  # (1, B, 10)


def make_net(net: str, width: int) -> Any:
    return (
        ConvNet(width).place(torch.device("cpu"))
        if net == "two_conv"
        else ThreeConv(width, pooled=net == "three_conv_mean")
    )


def macs(net: str, width: int) -> int:
    with FlopCounterMode(display=False) as counter:
        make_net(net, width)(torch.zeros(1, 1, 28, 28))
    return counter.get_total_flops() // 2


def one(folder: str, net: str, width: int, n_samples: int, batch: int, lr: float, seed: int) -> dict[str, Any]:
    digits = open_digits(folder, -(-n_samples // 55_000))
    generator = run_generator(width, n_samples, seed)
    model = make_net(net, width)
    model.init_weights([generator])
    order = training_order(n_samples, 55_000, generator)
    train(model, digits.copies, digits.labels, side_by_side([order]), lr, batch)
    loss, accuracy = evaluate(model, digits.tune_images, digits.tune_labels)
    values = {"net": net, "width": width, "n_samples": n_samples, "batch_size": batch, "lr": lr, "seed": seed}
    return {**values, "tune_loss": loss[0], "tune_accuracy": accuracy[0]}


def search(pool: Pool, folder: Path, name: str, points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    jobs = [
        Job("-".join(str(value) for value in point.values()), one, {"folder": str(folder), **point}) for point in points
    ]
    sources = short_hash(source_hashes(__file__, ROOT / "scaling_laws/nets/cell_jobs.py"))
    ends = list(tqdm(pool.map(jobs, cache_root() / f"choose-{name}-{sources}"), name, len(jobs)))
    rows = [end.result for end in ends if end.result]
    rows.sort(key=lambda row: [row[key] for key in ("net", "width", "n_samples", "batch_size", "lr", "seed")])
    write_csv(ROOT / f"results/reference/scaling_laws/tuning/{name}.csv", rows)
    return rows


def best_rates(rows: list[dict[str, Any]], *keys: str) -> dict[tuple, tuple[float, float]]:
    """By `keys`: the least geometric-mean loss over the learning rates, and the rate."""
    losses = defaultdict(list)
    for row in rows:
        losses[tuple(row[key] for key in keys), row["lr"]].append(math.log(row["tune_loss"]))
    best: dict[tuple, tuple[float, float]] = {}
    for (cell, lr), logs in losses.items():
        mean = math.exp(sum(logs) / len(logs))
        best[cell] = min(best.get(cell, (math.inf, 0.0)), (mean, lr))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir")
    folder = prepare(load_mnist(data_root(parser.parse_args().data_dir), "mnist"))
    with Pool(available_cores(), start_worker, (1,)) as pool:
        list(
            pool.map(
                [Job(f"copy_{k:03d}", make_copy, {"folder": str(folder), "k": k}) for k in range(6)], folder / "made"
            )
        )
        points = []
        for net, widths in NET_WIDTHS.items():
            for width in widths:
                for budget in BUDGETS:
                    n = round(budget / (6 * macs(net, width)))
                    if n > MAX_SAMPLES:
                        continue
                    same = {"net": net, "width": width, "n_samples": n, "batch": batch_size(n)}
                    points += [{**same, "lr": lr, "seed": seed} for lr in LRS for seed in (2000, 2001)]
        points.sort(key=lambda point: -point["n_samples"] * macs(point["net"], point["width"]))
        found = best_rates(search(pool, folder, "net", points), "net", "width", "n_samples")
        print("| compute, FLOP | net | best width | samples | learning rate | tuning loss |")
        print("| --- | --- | --- | --- | --- | --- |")
        for budget in BUDGETS:
            for net, widths in NET_WIDTHS.items():
                sizes = {(w, round(budget / (6 * macs(net, w)))) for w in widths}
                cells = {(w, n) for w, n in sizes if n <= MAX_SAMPLES}
                (loss, lr), width, n = min((*(found[net, w, n],), w, n) for w, n in cells)
                print(f"| {budget:.1e} | {net} | {width} | {n:,} | {lr} | {loss:.4f} |")
        points = [
            {"net": "two_conv", "width": width, "n_samples": n, "batch": batch, "lr": lr, "seed": seed}
            for width in (4, 11)
            for n in (1_719, 6_875, 27_500)
            for batch in (4, 8, 16, 32, 64)
            for lr in (0.003125, *LRS)
            for seed in (2000, 2001)
        ]
        points += [
            {"net": "two_conv", "width": 4, "n_samples": 110_000, "batch": batch, "lr": lr, "seed": seed}
            for batch in (16, 32, 64)
            for lr in LRS
            for seed in (2000, 2001)
        ]
        found = best_rates(search(pool, folder, "batch", points), "width", "n_samples", "batch_size")
        print("\n| width | samples | batch 4 | 8 | 16 | 32 | 64 | the rule's |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        for width, n in sorted({(width, n) for width, n, _ in found}):
            cells = (found.get((width, n, batch)) for batch in (4, 8, 16, 32, 64))
            told = " | ".join(f"{cell[0]:.3f}" if cell else "" for cell in cells)
            print(f"| {width} | {n:,} | {told} | {batch_size(n)} |")


if __name__ == "__main__":
    main()
