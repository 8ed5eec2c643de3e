"""A trained decoder in its file: what a checkpoint holds, how it is read, and which one is the latest."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from common.errors import BadInput
from common.files import load_checkpoint
from common.provenance import latest_run, results_folder
from decoder_model.decoder import Decoder, Shape
from decoder_model.kernels import kernels_for
from decoder_model.ngram_tables import hash_factor
from lm_settings.choices import MODERN
from texts.vocabulary import Vocabulary, from_state

HASHING = 2  # which hash the n-gram tables were learnt with; the first one is another for some sizes of vocabulary


@dataclass(frozen=True)
class Trained:
    """A decoder from a checkpoint; `vocabulary` is None for integers."""

    model: Decoder
    vocabulary: Vocabulary | None
    task: str


def checkpoint_state(model: Decoder, vocabulary: Vocabulary | None, task: str) -> dict[str, Any]:
    """What `load_trained` needs, as tensors and plain values."""
    shape = {**asdict(model.shape), "parts": list(model.shape.parts)}
    state = vocabulary.state() if vocabulary else None
    return {"shape": shape, "model": model.state_dict(), "vocabulary": state, "task": task, "hashing": HASHING}


def load_trained(path: Path, device: torch.device) -> Trained:
    """The decoder that train.py saved at `path`; BadInput for any other file."""
    state = load_checkpoint(path)
    try:
        shape = Shape(**{**state["shape"], "parts": tuple(state["shape"]["parts"])})
        whole = (shape.vocabulary, shape.context, shape.layers, shape.heads, shape.width)
        if not all(type(size) is int and size > 0 for size in whole) or shape.width % (2 * shape.heads):
            raise ValueError("impossible sizes")
        if not set(shape.parts) <= set(MODERN):
            raise ValueError("unknown parts")
        model = Decoder(shape, kernels=kernels_for(device))
        model.load_state_dict(state["model"])
        vocabulary = from_state(state["vocabulary"]) if state["vocabulary"] is not None else None
        if vocabulary is not None and vocabulary.size != shape.vocabulary:
            raise ValueError("the vocabulary is another model's")
        task = str(state["task"])
        rehashed = "ngrams" in shape.parts and hash_factor(shape.vocabulary + 1) > shape.vocabulary + 1
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError, ZeroDivisionError):
        raise BadInput(f"{path} is not a checkpoint of this version of transformers/train.py") from None
    if rehashed and state.get("hashing") != HASHING:
        raise BadInput(f"{path} is of an older version, whose n-gram tables lost the oldest tokens: train again")
    return Trained(model.to(device).eval(), vocabulary, task)


def text_checkpoint(checkpoint: str | None, results_dir: str | None) -> Path:
    """The named checkpoint, or that of the latest text run."""
    if checkpoint:
        return Path(checkpoint)
    return latest_run(results_folder(results_dir, "transformers"), "checkpoint.pt", "anchors.json") / "checkpoint.pt"


def load_text_model(path: Path, device: torch.device) -> tuple[Decoder, Vocabulary]:
    """The decoder and the vocabulary of a checkpoint; BadInput if it was trained on integers."""
    trained = load_trained(path, device)
    if trained.vocabulary is None:
        raise BadInput(f"{path} was trained on integers ({trained.task}), not on a text")
    return trained.model, trained.vocabulary
