"""Nets and an n-gram together: their losses, the trust between them, what goes on learning, several nets in one run."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import score
import train
from lm_commands import RUNS, TINY, inline, learner_of, metrics_of, one_sentence, same_weights, state_of, summary_of
from lm_evaluation import adaptive
from lm_evaluation.adaptive import adaptive_losses, mixed
from lm_evaluation.generation import Reader, generate
from lm_evaluation.lm_losses import read_text
from lm_evaluation.measurements import learnt_mixture
from lm_evaluation.mixture import FIRM, TRUST, Mixture, learn_trust
from lm_evaluation.neighbours import PRIOR, Neighbours
from texts.word_ngram import WordNGram
from tiny_decoder import tiny_decoder

V = 13
IN_WORD = np.arange(V) < 9


def some_text(n: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, V, n))


def two_and_an_ngram(of_ngram: float = 0.4, finders: int = 2) -> Mixture:
    """Two nets with an n-gram, and with the neighbours of so many of the nets."""
    ngram = WordNGram(some_text(400, 1).numpy(), IN_WORD, 2, 1)
    torch.manual_seed(0)
    nets = (tiny_decoder(vocabulary=V), tiny_decoder(vocabulary=V))
    with torch.no_grad():
        for i, net in enumerate(nets):
            for p in net.parameters():
                p.add_(0.1 * (i + 1) * torch.randn_like(p))
    w = np.linspace(0.1, of_ngram, ngram.depth + 1)
    trust = [0.6 * (1 - w), w, 0.4 * (1 - w)] if finders else [1 - w, w]
    mixture = Mixture(nets, ngram, tuple(Neighbours(V, 1, torch.float32) for _ in range(finders)), np.stack(trust, 1))
    mixture.learn_places([some_text(400, 1)])
    return mixture


@pytest.mark.parametrize("finders", [0, 1, 2])
def test_the_loss_is_that_of_the_mixed_probabilities(finders):
    mixture, ids = two_and_an_ngram(finders=finders), some_text(50)
    assert mixture.ngram is not None
    parts = [read_text(net, ids, mixture.context) for net in mixture.nets]
    q, known = mixture.ngram.probabilities(ids.numpy())
    w = mixture.trust[known].T
    for which, found in enumerate(mixture.losses(ids)):
        expected = w[0] * (np.exp(-parts[0][which].losses) + np.exp(-parts[1][which].losses)) / 2 + w[1] * q
        for near, reading in zip(mixture.neighbours, parts, strict=False):
            told, of_all = near.sums(reading[which].states, ids.numpy())
            expected += w[2] * (told + PRIOR * q) / (of_all + PRIOR) / finders
        np.testing.assert_allclose(found, -np.log(expected), rtol=1e-5)
    alone = Mixture(mixture.nets[:1])
    for found, expected in zip(alone.losses(ids), parts[0], strict=True):
        np.testing.assert_array_equal(found, expected.losses)


def test_what_is_sampled_from_is_what_is_scored():
    mixture = two_and_an_ngram()
    ids = some_text(mixture.context, 2)
    cold, _ = mixture.losses(ids)
    with torch.no_grad():
        for i in range(1, len(ids)):
            read = ids[None, :i]
            log_p = mixture.log_probabilities([Reader(net, read).state for net in mixture.nets], read)
            assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-5)
            assert -float(log_p[0, ids[i]]) == pytest.approx(float(cold[i - 1]), abs=1e-5)
        # the cache of each net gives what reading everything again does, also beyond the context
        likeliest = torch.cat(list(generate(mixture, ids[None, :5], 2 * mixture.context, temperature=0)), 1)[0]
        for i in range(mixture.context - 5):
            read = torch.cat([ids[:5], likeliest[:i]])[None]
            log_p = mixture.log_probabilities([Reader(net, read).state for net in mixture.nets], read)
            assert int(log_p.argmax()) == int(likeliest[i])


@given(st.floats(0.02, 0.98), st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_the_trust_is_the_weight_that_made_the_text(w, seed):
    random = np.random.default_rng(seed)
    n = 40_000
    first = random.random(n) < w  # which of two coins, each sure of the other side, was thrown
    sides = random.random(n) < np.where(first, 0.95, 0.05)
    ngram, nets = np.where(sides, 0.95, 0.05), np.where(sides, 0.05, 0.95)
    trust = learn_trust(np.array([nets, ngram]), np.full(n, 2), 3)
    assert trust[2, 1] == pytest.approx(w, abs=0.02)
    np.testing.assert_allclose(trust.sum(1), 1)
    # a third that is sure of nothing is trusted in nothing
    trust = learn_trust(np.array([nets, ngram, np.full(n, 0.01)]), np.full(n, 2), 3)
    np.testing.assert_allclose(trust[2], [1 - w, w, 0], atol=0.02)


def test_the_trust_is_firm_where_there_is_little_to_learn_from():
    for predictors in (2, 3):
        nothing = learn_trust(np.empty((predictors, 0)), np.empty(0, dtype=int), 2)
        np.testing.assert_allclose(nothing, [TRUST[predictors]] * 3)
    better = learn_trust(np.tile([[0.1], [0.9]], FIRM), np.full(FIRM, 1), 2)[:, 1]
    assert TRUST[2][1] < better[0] < better[1] < 1
    assert better[0] == better[2]


def test_the_trust_moves_along_the_gradient():
    p, known = np.array([[0.5, 0.1, 0.2], [0.1, 0.6, 0.2]]), np.array([0, 0, 1])
    logits = [[0.0, 0.0], [0.0, 1.0]]
    found = mixed(p, known, logits)
    first = 0.5 * 0.5 + 0.5 * 0.1
    moved = adaptive.TRUST_RATE * (0.05 / first - 0.5)
    w = 1 / (1 + math.exp(-2 * moved))  # what one logit gains the other loses
    np.testing.assert_allclose(found, [first, (1 - w) * 0.1 + w * 0.6, 0.2], rtol=1e-12)
    np.testing.assert_allclose(logits[1], [0.0, 1.0], atol=1e-15)  # the two agree: nothing to learn


def adapted(mixture: Mixture, ids: torch.Tensor) -> np.ndarray:
    return np.concatenate(list(adaptive_losses(mixture, ids, torch.float32)))


def test_one_that_does_not_learn_scores_as_in_sliding_windows(monkeypatch):
    monkeypatch.setattr(adaptive, "RATE", 0.0)
    monkeypatch.setattr(adaptive, "TRUST_RATE", 0.0)
    monkeypatch.setattr(WordNGram, "learn", lambda *_: None)
    monkeypatch.setattr(Neighbours, "sums_within", lambda _, states, ids: np.zeros((2, len(ids) - 1)))
    ids = some_text(100)
    _, sliding = two_and_an_ngram().losses(ids)
    np.testing.assert_allclose(adapted(two_and_an_ngram(), ids), sliding, atol=2e-5)


def test_every_piece_is_scored_before_it_is_learnt():
    ids, piece = some_text(100), two_and_an_ngram().context // 2
    whole = adapted(two_and_an_ngram(), ids)
    for end in (piece, 3 * piece):
        changed = ids.clone()
        changed[end + 1 :] = (changed[end + 1 :] + 5) % V
        other = adapted(two_and_an_ngram(), changed)
        np.testing.assert_allclose(other[:end], whole[:end], rtol=1e-9)  # products of other sizes
        assert not np.allclose(other[end:], whole[end:])
    _, sliding = two_and_an_ngram().losses(ids)
    assert np.abs(whole[piece:] - sliding[piece:]).max() > 0.02


def test_what_repeats_is_learnt_while_it_is_read():
    ids = some_text(40, 5).repeat(12)
    mixture = two_and_an_ngram()
    _, sliding = mixture.losses(ids)
    losses = adapted(mixture, ids)
    assert losses[-40:].mean() < 0.6 * sliding[-40:].mean()


# ---------------------------------------------------------------- whole runs


def test_the_middle_of_each_part_is_held_back(lm_folder):
    text = learner_of(*TINY).text
    assert text is not None
    train_text = text.vocabulary.decode(text.train.tolist())
    held, learnt = (text.vocabulary.decode(ids.tolist()) for ids in (text.held, text.learnt))
    place = train_text.index(held)
    assert learnt == train_text[:place] + train_text[place + len(held) :]
    assert abs(place + len(held) / 2 - len(train_text) / 2) <= 1
    assert len(held) == pytest.approx(0.1 * len(train_text), abs=1)  # a short text gives a tenth
    alone = learner_of(*TINY, "--without", "mixture").text
    assert alone is not None
    assert len(alone.held) == 0
    assert torch.equal(alone.learnt, alone.train)


def test_two_nets_and_the_n_gram_in_one_run(plain_lm_folder, monkeypatch, capsys):
    steps = TINY[-1]
    both = (*TINY[:-1], str(2 * int(steps)), "--members", "2")
    assert inline(monkeypatch, *both, "--name", "a") == 0
    numbers, state = summary_of("a"), state_of("a")
    assert numbers["members"] == 2
    assert numbers["val_loss"] < numbers["val_loss_nets"]
    # the first net is that of the run that trains it alone
    assert inline(monkeypatch, *TINY, "--name", "alone") == 0
    first = state_of("alone")["model"]
    assert all(torch.equal(state["finished"][0][key], first[key]) for key in first)
    # score.py gives the same number from the checkpoint
    capsys.readouterr()
    assert inline(monkeypatch, "--checkpoint", str(RUNS / "a/checkpoint.pt"), script=score) == 0
    scored = json.loads(capsys.readouterr().out)
    assert scored["loss"] == pytest.approx(numbers["val_loss"], abs=1e-6)
    assert scored["loss_sliding"] == pytest.approx(numbers["val_loss_sliding"], abs=1e-6)
    assert inline(monkeypatch, "--checkpoint", str(RUNS / "a/checkpoint.pt"), "--adaptive", script=score) == 0
    assert json.loads(capsys.readouterr().out)["loss_adaptive"] < numbers["val_loss_nets"]
    # three cannot share so many steps
    assert inline(monkeypatch, *TINY[:-1], "100", "--members", "3") == 2
    assert (
        one_sentence(capsys.readouterr().err) == "error: --steps 100 cannot be shared by --members 3: give a multiple"
    )


def test_a_run_that_was_stopped_in_its_second_net_ends_as_if_it_had_not(plain_lm_folder, monkeypatch):
    both = (*TINY[:-1], "24", "--members", "2")
    assert inline(monkeypatch, *both, "--name", "a") == 0
    update, made = train.update, []

    def breaking(*arguments: Any) -> torch.Tensor:
        if len(made) == 17:
            raise KeyboardInterrupt
        made.append(1)
        return update(*arguments)

    monkeypatch.setattr(train, "SAVE_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(train, "update", breaking)
        assert inline(patch, *both, "--name", "b") == 130
    assert len(state_of("b")["finished"]) == 1
    assert inline(monkeypatch, *both, "--name", "b") == 0
    assert same_weights("a", "b")
    assert metrics_of("a") == metrics_of("b")
    assert summary_of("a")["val_loss"] == summary_of("b")["val_loss"]


def test_the_best_state_on_what_is_held_back_is_taken_at_the_end(lm_folder):
    learner = learner_of(*TINY)
    states = []
    for held_loss in (2.0, 1.5, 1.7):
        with torch.no_grad():
            learner.model.embedding.add_(1.0)
        states.append(learner.copy())
        learner.remember(held_loss)
    learner.take_best()
    assert learner.best is None
    assert torch.equal(learner.model.embedding, states[1]["embedding"])
    learner.remember(9.0)
    learner.next_member()
    assert learner.best is None
    assert torch.equal(learner.finished[0]["embedding"], states[1]["embedding"])


def test_without_an_n_gram_there_is_no_trust(lm_folder):
    learner = learner_of(*TINY, "--without", "mixture")
    mixture = learnt_mixture(learner)
    assert mixture is not None
    assert mixture.ngram is None
    assert not mixture.neighbours
    near = learnt_mixture(learner_of(*TINY))
    assert near is not None
    assert len(near.neighbours) == 1
    far = learnt_mixture(learner_of(*TINY, "--without", "neighbours"))
    assert far is not None
    assert far.ngram is not None
    assert not far.neighbours
    assert learnt_mixture(learner_of("--task", "repeat", "--steps", "3")) is None
