"""Modified Kneser-Ney: against dictionaries, a table made by hand, and what probabilities must be."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from texts.anchors import MAX_ORDERS, Pieces, ngram
from texts.kneser_ney import FALLBACK, discounts, kneser_ney


def slow_discounts(counts: list[int]) -> list[float]:
    n = [counts.count(r) for r in range(5)]
    if n[1] and n[2] and n[3]:
        Y = n[1] / (n[1] + 2 * n[2])
        found = [r - (r + 1) * Y * n[r + 1] / n[r] for r in (1, 2, 3)]
        if all(0 < d < r for r, d in enumerate(found, 1)):
            return found
    return list(FALLBACK)


def slow_kneser_ney(train: list[int], val: list[int], vocab_size: int, max_order: int) -> np.ndarray:
    """The docstring's equation, by recursion over dictionaries: log-probabilities (max_order, n - 1)."""
    padded = [-1] * max_order + train  # -1: the beginning of the text
    ends = range(max_order + 1, len(padded) + 1)
    raw = {k: Counter(tuple(padded[i - k : i]) for i in ends) for k in range(1, max_order + 1)}
    before = defaultdict(set)
    for k in range(1, max_order):
        for gram in raw[k + 1]:
            before[gram[1:]].add(gram[0])
    distinct = {k: {gram: len(before[gram]) for gram in raw[k]} for k in range(1, max_order)}

    def probability(token: int, context: tuple[int, ...], count: dict) -> float:
        k = len(context) + 1
        lower = probability(token, context[1:], distinct[k - 1]) if context else 1 / vocab_size
        followers = {gram[-1]: c for gram, c in count.items() if gram[:-1] == context}
        if not followers:
            return lower
        D = [0.0, *slow_discounts(list(count.values()))]
        total, freed = sum(followers.values()), sum(D[min(c, 3)] for c in followers.values())
        c = followers.get(token, 0)
        return (c - D[min(c, 3)] + freed * lower) / total

    def of_order(k: int, i: int) -> float:
        """A context that the validation text's beginning cuts short is one that training lacks."""
        if i >= k - 1:
            return probability(val[i], tuple(val[i - k + 1 : i]), raw[k])
        return probability(val[i], tuple(val[:i]), distinct[i + 1])

    rows = [[math.log(of_order(k, i)) for i in range(1, len(val))] for k in range(1, max_order + 1)]
    return np.array(rows).reshape(max_order, max(len(val) - 1, 0))


