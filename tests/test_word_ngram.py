"""The n-gram of letters and words: against dictionaries, counted at once and piece by piece."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from texts.kneser_ney import discounts, kneser_ney
from texts.vocabulary import build
from texts.word_ngram import SHAPES, WordNGram, choose_shape, count_words

IN_WORD = np.array([True, True, True, False, False])  # three letters, and two that stand between words
letters_and_words = st.tuples(st.integers(0, 3), st.integers(0, 3))
texts = st.lists(st.integers(0, 4), min_size=2, max_size=40)


def slow_contexts(ids: list[int], i: int, letters: int, words: int) -> list[tuple]:
    """The contexts that end with token i, each a longer tuple than the one before."""
    parts: list = [ids[i - back] if i >= back else None for back in range(letters)]
    if words:
        runs: list[list[int]] = []
        for token in ids[: i + 1]:
            if runs and IN_WORD[runs[-1][-1]] == IN_WORD[token]:
                runs[-1].append(token)
            else:
                runs.append([token])
        earlier = [tuple(run) for run in runs[:-1] if IN_WORD[run[0]]][::-1]
        parts += [tuple(runs[-1]), *(earlier + [()] * words)[:words]]
    return [tuple(parts[:n]) for n in range(len(parts) + 1)]


def slow_probability(
    places: list[tuple[list[tuple], int]], table: list[np.ndarray], contexts: list[tuple], token: int
) -> tuple[float, int]:
    """p of a token and how many of its contexts are known, by the equation, from all (contexts, token) that were counted."""
    depth = len(contexts)
    count: list[Counter] = [Counter() for _ in range(depth)]
    for others, following in places:
        count[-1][others[-1], following] += 1
    for k in range(depth - 1):
        longer = defaultdict(set)
        for others, following in places:
            longer[others[k], following].add(others[k + 1])
        count[k].update({gram: len(different) for gram, different in longer.items()})
    p, known = 1 / len(IN_WORD), 0
    for k in range(depth):
        followers = {gram[1]: c for gram, c in count[k].items() if gram[0] == contexts[k]}
        if followers:
            taken = {t: table[k][min(c, 3)] for t, c in followers.items()}
            c = followers.get(token, 0)
            p = (c - taken.get(token, 0) + sum(taken.values()) * p) / sum(followers.values())
            known += 1
    return p, known


def places_of(ids: list[int], shape: tuple[int, int], first: int = 0) -> list[tuple[list[tuple], int]]:
    return [(slow_contexts(ids, i, *shape), ids[i + 1]) for i in range(first, len(ids) - 1)]


@given(texts, texts, letters_and_words)
@settings(max_examples=60, deadline=None)
def test_it_is_the_equation(train, text, shape):
    found, known = (ngram := WordNGram(np.array(train), IN_WORD, *shape)).probabilities(np.array(text))
    places = places_of(train, shape)
    expected = [slow_probability(places, ngram.discounts, *place) for place in places_of(text, shape)]
    np.testing.assert_allclose(found, [p for p, _ in expected], rtol=1e-12)
    assert known.tolist() == [n for _, n in expected]


@given(texts, texts, letters_and_words, st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_what_is_read_later_counts_as_if_it_had_been_there(train, text, shape, piece):
    ngram = WordNGram(np.array(train), IN_WORD, *shape)
    for start in range(0, len(text) - 1, piece):
        ngram.learn(np.array(text[: start + piece + 1]), start)
    places = places_of(train, shape) + places_of(text, shape)
    found, known = ngram.probabilities(np.array(text))
    expected = [slow_probability(places, ngram.discounts, *place) for place in places_of(text, shape)]
    np.testing.assert_allclose(found, [p for p, _ in expected], rtol=1e-9)
    assert known.tolist() == [n for _, n in expected]


@given(texts, texts, letters_and_words)
@settings(max_examples=30, deadline=None)
def test_what_may_follow_sums_to_one_and_is_what_is_scored(train, text, shape):
    ngram = WordNGram(np.array(train), IN_WORD, *shape)
    ngram.learn(np.array(text[:5]))
    scored, known = ngram.probabilities(np.array(text))
    for i in range(len(text) - 1):
        p, depth = ngram.following(np.array(text[: i + 1]))
        assert p.sum() == pytest.approx(1, abs=1e-12)
        assert p[text[i + 1]] == pytest.approx(scored[i], rel=1e-12)
        assert depth == known[i]


def test_without_words_it_is_the_n_gram_of_characters():
    random = np.random.default_rng(0)
    train, text = random.integers(0, 4, 30_000) % 3, random.integers(0, 3, 500)
    in_word = np.ones(3, dtype=bool)
    for letters in (0, 2, 4):
        found, _ = WordNGram(train, in_word, letters, 0).probabilities(text)
        # which counts the first token too, after a beginning: one place of 30,000
        expected = kneser_ney(train, text, 3, letters + 1)[-1]
        np.testing.assert_allclose(np.log(found)[letters:], expected[letters:], atol=0.02)


def test_a_word_is_one_step_of_context():
    text = "the cat sat. the dog sat. the cat ran. the dog ran. " * 9
    vocabulary = build("char", text, 0)
    ngram = count_words(vocabulary.encode(text), vocabulary, (3, 4))
    for before, likely in (("the cat sat. the ", "d"), ("the cat ran. the ", "d"), ("the dog sat. the ", "c")):
        p, known = ngram.following(vocabulary.encode(before))
        assert vocabulary.tokens[int(p.argmax())].decode() == likely
        assert known == ngram.depth


def test_the_discounts_are_those_of_the_counts():
    train = np.random.default_rng(1).integers(0, 5, 400)
    ngram = WordNGram(train, IN_WORD, 1, 0)
    pairs = Counter(zip(train[:-1].tolist(), train[1:].tolist(), strict=True))
    np.testing.assert_array_equal(ngram.discounts[1], discounts(np.array(list(pairs.values()))))


def test_the_shape_is_the_one_that_predicts_what_was_held_back():
    text = "def f(first, second):\n    return first.value + second.value\n" * 30
    vocabulary = build("char", text, 0)
    ids = vocabulary.encode(text)
    losses = {}
    for shape in SHAPES:
        p, _ = count_words(ids[:600], vocabulary, shape).probabilities(ids[600:900])
        losses[shape] = -np.log(p).sum()
    assert choose_shape(ids[:600], ids[600:900], vocabulary) == min(losses, key=lambda shape: losses[shape])
    assert choose_shape(ids, ids, build("word", text, 50)) == (3, 0)


def test_ids_beyond_the_vocabulary_are_refused():
    with pytest.raises(ValueError, match="token ids from 0 to 5 do not fit a vocabulary of 5"):
        WordNGram(np.array([0, 5]), IN_WORD, 1, 1)
    with pytest.raises(ValueError, match="from -1"):
        WordNGram(np.array([0, 1]), IN_WORD, 1, 1).probabilities(np.array([-1, 1]))
