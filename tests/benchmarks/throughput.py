"""Training throughput of the sweep beside the machine's limit and beside the plain way. Run by hand, 2 to 3 minutes:

    python tests/benchmarks/throughput.py

Both cores (all cores) are busy throughout: one single-threaded process each. Prints medians of several repeats.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scaling_laws"))

from common.data import data_root, load_mnist
from common.pool import Job, Pool
from common.provenance import available_cores
from nets.cell_jobs import measure_speed, seeds_together, start_worker
from nets.convnet import ConvNet
from nets.digits import normalise, transformed_copy
from nets.flop_count import macs_per_image

REPEATS = 5
WIDTHS = (2, 3, 4, 6, 8, 11, 16, 23, 32)


# ---------------------------------------------------------------- jobs, run in every worker at once


def matmul(side: int = 1024, seconds: float = 1.0) -> dict[str, float]:
    """Single-precision matrix-multiply rate of one core in FLOP/s."""
    a, b = torch.randn(side, side), torch.randn(side, side)
    torch.mm(a, b)
    n, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        torch.mm(a, b)
        n += 1
    return {"rate": 2 * side**3 * n / (time.perf_counter() - started)}


def augment(seconds: float = 1.0) -> dict[str, float]:
    """Transformed images per second of one core."""
    images = torch.randint(0, 256, (5000, 28, 28), dtype=torch.uint8)
    n, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        transformed_copy(images, n)
        n += 1
    return {"rate": 5000 * n / (time.perf_counter() - started)}


def train(width: int, batch: int, members: int) -> dict[str, float]:
    return {"rate": measure_speed(width, batch, members, "cpu", seconds=1.0)["images_per_second"]}


def private_memory() -> dict[str, float]:
    """Peak resident memory of this worker and its private part now, in GB (Linux)."""
    text = Path("/proc/self/smaps_rollup").read_text()
    kilobytes = sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private"))
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return {"rate": kilobytes / 1e6, "peak": int(peak.split()[1]) / 1e6}


def busy(pool: Pool, workers: int, function: Any, **arguments: Any) -> float:
    """Median over repeats of the mean rate of the workers, all of them busy."""
    rates = []
    for _ in range(REPEATS):
        with TemporaryDirectory() as folder:
            jobs = [Job(f"job{i}", function, arguments) for i in range(workers)]
            rates.append(statistics.mean(end.result["rate"] for end in pool.map(jobs, Path(folder)) if end.result))
    return statistics.median(rates)


# ---------------------------------------------------------------- the plain way


def plain_rate(elastic: str, width: int, n_images: int, root: Path, workers: int) -> float:
    """Images per second of torchvision's MNIST, per-image transforms, a DataLoader and the same net and batch."""
    from scipy.ndimage import gaussian_filter, map_coordinates
    from torchvision import datasets, transforms

    def scipy_elastic(image: torch.Tensor) -> torch.Tensor:
        displacement = [gaussian_filter(np.random.uniform(-1, 1, (28, 28)), 4) for _ in range(2)]  # noqa: NPY002
        rows, columns = (d / d.std() + axis for d, axis in zip(displacement, np.mgrid[:28, :28], strict=True))
        return torch.from_numpy(map_coordinates(image[0].numpy(), [rows, columns], order=1))[None]

    affine = transforms.RandomAffine(15, translate=(2 / 28, 2 / 28), scale=(0.9, 1.1))
    tail = (
        [transforms.ToTensor(), scipy_elastic]
        if elastic == "scipy"
        else [transforms.ElasticTransform(8.0, 4.0), transforms.ToTensor()]
    )
    data = datasets.MNIST(str(root), train=True, transform=transforms.Compose([affine, *tail]))
    subset = torch.utils.data.Subset(data, range(n_images))
    loader = torch.utils.data.DataLoader(subset, batch_size=64, shuffle=True, num_workers=workers)
    net = ConvNet(width).place(torch.device("cpu"))
    net.init_weights([torch.Generator().manual_seed(0)])
    optimizer = torch.optim.Adam(net.parameters(), lr=0.005, betas=(0.9, 0.99))
    started = time.perf_counter()
    for x, y in loader:
        loss = F.cross_entropy(net((x - 0.1306) / 0.3082)[0], y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return n_images / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="for the plain way, which needs MNIST's own files")
    root = data_root(parser.parse_args().data_dir)
    workers = available_cores()
    with Pool(workers, start_worker, (1,)) as pool:
        limit = busy(pool, workers, matmul)
        print(f"matrix multiply, per core, {workers} cores busy: {limit / 1e9:.0f} GFLOP/s (n = {REPEATS})")
        print("| width | batch | nets side by side | images/s per core | GFLOP/s per core | of the matrix multiply |")
        print("| --- | --- | --- | --- | --- | --- |")
        rates = {}
        for width in WIDTHS:
            members = 3 if seeds_together(width, 64, "cpu") else 1
            rates[width] = busy(pool, workers, train, width=width, batch=64, members=members)
            flops = 6 * macs_per_image(width) * rates[width]
            print(
                f"| {width} | 64 | {members} | {rates[width]:,.0f} | {flops / 1e9:.1f} | {flops / limit:.0%} |",
                flush=True,
            )
        augmented = busy(pool, workers, augment)
        print(f"augmentation: {augmented:,.0f} images/s per core")
        if Path("/proc/self/smaps_rollup").exists():
            with TemporaryDirectory() as folder:
                ends = list(pool.map([Job(f"m{i}", private_memory) for i in range(workers)], Path(folder)))
            worst = max(end.result["rate"] for end in ends if end.result)
            peak = max(end.result["peak"] for end in ends if end.result)
            print(f"memory of a worker: private {worst:.2f} GB, peak resident {peak:.2f} GB")
    if load_mnist(root).name != "mnist":
        print("the plain way is left out: it needs MNIST's own files")
        return
    # In a sweep a copy serves many runs: the default one trains on 9.1 million images from 330,000 transformed ones.
    shared = 330_000 / 9.1e6
    for width in (4, 16):
        once = workers / (1 / rates[width] + 1 / augmented)
        swept = workers / (1 / rates[width] + shared / augmented)
        print(
            f"width {width}, {workers} cores: {once:,.0f} images/s with a transformation for each, {swept:,.0f} as in a sweep"
        )
        for elastic, n_images in (("torchvision", 3000), ("scipy", 6000)):
            plain = statistics.median(plain_rate(elastic, width, n_images, root, 2) for _ in range(3))
            print(
                f"  the plain way with {elastic}'s elastic transform: {plain:,.0f} images/s (n = 3); "
                f"ratio {once / plain:.1f}, as in a sweep {swept / plain:.1f}"
            )
    mean_pixel = normalise(torch.tensor([0], dtype=torch.uint8)).item()
    assert abs(mean_pixel + 0.1306 / 0.3082) < 1e-2  # both ways normalise alike


if __name__ == "__main__":
    main()
