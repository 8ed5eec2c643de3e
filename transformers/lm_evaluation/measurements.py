"""What is measured of a net in training: a point of its validation curve, and the numbers that it ends with."""

import contextlib
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decoder_model.decoder import Decoder
from lm_evaluation.generation import generate
from lm_evaluation.lm_losses import (
    SEQUENCES,
    bits_per_character,
    evaluating,
    score_integers,
    window_losses,
)
from lm_evaluation.mixture import Mixture, learn_trust, net_losses
from lm_evaluation.neighbours import Neighbours, new_neighbours
from optimisation.lm_learner import Learner
from texts.anchors import longest_match, second_half
from texts.integer_tasks import IntegerTask
from texts.seeds import derived_seed
from texts.tokenized_text import Text
from texts.word_ngram import choose_shape, count_words

CURVE_TOKENS = 16_384  # of the validation text, for the points of the curve; the final number is on all of it
CURVE_SEQUENCES = 256  # of an integer task, for the same; the final number is on lm_losses.SEQUENCES of them
SAMPLE_TOKENS = 600


def curve_point(learner: Learner, dtype: torch.dtype) -> dict[str, float]:
    """The validation columns of a row of metrics.csv."""
    if isinstance(learner.task, IntegerTask):
        score = score_integers(learner.model, learner.task, CURVE_SEQUENCES)
        half = len(score.by_position) // 2
        return {
            "val_loss": score.loss,
            "first_half_loss": float(score.by_position[:half].mean()),
            "second_half_loss": score.second_half_loss,
            "accuracy": score.accuracy,
        }
    assert learner.text is not None
    losses = {"val_loss": part_loss(learner.model, learner.text.validation, dtype)}
    return losses | (
        {"held_loss": part_loss(learner.model, learner.text.held, dtype)} if len(learner.text.held) else {}
    )


def part_loss(model: Decoder, ids: Tensor, dtype: torch.dtype) -> float:
    """Nats per token on evenly spaced windows of a text (n,): for a curve and a comparison, not to be reported."""
    context = min(model.shape.context, len(ids) - 1)
    starts = np.unique(np.linspace(0, len(ids) - 1 - context, max(1, CURVE_TOKENS // context)).astype(int))
    windows = ids.cpu()[torch.from_numpy(starts)[:, None] + torch.arange(context + 1)]
    return float(window_losses(model, windows, dtype).mean())


def predictions_to_make(learner: Learner) -> tuple[float, float]:
    """How many tokens are predicted at the end of a run and for a point of its curve, counted by their time in fp32."""
    if learner.text is None:
        context = learner.model.shape.context
        return SEQUENCES * context, CURVE_SEQUENCES * context
    last = 2 * (len(learner.text.validation) + len(learner.text.held))
    points = min(CURVE_TOKENS, len(learner.text.validation)) + min(CURVE_TOKENS, len(learner.text.held))
    return last, points / 2  # the curve's in the training's dtype, which is faster


def no_places_yet(learner: Learner, nets: int) -> tuple[Neighbours, ...]:
    """The neighbours that a run's mixture of so many nets is to have, without a place so far."""
    text = learner.text
    if text is None or not len(text.held) or "neighbours" in learner.settings.without:
        return ()
    return new_neighbours(nets, text.vocabulary, learner.dtype)


def learnt_mixture(learner: Learner) -> Mixture | None:
    """What predicts at the end of a text run: all nets, an n-gram and neighbours, trusted as the held-back slice tells."""
    text = learner.text
    if text is None:
        return None
    nets = learner.all_members()
    if not len(text.held):
        return Mixture(nets)
    learnt, held = text.learnt.cpu().numpy(), text.held.cpu().numpy()
    shape = choose_shape(learnt, held, text.vocabulary)
    ngram = count_words(learnt, text.vocabulary, shape)
    mixture = Mixture(nets, ngram, no_places_yet(learner, len(nets)))
    mixture.learn_places([text.learnt])
    _, sliding = mixture.read(text.held)
    q, known = ngram.probabilities(held)
    trust = learn_trust(mixture.predictors(held, sliding, q), known, ngram.depth)
    for block, before in text.blocks:  # which the nets will never know
        ngram.learn(block.numpy(), before)
    mixture.learn_places([block[before:] for block, before in text.blocks])
    return replace(mixture, trust=trust)


def text_summary(
    learner: Learner, text: Text, mixture: Mixture, to_beat: dict[str, Any]
) -> tuple[dict[str, Any], np.ndarray, str]:
    """The numbers of a text run, the cold losses by position in the window (T,), and a sample."""
    context = mixture.context
    readings = mixture.read(text.validation)
    cold, sliding = mixture.mixed(text.validation, *readings)
    whole = cold[: len(cold) // context * context]
    by_position = whole.reshape(-1, context).mean(0) if len(whole) else cold
    half = max(second_half(len(text.validation)), 1)
    characters = max(int(text.vocabulary.characters[text.validation[half:].cpu().numpy()].sum()), 1)

    def after(losses: np.ndarray) -> float:
        """Nats per character of the tokens `half` … n - 1, of which losses (n - 1,) begin with token 1's."""
        return float(losses[half - 1 :].sum()) / characters

    sample = text_sample(learner, text, mixture)
    match, recited = longest_match(sample, text.corpus.train)
    numbers = {
        "val_loss": float(cold.mean()),
        "val_loss_sliding": float(sliding.mean()),
        "val_bits_per_char": bits_per_character(float(cold.sum()), text.characters),
        "val_bits_per_char_sliding": bits_per_character(float(sliding.sum()), text.characters),
        "val_nats_per_char_second_half": after(cold),
        "val_nats_per_char_sliding_second_half": after(sliding),
        "val_loss_nets": float(net_losses(readings[0]).mean()),
        "members": len(mixture.nets),
        "trust": mixture.trust.mean(0).tolist() if mixture.ngram else None,
        "mixed_counts": mixture.ngram.size if mixture.ngram else None,
        "val_tokens": len(cold),
        "val_characters": text.characters,
        "sample_longest_match": match,
        "sample_longest_match_text": recited,
        **to_beat,
    }
    return numbers, by_position, sample


def text_sample(learner: Learner, text: Text, mixture: Mixture) -> str:
    """SAMPLE_TOKENS tokens that continue a new line; the nets stay on the CPU."""
    prompt = text.vocabulary.encode("\n") if "\n" in text.corpus.train else text.train[:1].cpu().numpy()
    random = torch.Generator().manual_seed(derived_seed(learner.settings.seed, 0))
    with contextlib.ExitStack() as stack:
        for net in mixture.nets:
            stack.enter_context(evaluating(net.cpu()))
        tokens = generate(mixture, torch.from_numpy(prompt).long()[None], SAMPLE_TOKENS, 0.8, random=random)
        return text.vocabulary.decode([int(token) for token in tokens])


def integer_summary(learner: Learner, task: IntegerTask) -> tuple[dict[str, Any], np.ndarray]:
    """The numbers of an integer run beside its exact floor, and the losses by position (T,)."""
    score = score_integers(learner.model, task)
    numbers = {
        "val_loss": score.loss,
        "floor": float(task.floors.mean()),
        "second_half_loss": score.second_half_loss,
        "accuracy": score.accuracy,
    }
    return numbers, score.by_position
