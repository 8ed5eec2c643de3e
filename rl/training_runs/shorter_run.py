"""A finished run that is the beginning of a longer one, so that the longer one need not make it again."""

import contextlib
from pathlib import Path

from common.errors import BadInput
from common.files import atomic_save, load_checkpoint, read_json, save_checkpoint
from common.run import Run


def begin_with_shorter(run: Run, length: str) -> int:
    """Begin `run` where the longest finished one beside it ended whose config has a smaller `length`, else the same.

    That one's last step; 0 where there is none, or this run has a checkpoint. Its checkpoint and metrics are copied, and
    its config.json as began_with.json. A damaged one is passed over.
    """
    if (run.folder / "checkpoint.pt").exists():
        return 0
    found: list[tuple[int, Path]] = []
    for path in run.folder.parent.glob("*/summary.json"):
        with contextlib.suppress(BadInput, OSError, KeyError, TypeError):
            other, summary = read_json(path.with_name("config.json"))["config"], read_json(path)
            same = {**other, length: run.config[length]} == run.config
            if same and other[length] < run.config[length] and summary["status"] == "ok":
                found.append((summary["steps"], path.parent))
    copies = {"config.json": "began_with.json", "metrics.csv": "metrics.csv"}
    for steps, shorter in sorted(found, reverse=True):
        with contextlib.suppress(BadInput, OSError):
            state = load_checkpoint(shorter / "checkpoint.pt")
            if state["step"] == steps:
                for name, to in copies.items():
                    data = (shorter / name).read_bytes()
                    atomic_save(run.folder / to, lambda file, data=data: file.write(data))
                state.pop("config", None)  # whose checkpoint it was; without one, what is here counts as nothing
                save_checkpoint(run.folder / "checkpoint.pt", state)
                return steps
    return 0
