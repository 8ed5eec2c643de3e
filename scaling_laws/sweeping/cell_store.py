"""Where finished cells are kept: one folder for all sweeps whose cells would come out the same to the bit."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from common.cli import shown
from common.errors import BadInput
from common.files import read_record
from common.provenance import results_folder, short_hash, source_hashes

TRAINS = Path(__file__).resolve().parents[1] / "nets/cell_jobs.py"


def cell_store(results_dir: str | None, digits: Path, device: str, threads: int | None) -> Path:
    """`results/scaling_laws/cells/<hash>`, the hash being of the code that trains, the data, the device and the versions.

    `digits` is the prepared folder, named after its content; `threads` of each worker, None where nobody asked for any.
    What else the numbers of a cell hang on is in the name of its file. Safe to delete: cells are then trained again.
    """
    versions = {"torch": torch.__version__, "numpy": np.__version__}
    same = {"data": digits.name, "device": device, "threads": threads, "sources": source_hashes(TRAINS), **versions}
    return results_folder(results_dir, "scaling_laws") / "cells" / short_hash(same)


def drop_damaged(store: Path, keys: Iterable[str]) -> None:
    """Remove results that are not what was written, and say so: they are made again."""
    for key in keys:
        path = store / f"{key}.json"
        try:
            if path.exists():
                read_record(path)
        except BadInput:
            print(f"NOTE: {shown(path)} is damaged, and made again")
            path.unlink(missing_ok=True)
