"""What there is to beat on the three texts of the page. Run by hand, two minutes on two cores; needs `pyppmd`:

    python tests/benchmarks/text_anchors.py

Writes results/reference/transformers/anchors/: a record per text, which train.py takes instead of computing the same again
(as long as text and code are the ones that it was made from), and anchors.csv, which the page's numbers come from.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "transformers"))

from common.files import write_csv, write_json, write_record
from common.provenance import command_line, environment
from lm_settings.train_settings import Config, resolve
from texts.anchors import ppmd_bytes
from texts.kneser_ney import kneser_ney
from texts.tokenized_text import ANCHORS_COMMITTED, Text, load_text

TASKS = ("tinyshakespeare", "shakespeare", "kjv")
# Measured once, in 2026, with paq8px v216 at level 7 on the same training and validation text; no code here repeats it.
PAQ8PX = {"tinyshakespeare": 1.196, "kjv": 0.790}


def cpu_seconds(work: Callable[[], Any]) -> float:
    """What a piece of work takes of one core."""
    began = time.process_time()
    work()
    return time.process_time() - began


def different_ngrams(ids: np.ndarray, order: int) -> int:
    """How many different n-grams of 1 … `order` tokens a text (N,) has, each of which the n-gram keeps a count of."""
    found, size = 0, int(ids.max()) + 1
    shorter = np.zeros(len(ids), dtype=np.int64)  # the number of the n-gram before each token
    for k in range(1, order + 1):
        key = shorter * size + ids[k - 1 :]
        by_key = np.argsort(key, kind="stable")
        number = np.empty_like(key)
        number[by_key] = np.cumsum(np.diff(key[by_key], prepend=-1) > 0) - 1
        found += int(number.max()) + 1
        shorter = number[:-1]
    return found


def rows_of(task: str, text: Text, found: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of anchors.csv of one text."""
    ids = (text.train.numpy(), text.validation.numpy())
    both = (text.corpus.train, text.corpus.validation)
    rows = []
    for name, model, kind, work in (
        ("ngram", "modified Kneser-Ney", "static", lambda n: kneser_ney(*ids, text.vocabulary.size, n)),
        ("ppmd", "PPMd", "adaptive", lambda n: ppmd_bytes(both, n)),
    ):
        order = found[f"{name}_order"]
        rows.append(
            {
                "text": task,
                "model": model,
                "kind": kind,
                "order": order,
                "parameters": different_ngrams(ids[0].astype(np.int64), order) if name == "ngram" else None,
                "at_edge": found[f"{name}_order_at_edge"],
                "nats_per_char": found[f"{name}_nats_per_char"],
                "nats_per_char_second_half": found[f"{name}_nats_per_char_second_half"],
                "cpu_seconds": round(cpu_seconds(lambda: work(order)), 1),  # noqa: B023
                "source": "computed here",
            }
        )
    if task in PAQ8PX:
        given = {"text": task, "model": "paq8px v216 -7", "kind": "adaptive", "nats_per_char": PAQ8PX[task]}
        rows.append({**given, "source": "a figure that is given; not computed here"})
    return rows


def main() -> None:
    record = {"command": command_line(), **environment("cpu")}  # before anything is written: is the tree clean?
    rows = []
    for task in TASKS:
        text = load_text(resolve(Config(task=task)), torch.device("cpu"))
        found = text.anchors()
        write_record(ANCHORS_COMMITTED / f"{task}.json", {"key": text.anchors_key(), **found})
        rows += rows_of(task, text, found)
        print(*rows[-3:], sep="\n")
    write_csv(ANCHORS_COMMITTED / "anchors.csv", rows)
    write_json(ANCHORS_COMMITTED / "config.json", record)


if __name__ == "__main__":
    main()
