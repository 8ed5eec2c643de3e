"""The nearest neighbours of a net's states: against loops, read at once or in turn, and never from what is to come."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_evaluation import neighbours
from lm_evaluation.lm_losses import read_text
from lm_evaluation.neighbours import FADING, FAR, PRIOR, SHARPNESS, Neighbours, blended, new_neighbours
from texts.vocabulary import build
from tiny_decoder import tiny_decoder

V = 13
NET = tiny_decoder(vocabulary=V)


def some_text(n: int, seed: int = 0, tokens: int = 4) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, tokens, n))


def cold_states(ids: torch.Tensor) -> torch.Tensor:
    return read_text(NET, ids, NET.shape.context)[0].states


def last_tokens(ids: list[int], i: int, matched: int) -> list[int]:
    return [ids[i - back] if i >= back else V for back in range(matched)]


def slow_sums(states: Any, ids: Any, matched: int, kept_states: Any = None, kept_ids: Any = None) -> np.ndarray:
    """By the definition, one pair of places after the other; without kept ones, those of the text itself before each."""
    within = kept_states is None
    kept_states, kept_ids = (states, ids) if within else (kept_states, kept_ids)
    found = np.zeros((2, len(ids) - 1))
    for i in range(len(ids) - 1):
        for j in range(i if within else len(kept_ids) - 1):
            if last_tokens(ids, i, matched) != last_tokens(kept_ids, j, matched):
                continue
            weight = math.exp(SHARPNESS * (float(states[i].double() @ kept_states[j].double()) - 1))
            weight *= (FAR / (i - j)) ** FADING if within else 1
            found[:, i] += [weight * (kept_ids[j + 1] == ids[i + 1]), weight]
    return found


@pytest.mark.parametrize("matched", [1, 2])
@pytest.mark.parametrize("at_once", [1, 50, 1 << 22])
def test_the_sums_are_those_over_all_pairs(matched, at_once, monkeypatch):
    monkeypatch.setattr(neighbours, "AT_ONCE", at_once)
    train, text = some_text(90, 1), some_text(41, 2)
    near = Neighbours(V, matched, torch.float32)
    near.learn(NET, [train])
    kept, states = cold_states(train), cold_states(text)
    expected = slow_sums(states, text.tolist(), matched, kept, train.tolist())
    np.testing.assert_allclose(near.sums(states, text.numpy()), expected, rtol=1e-4)
    assert (expected[1] > 0).mean() > 0.9
    np.testing.assert_allclose(
        near.sums_within(states, text.numpy()), slow_sums(states, text.tolist(), matched), rtol=1e-4
    )


def test_two_texts_are_kept_as_each_alone():
    first, second, text = some_text(50, 1), some_text(30, 3), some_text(41, 2)
    states = cold_states(text)
    each = []
    for one in (first, second):
        near = Neighbours(V, 2, torch.float32)
        near.learn(NET, [one])
        each.append(near.sums(states, text.numpy()))
    both, in_turn = Neighbours(V, 2, torch.float32), Neighbours(V, 2, torch.float32)
    both.learn(NET, [first, second, some_text(1)])  # a single token is no place
    in_turn.learn(NET, [first])
    in_turn.learn(NET, [second])
    in_turn.learn(NET, [])
    for near in (both, in_turn):
        np.testing.assert_allclose(near.sums(states, text.numpy()), each[0] + each[1], rtol=1e-5)
    assert len(both.codes) == 49 + 29


def test_of_a_longer_text_windows_from_all_of_it_are_kept(monkeypatch):
    context = NET.shape.context
    monkeypatch.setattr(neighbours, "MOST_PLACES", 4 * context)
    near = Neighbours(V, 1, torch.float32)
    text = torch.arange(20 * context + 1) // (5 * context) % V
    near.learn(NET, [text])
    assert len(near.codes) == 4 * context
    assert set(near.codes.tolist()) == {0, 1, 2, 3}


@given(st.integers(0, 2**32 - 1), st.integers(2, 39), st.integers(1, 2))
@settings(max_examples=20, deadline=None)
def test_nothing_is_told_by_what_comes_later(seed, place, matched):
    text = some_text(41, seed)
    near = Neighbours(V, matched, torch.float32)
    near.learn(NET, [some_text(90, 1)])
    changed = text.clone()
    changed[place + 1 :] = (changed[place + 1 :] + 1) % V
    for sums in (near.sums, near.sums_within):
        found, other = (sums(cold_states(ids), ids.numpy()) for ids in (text, changed))
        np.testing.assert_allclose(other[:, :place], found[:, :place], rtol=1e-5)
        np.testing.assert_allclose(other[1, place], found[1, place], rtol=1e-5)  # all of them, whatever follows


@pytest.mark.parametrize("matched", [1, 2])
def test_what_follows_is_told_for_every_token(matched):
    near, text = Neighbours(V, matched, torch.float32), some_text(41, 2)
    near.learn(NET, [some_text(90, 1)])
    states = cold_states(text)
    sums = near.sums(states, text.numpy())
    for i in range(len(text) - 1):
        told, of_all = near.following(states[i], text[: i + 1].numpy())
        assert told.sum() == pytest.approx(of_all)
        assert [told[text[i + 1]], of_all] == pytest.approx(sums[:, i], rel=1e-4)


def test_the_n_gram_is_heard_where_no_neighbour_is_near():
    q = np.array([0.2, 0.2])
    np.testing.assert_allclose(
        blended(np.array([[0.0, 30.0], [0.0, 40.0]]), q), [0.2, (30 + 0.2 * PRIOR) / (40 + PRIOR)]
    )


def test_a_place_that_comes_again_is_known_again():
    """A cycle that no net has learnt is told by its own earlier turns."""
    text = some_text(30, 7, V).repeat(6)
    near = Neighbours(V, 2, torch.float32)
    told, of_all = near.sums_within(read_text(NET, text, NET.shape.context)[1].states, text.numpy())
    assert (told[-30:] / of_all[-30:]).min() > 0.95


def test_characters_are_matched_in_pairs_pieces_alone_and_words_not():
    for kind, matched in (("char", 2), ("bpe", 1)):
        vocabulary = build(kind, "a rose is a rose " * 40, 0)
        found = new_neighbours(3, vocabulary, torch.float32)
        assert [(one.matched, one.vocabulary) for one in found] == [(matched, vocabulary.size)] * 2
    assert new_neighbours(0, vocabulary, torch.float32) == ()
    assert new_neighbours(3, build("word", "a rose is a rose " * 40, 0), torch.float32) == ()