@st.composite
def token_texts(draw):
    """A vocabulary size (small or too large for a table), training and validation tokens, a largest order."""
    vocab_size = draw(st.sampled_from([1, 2, 3, 5, 1000, 2**31]))
    token = st.sampled_from(sorted({0, vocab_size // 2, vocab_size - 1}))
    train = draw(st.lists(token, max_size=40))
    # Half of the validation texts begin in the training text, so that long contexts are known.
    start = draw(st.integers(0, len(train)))
    val = (train[start : start + draw(st.integers(0, 12))] if draw(st.booleans()) else []) + draw(
        st.lists(token, max_size=12)
    )
    return vocab_size, train, val, draw(st.integers(1, 7))


@given(token_texts())
@settings(max_examples=200, deadline=None)
def test_kneser_ney_is_the_equation(texts):
    vocab_size, train, val, max_order = texts
    log_p = kneser_ney(np.array(train), np.array(val), vocab_size, max_order)
    np.testing.assert_allclose(log_p, slow_kneser_ney(train, val, vocab_size, max_order), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("vocab_size", "max_order"), [(23, 7), (100_000, 5)])
def test_a_longer_text_whose_counts_give_the_discounts(vocab_size, max_order):
    """Long contexts, sorted in several steps where the vocabulary is large."""
    rng = np.random.default_rng(0)
    text = np.cumsum(rng.geometric(0.5, 700)) * 7 % 23 * (vocab_size // 23)  # a walk in which contexts recur
    log_p = kneser_ney(text[:600], text[600:], vocab_size, max_order)
    slow = slow_kneser_ney(text[:600].tolist(), text[600:].tolist(), vocab_size, max_order)
    np.testing.assert_allclose(log_p, slow, rtol=0, atol=1e-9)
    grams = Counter(zip(text[:599].tolist(), text[1:600].tolist(), strict=True))
    assert discounts(np.array(list(grams.values())))[1:].tolist() != list(FALLBACK)


def test_hand_table():
    """Trained on `aabaa`, whose counts of counts give no discounts: 0.5, 1 and 1.5.

    Different tokens stand before `a`: the beginning, a, b; before `b`: a. So below the highest order p(a) is
    (3 - 1.5 + 2 / 2) / 4 = 0.625. After `a` stand a, twice, and b, in the second order's counts and in those of different
    tokens before (`aa`: the beginning, b). The closing `aa` is a context that nothing follows, `bb` one that never occurs.
    """
    a, b = 0, 1
    p = np.exp(kneser_ney(np.array([a, a, b, a, a]), np.array([a, a, b, b, a]), vocab_size=2, max_order=3))
    second = {"aa": (2 - 1 + 1.5 * 0.625) / 3, "ab": (1 - 0.5 + 1.5 * 0.375) / 3, "ba": 0.8125, "bb": 0.1875}
    expected = [
        [0.7, 0.3, 0.3, 0.7],  # p(a) = (4 - 1.5 + 2 / 2) / 5
        [second["aa"], second["ab"], second["bb"], second["ba"]],
        # The first has no second token before it; aab was seen once, abb never, and nothing after bb.
        [second["aa"], 0.5 + 0.5 * second["ab"], 0.5 * second["bb"], second["ba"]],
    ]
    np.testing.assert_allclose(p, expected, rtol=1e-12)


def test_discounts_by_hand():
    """n = 4, 2, 1, 1: Y = 4 / 8, D = 1 - 2 Y 2/4, 2 - 3 Y 1/2, 3 - 4 Y 1/1."""
    counts = np.array([0, 1, 1, 1, 1, 2, 2, 3, 4, 9])
    np.testing.assert_allclose(discounts(counts), [0, 0.5, 1.25, 1.0])
    np.testing.assert_allclose(discounts(np.array([1, 2])), [0, *FALLBACK])
    np.testing.assert_allclose(discounts(np.array([1, 2, 2, 3, 3, 3, 3])), [0, *FALLBACK])  # D_2 would be negative


@given(token_texts())
@settings(max_examples=60, deadline=None)
def test_probabilities_of_all_tokens_sum_to_one(texts):
    _, train, val, max_order = texts
    train, context = [t % 5 for t in train], [t % 5 for t in val] or [0]
    p = [np.exp(kneser_ney(np.array(train), np.array([*context, t]), 5, max_order))[:, -1] for t in range(5)]
    np.testing.assert_allclose(np.sum(p, 0), 1, rtol=1e-12)
    assert np.min(p) > 0


@given(token_texts(), st.integers(0, 12))
@settings(max_examples=60, deadline=None)
def test_a_frozen_model_that_looks_back_only(texts, cut):
    """A token's probability depends on the tokens before it alone, and on nothing learnt from the validation text."""
    vocab_size, train, val, max_order = texts
    whole = kneser_ney(np.array(train), np.array(val), vocab_size, max_order)
    part = kneser_ney(np.array(train), np.array(val[:cut]), vocab_size, max_order)
    np.testing.assert_array_equal(whole[:, : part.shape[1]], part)
    again = kneser_ney(np.array(train), np.array(val + val), vocab_size, max_order)[:, len(val) + max_order - 1 :]
    np.testing.assert_array_equal(again, whole[:, max_order - 1 :][:, : again.shape[1]])


def test_unseen_tokens_and_contexts_cost_what_the_equation_says():
    # No training text at all: uniform at every order.
    np.testing.assert_allclose(kneser_ney(np.array([]), np.array([3, 1, 2]), 4, 6), math.log(1 / 4), rtol=1e-12)
    # 9 tokens `0` leave 1.5 / 9 to share for the first order. In the counts of different tokens before, there are two
    # before 0, of which 1 is taken; the two orders below the third each leave half for what they have not seen.
    log_p = kneser_ney(np.zeros(9, dtype=int), np.array([5, 6, 7]), 1000, 3)
    np.testing.assert_allclose(log_p[0], math.log(1.5 / 9 / 1000), rtol=1e-12)
    np.testing.assert_allclose(log_p[1:], math.log(1 / 2 / 1000), rtol=1e-12)


def test_random_tokens_cost_at_least_the_uniform_code():
    rng = np.random.default_rng(1)
    nats = -kneser_ney(rng.integers(0, 16, 50_000), rng.integers(0, 16, 50_000), 16, 6).mean(1)
    assert nats[0] == pytest.approx(math.log(16), abs=2e-3)
    assert nats.tolist() == sorted(nats), "there is nothing to learn, so that each longer context only adds noise"
    assert nats[0] >= math.log(16) - 1e-3


def test_a_markov_chain_costs_its_entropy_rate():
    """Next = present + 0, 1 or 2 with probabilities 1/2, 1/4, 1/4: 1.5 bits a token, which order 2 knows already."""
    steps = np.random.default_rng(2).choice([0, 1, 2], 200_000, p=[0.5, 0.25, 0.25])
    chain = np.cumsum(steps) % 9
    nats = -kneser_ney(chain[:150_000], chain[150_000:], 9, 6).mean(1)
    assert nats[0] == pytest.approx(math.log(9), abs=0.01)
    assert nats[1:5] == pytest.approx([1.5 * math.log(2)] * 4, abs=0.01)


def pieces(train: np.ndarray, val: np.ndarray) -> Pieces:
    return Pieces("", "", train, val)


def test_the_order_is_chosen_on_the_development_slice():
    """A chain that looks back two tokens in training; the validation text is noise, for which order 1 is best."""
    rng = np.random.default_rng(3)
    chain = [0, 1]
    for step in rng.choice([0, 1], 3000, p=[0.9, 0.1]):
        chain.append((chain[-1] + 2 * chain[-2] + step) % 7)
    text = pieces(np.array(chain), rng.integers(0, 7, 400))
    inner = pieces(np.array(chain[:2700]), np.array(chain[2700:]))
    found = ngram(text, inner, 7)
    development = -kneser_ney(inner.train_ids, inner.val_ids, 7, MAX_ORDERS[0]).mean(1)
    assert found.order == int(np.argmin(development)) + 1 >= 3
    assert not found.at_edge
    assert found.development_by_order == pytest.approx(development.tolist())
    assert np.argmin(found.by_order) == 0, "what is best on the validation text is not taken"
    np.testing.assert_allclose(found.nats, -kneser_ney(text.train_ids, text.val_ids, 7, found.order)[-1])


def test_a_context_longer_than_the_first_twelve_orders_is_found():
    """What follows twenty zeros is told by what stood before them: order 22 or more."""
    blocks = [[1, *[0] * 20, 3], [2, *[0] * 20, 4]]
    text = np.concatenate([blocks[which] for which in np.random.default_rng(4).integers(0, 2, 90)])
    found = ngram(pieces(text[:1600], text[1600:]), pieces(text[:1400], text[1400:1600]), 5)
    assert len(found.development_by_order) == MAX_ORDERS[1]
    assert 22 <= found.order < MAX_ORDERS[1]
    assert not found.at_edge


@pytest.mark.parametrize(("train", "val"), [([0, 4], [0, 1]), ([0, 1], [0, 4]), ([-1, 0], [0, 1]), ([0, 1], [0, -1])])
def test_ids_outside_the_vocabulary_are_refused(train, val):
    with pytest.raises(ValueError, match="vocabulary of 4"):
        kneser_ney(np.array(train), np.array(val), 4, 3)


def test_nothing_to_score_is_refused():
    with pytest.raises(ValueError, match="at least two tokens"):
        ngram(pieces(np.array([0, 1, 2]), np.array([1])), pieces(np.array([0]), np.array([1, 2])), 3)
