"""Python reads this before a script, and before each of its workers: small settings, and the fault that is asked for.

The script itself is the file that a person runs, unchanged: so is the hash of its sources.
"""

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from injected_faults import install

SAVE_SECONDS = float(os.environ.get("FAULT_SAVE_SECONDS", "0.05"))  # between checkpoints
ANCHORS = {"ngram_order": 3, "ngram_nats_per_char": 2.0, "xz_nats_per_char": 1.5, "ppmd_nats_per_char": None}
# Module: what it holds in place of its own values.
CONSTANTS: dict[str, dict[str, Any]] = {
    "common.provenance": {"available_cores": lambda: int(os.environ["FAULT_CORES"])},
    "common.pool": {"POLL_SECONDS": 0.05},
    "critical_batch.batch_sweep": {"HELD_WINDOWS": 16},
    "nets.cell_progress": {"CHECKPOINT_SECONDS": SAVE_SECONDS},
    "texts.tokenized_text": {"anchors": lambda *_, **__: ANCHORS},
    "lm_evaluation.measurements": {"CURVE_TOKENS": 256, "SAMPLE_TOKENS": 60},
    "lm_evaluation.step_budget": {"FINISH_SECONDS": 0.5, "CALIBRATION_SECONDS": 0.1, "QUICK_SECONDS": 2.0},
    "decoder_model.ngram_tables": {"TABLE_ENTRIES": 512},
}


def small_runs(module: Any) -> None:
    """compare.py's runs, with few steps and small batches."""
    from dataclasses import replace

    whole = module.config_of
    small = {"num_envs": 4, "horizon": 16, "eval_every": 512, "eval_episodes": 4, "final_episodes": 4}
    module.config_of = lambda *what: replace(whole(*what), **small)


def save_often(module: Any) -> None:
    """Checkpoints every SAVE_SECONDS."""
    begin = module.Keeper.__init__

    def begin_saving(self: Any, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **options)
        self.seconds = SAVE_SECONDS

    module.Keeper.__init__ = begin_saving


def blank_figures(module: Any) -> None:
    """Figures of one byte, written as the real ones are."""
    from common.files import atomic_save

    module.save_figure = lambda _, path, *__, **___: atomic_save(
        path.with_suffix(".png"), lambda file: file.write(b"\n")
    )


CHANGES: dict[str, Callable[[Any], None]] = {
    "rl_settings.compare_settings": small_runs,
    "common.keeping": save_often,
    "common.plots": blank_figures,
}


class Changed(importlib.abc.MetaPathFinder):
    """Finds the modules above as they are, and changes them as soon as they are loaded."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> Any:
        if fullname not in CONSTANTS and fullname not in CHANGES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def load_and_change(module: Any) -> None:
            load(module)
            for name, value in CONSTANTS.get(fullname, {}).items():
                getattr(module, name)  # AttributeError where it is no longer there
                setattr(module, name, value)
            CHANGES.get(fullname, lambda _: None)(module)

        spec.loader.exec_module = load_and_change  # type: ignore[method-assign]
        return spec


if "FAULT_CORES" in os.environ:
    sys.meta_path.insert(0, Changed())
    install(os.environ.get("FAULT", ""))
