"""A trained decoder in its file: what a checkpoint holds, how it is read, and which one is the latest."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.errors import BadInput
from common.files import load_checkpoint
from common.provenance import latest_run, results_folder
from decoder_model.decoder import Decoder, Shape
from decoder_model.kernels import kernels_for
from decoder_model.ngram_tables import hash_factor
from lm_evaluation.mixture import Mixture
from lm_evaluation.neighbours import new_neighbours
from lm_settings.choices import MODERN
from optimisation.lm_learner import Learner
from texts.vocabulary import Vocabulary, from_state
from texts.word_ngram import WordNGram, count_words

HASHING = 2  # which hash the n-gram tables were learnt with; the first one is another for some sizes of vocabulary


@dataclass(frozen=True)
class Trained:
    """What a checkpoint predicts with; `vocabulary` is None for integers."""

    mixture: Mixture
    vocabulary: Vocabulary | None
    task: str

    @property
    def model(self) -> Decoder:
        """The decoder that was trained last, of most runs the only one."""
        return self.mixture.nets[-1]


def checkpoint_state(
    model: Decoder, vocabulary: Vocabulary | None, task: str, finished: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """What `load_trained` needs of decoders, as tensors and plain values; `finished` are the states of earlier ones."""
    shape = {**asdict(model.shape), "parts": list(model.shape.parts)}
    state = vocabulary.state() if vocabulary else None
    about = {"vocabulary": state, "task": task, "hashing": HASHING}
    return {"shape": shape, "model": model.state_dict(), "finished": list(finished), **about}


def mixture_state(learner: Learner, mixture: Mixture) -> dict[str, Any]:
    """What `load_trained` needs besides of a mixture with an n-gram: the text that is counted and read, and the trust."""
    assert learner.text is not None
    assert mixture.ngram is not None
    shape = [mixture.ngram.letters, mixture.ngram.words]
    counted = {
        "text": learner.text.learnt.cpu(),
        "blocks": [list(block) for block in learner.text.blocks],
        "shape": shape,
    }
    found_by = {"nets": len(mixture.neighbours), "dtype": str(learner.dtype)}
    return {"counted": counted, "neighbours": found_by, "trust": mixture.trust.tolist()}


def counted_again(counted: dict[str, Any], vocabulary: Vocabulary) -> WordNGram:
    """The n-gram of such a state."""
    letters, words = counted["shape"]
    ngram = count_words(counted["text"].numpy(), vocabulary, (letters, words))
    for block, before in counted["blocks"]:
        ngram.learn(block.numpy(), before)
    return ngram


def mixed_again(state: dict[str, Any], nets: tuple[Decoder, ...], vocabulary: Vocabulary) -> Mixture:
    """The mixture of such a state; ValueError for one that cannot be."""
    counted, found_by = state["counted"], state["neighbours"]
    dtype = {str(one): one for one in (torch.float32, torch.bfloat16)}[found_by["dtype"]]
    mixture = Mixture(
        nets,
        counted_again(counted, vocabulary),
        new_neighbours(int(found_by["nets"]), vocabulary, dtype),
        np.array(state["trust"], dtype=float),
    )
    assert mixture.ngram is not None
    expected = (mixture.ngram.depth + 1, 2 + (len(mixture.neighbours) > 0))
    if mixture.trust.shape != expected or not ((mixture.trust >= 0) & (mixture.trust <= 1)).all():
        raise ValueError("impossible trust")
    mixture.learn_places([counted["text"]])
    mixture.learn_places([block[before:] for block, before in counted["blocks"]])
    return mixture


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
        nets = []
        for one in (*state.get("finished", ()), state["model"]):
            nets.append(Decoder(shape, kernels=kernels_for(device)))
            nets[-1].load_state_dict(one)
            nets[-1].to(device).eval()
        vocabulary = from_state(state["vocabulary"]) if state["vocabulary"] is not None else None
        if vocabulary is not None and vocabulary.size != shape.vocabulary:
            raise ValueError("the vocabulary is another model's")
        mixture = Mixture(tuple(nets))
        if vocabulary is not None and "counted" in state:
            mixture = mixed_again(state, mixture.nets, vocabulary)
        task = str(state["task"])
        rehashed = "ngrams" in shape.parts and hash_factor(shape.vocabulary + 1) > shape.vocabulary + 1
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError, ZeroDivisionError):
        raise BadInput(f"{path} is not a checkpoint of this version of transformers/train.py") from None
    if rehashed and state.get("hashing") != HASHING:
        raise BadInput(f"{path} is of an older version, whose n-gram tables lost the oldest tokens: train again")
    return Trained(mixture, vocabulary, task)


def text_checkpoint(checkpoint: str | None, results_dir: str | None) -> Path:
    """The named checkpoint, or that of the latest text run."""
    if checkpoint:
        return Path(checkpoint)
    return latest_run(results_folder(results_dir, "transformers"), "checkpoint.pt", "anchors.json") / "checkpoint.pt"


def load_text_model(path: Path, device: torch.device) -> tuple[Mixture, Vocabulary]:
    """What a checkpoint predicts with, and its vocabulary; BadInput if it was trained on integers."""
    trained = load_trained(path, device)
    if trained.vocabulary is None:
        raise BadInput(f"{path} was trained on integers ({trained.task}), not on a text")
    return trained.mixture, trained.vocabulary
