"""The loss of a trained decoder on any text.

    python transformers/score.py --text FILE

takes the latest text run under results/transformers (or `--checkpoint PATH`) and prints JSON: `loss` in nats per token
over cold windows that do not overlap, as `val_loss` in summary.json, `loss_sliding`, `bits_per_char` and `characters`.
Without `--text` it scores the run's own validation text. With `--adaptive` the model goes on learning: each half context is
scored, and then learnt (lm_evaluation/adaptive.py).
"""

import os

os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.cli import parse, run_main, shown
from common.data import data_root
from common.device import DeviceName, choose_device, compute_dtype, configure_cpu, keep_freed_memory
from common.errors import BadInput
from common.files import read_json
from common.progress import progress_bar
from common.provenance import available_cores
from lm_evaluation.adaptive import adaptive_losses
from lm_evaluation.checkpoints import load_text_model, text_checkpoint
from lm_evaluation.lm_losses import bits_per_character
from lm_evaluation.mixture import Mixture
from texts.anchors import second_half
from texts.corpora import load_corpus, user_text
from texts.vocabulary import Vocabulary


@dataclass(frozen=True)
class Config:
    checkpoint: str | None = None
    """checkpoint.pt of a text run; default: the latest"""
    text: str | None = None
    """UTF-8 file to score; default: the validation text of the run that the checkpoint belongs to"""
    adaptive: bool = False
    """go on learning: every half context is scored before nets and n-gram learn from it, as a compressor does"""
    device: DeviceName = "auto"
    """where to run"""
    results_dir: str | None = None
    """where the latest run is looked for; default: results/ in the repository"""
    data_dir: str | None = None
    """where tinyshakespeare/ is; default: $REPLICATIONS_DATA, else data/ in the repository"""


def validation_text(checkpoint: Path, data_dir: str | None) -> str:
    """The text that the run measured itself on, from the config.json beside its checkpoint."""
    file = checkpoint.parent / "config.json"
    if not file.exists():
        raise BadInput(f"there is no config.json beside {checkpoint}, which would name its text: give --text FILE")
    try:
        given = read_json(file)["arguments"]
        task, text, development = given["task"], given["text"], given["development"]
    except (KeyError, TypeError):
        raise BadInput(f"{file} is not the config.json of a transformers run: give --text FILE") from None
    root = data_root(data_dir or given.get("data_dir")) if task == "tinyshakespeare" else Path()
    return load_corpus(task, root, text or "", development).validation


def score(model: Mixture, vocabulary: Vocabulary, text: str) -> dict[str, Any]:
    """Loss of the tokens 1 … n - 1 of a text, in nats per token and bits per character, cold and sliding.

    BadInput for characters that the vocabulary lacks, and for a text of fewer than two tokens.
    """
    ids, characters = encoded(vocabulary, text)
    cold, sliding = model.losses(torch.from_numpy(ids))
    return {
        "loss": float(cold.mean()),
        "loss_sliding": float(sliding.mean()),
        "bits_per_char": bits_per_character(float(cold.sum()), characters),
        "bits_per_char_sliding": bits_per_character(float(sliding.sum()), characters),
        "characters": characters,
        "tokens": len(cold),
        "context": model.context,
    }


def score_adaptive(model: Mixture, vocabulary: Vocabulary, text: str, dtype: torch.dtype) -> dict[str, Any]:
    """The same of a model that goes on learning as it reads (lm_evaluation/adaptive.py), and the seconds it takes."""
    began = time.perf_counter()
    ids, characters = encoded(vocabulary, text)
    losses: list[float] = []
    with progress_bar(total=len(ids) - 1, unit="token") as bar:
        for piece in adaptive_losses(model, torch.from_numpy(ids), dtype):
            losses += piece.tolist()
            bar.set_postfix_str(f"{sum(losses) / len(losses):.4f} nats", refresh=False)
            bar.update(len(piece))
    half = max(second_half(len(ids)), 1)
    return {
        "loss_adaptive": sum(losses) / len(losses),
        "bits_per_char_adaptive": bits_per_character(sum(losses), characters),
        "loss_adaptive_second_half": sum(losses[half - 1 :]) / len(losses[half - 1 :]),
        "characters": characters,
        "tokens": len(losses),
        "context": model.context,
        "seconds": time.perf_counter() - began,
    }


def encoded(vocabulary: Vocabulary, text: str) -> tuple[np.ndarray, int]:
    """The tokens (n,) of a text, and the characters of those that are predicted, 1 … n - 1; BadInput as for `score`."""
    ids = vocabulary.encode(text)
    if len(ids) < 2:
        raise BadInput(f"the text has {len(ids)} tokens, and the first one is not predicted: at least 2 are needed")
    return ids, int(vocabulary.characters[ids[1:]].sum())


def main() -> int:
    """Read the checkpoint and the text, print one JSON object."""
    config = parse(Config, {}, description=__doc__ or "")
    device, _ = choose_device(config.device)
    configure_cpu(available_cores())
    keep_freed_memory()
    path = text_checkpoint(config.checkpoint, config.results_dir)
    model, vocabulary = load_text_model(path, device)
    text = user_text(Path(config.text), least=1) if config.text else validation_text(path, config.data_dir)
    if config.adaptive:
        found = score_adaptive(model, vocabulary, text, compute_dtype(device)[0])
    else:
        found = score(model, vocabulary, text)
    print(json.dumps({**found, "checkpoint": shown(path)}, indent=1))
    return 0


if __name__ == "__main__":
    run_main(main)
