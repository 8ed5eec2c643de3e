"""Anchors: Witten-Bell n-grams against a dictionary, compressors against their code lengths, the longest recited part."""

import json
import lzma
import math
import os
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from texts.anchors import PPMD_ORDERS, anchors, longest_match, nats_given_train, ngram, ppmd_nats, witten_bell, xz_nats

LETTERS = "".join(chr(code) for code in range(48, 48 + 64))  # 64 characters, a byte each


def random_text(n: int, seed: int) -> str:
    return "".join(np.random.default_rng(seed).choice(list(LETTERS), n))


def wordy_text(n: int, seed: int) -> str:
    """About n characters of a few hundred words in Zipf's proportions: enough like language to tell settings apart."""
    rng = np.random.default_rng(seed)
    words = ["".join(np.random.default_rng(rank).choice(list("aeinorst"), 2 + rank % 7)) for rank in range(300)]
    odds = 1 / np.arange(1, 301)
    return " ".join(rng.choice(words, n // 5, p=odds / odds.sum()))[:n]


def slow_witten_bell(train: list[int], val: list[int], vocab_size: int, max_order: int) -> np.ndarray:
    """The docstring's equation, by recursion over dictionaries: log-probabilities (max_order, n - 1)."""
    followers = defaultdict(Counter)
    for i, token in enumerate(train):
        for length in range(min(i, max_order - 1) + 1):
            followers[tuple(train[i - length : i])][token] += 1

    def probability(token: int, context: tuple[int, ...]) -> float:
        lower = probability(token, context[1:]) if context else 1 / vocab_size
        seen = followers.get(context, Counter())
        if not seen:
            return lower
        return (seen[token] + len(seen) * lower) / (seen.total() + len(seen))

    return np.array(
        [
            [math.log(probability(val[i], tuple(val[max(0, i - k + 1) : i]))) for i in range(1, len(val))]
            for k in range(1, max_order + 1)
        ]
    ).reshape(max_order, max(len(val) - 1, 0))


@st.composite
def token_texts(draw):
    """A vocabulary size (small: counted in tables; large: sorted), training and validation tokens, a largest order."""
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
@settings(max_examples=300, deadline=None)
def test_witten_bell_is_the_equation(texts):
    vocab_size, train, val, max_order = texts
    log_p = witten_bell(np.array(train), np.array(val), vocab_size, max_order)
    np.testing.assert_allclose(log_p, slow_witten_bell(train, val, vocab_size, max_order), rtol=0, atol=1e-9)


def test_witten_bell_on_a_long_text_is_the_equation():
    """As long as the counts, the contexts of five tokens and both ways of numbering them matter."""
    rng = np.random.default_rng(0)
    text = np.cumsum(rng.integers(0, 2, 3000)) * 7 % 23  # a walk in which contexts recur
    log_p = witten_bell(text[:2500], text[2500:], 23)
    np.testing.assert_allclose(log_p, slow_witten_bell(list(text[:2500]), list(text[2500:]), 23, 6), rtol=0, atol=1e-9)


def test_hand_table():
    """Trained on `aabaa`. The closing `aa` is a context that nothing follows, `bb` one that never occurs."""
    a, b = 0, 1
    p = np.exp(witten_bell(np.array([a, a, b, a, a]), np.array([a, a, b, b, a]), vocab_size=2, max_order=3))
    expected = [
        [5 / 7, 2 / 7, 2 / 7, 5 / 7],  # p(a) = (4 + 2/2) / (5 + 2)
        [24 / 35, 11 / 35, 1 / 7, 6 / 7],  # a|a = (2 + 2 * 5/7) / (3 + 2), b|a, b|b, a|b
        [24 / 35, 23 / 35, 1 / 14, 6 / 7],  # a|a (no longer context yet), b|aa, b|ab, a|bb = a|b
    ]
    np.testing.assert_allclose(p, expected, rtol=1e-12)


@given(token_texts().filter(lambda texts: texts[0] <= 5), st.data())
@settings(max_examples=100, deadline=None)
def test_probabilities_sum_to_one_over_the_vocabulary(texts, data):
    vocab_size, train, context, max_order = texts
    context = [*context, data.draw(st.integers(0, vocab_size - 1))]
    total = sum(
        np.exp(witten_bell(np.array(train), np.array([*context, token]), vocab_size, max_order)[:, -1])
        for token in range(vocab_size)
    )
    np.testing.assert_allclose(total, np.ones(max_order), rtol=1e-12)


@given(token_texts(), st.integers(2, 12))
@settings(max_examples=100, deadline=None)
def test_the_ngram_is_frozen_and_causal(texts, cut):
    """A token's score depends on the tokens before it alone, and on nothing learnt from the validation text."""
    vocab_size, train, val, max_order = texts
    whole = witten_bell(np.array(train), np.array(val), vocab_size, max_order)
    part = witten_bell(np.array(train), np.array(val[:cut]), vocab_size, max_order)
    np.testing.assert_array_equal(whole[:, : part.shape[1]], part)
    again = witten_bell(np.array(train), np.array(val + val), vocab_size, max_order)[:, len(val) + max_order - 1 :]
    np.testing.assert_array_equal(again, whole[:, max_order - 1 :][:, : again.shape[1]])


def test_unseen_tokens_and_contexts_cost_what_the_equation_says():
    # No training text at all: uniform at every order.
    np.testing.assert_allclose(witten_bell(np.array([]), np.array([3, 1, 2]), 4), math.log(1 / 4), rtol=1e-12)
    # 9 tokens `0` leave (1 x 1/V) / (9 + 1) for each other one; after unseen tokens every order backs off to that.
    log_p = witten_bell(np.zeros(9, dtype=int), np.array([5, 6, 7]), 1000)
    np.testing.assert_allclose(log_p, math.log(1 / 1000 / 10), rtol=1e-12)


def test_random_tokens_cost_at_least_the_uniform_code():
    rng = np.random.default_rng(1)
    nats = ngram(rng.integers(0, 16, 50_000), rng.integers(0, 16, 50_000), 16).nats_by_order
    assert nats[0] == pytest.approx(math.log(16), abs=2e-3)
    assert nats == sorted(nats), "there is nothing to learn, so that each longer context only adds noise"
    assert nats[0] >= math.log(16) - 1e-3


def test_a_markov_chain_costs_its_entropy_rate():
    """Next = present + 0, 1 or 2 with probabilities 1/2, 1/4, 1/4: 1.5 bits a token, which order 2 knows already."""
    steps = np.random.default_rng(2).choice([0, 1, 2], 200_000, p=[0.5, 0.25, 0.25])
    chain = np.cumsum(steps) % 9
    nats = ngram(chain[:150_000], chain[150_000:], 9).nats_by_order
    assert nats[0] == pytest.approx(math.log(9), abs=0.01)
    assert nats[1:] == pytest.approx([1.5 * math.log(2)] * 5, abs=0.01)


def test_ngram_reports_the_best_order_and_its_tokens():
    text = np.random.default_rng(3).integers(0, 2, 400).cumsum() % 5
    result, log_p = ngram(text[:300], text[300:], 5, max_order=4), witten_bell(text[:300], text[300:], 5, 4)
    assert result.nats_by_order == pytest.approx([-row.mean() for row in log_p])
    assert result.nats == min(result.nats_by_order) == result.nats_by_order[result.order - 1]
    assert result.log_probs.shape == (99,)
    np.testing.assert_array_equal(result.log_probs, log_p[result.order - 1])


@pytest.mark.parametrize(("train", "val"), [([0, 4], [0, 1]), ([0, 1], [0, 4]), ([-1, 0], [0, 1]), ([0, 1], [0, -1])])
def test_ids_outside_the_vocabulary_are_refused(train, val):
    with pytest.raises(ValueError, match="vocabulary of 4"):
        witten_bell(np.array(train), np.array(val), 4)


def test_nothing_to_score_is_refused():
    with pytest.raises(ValueError, match="at least two tokens"):
        ngram(np.array([0, 1, 2]), np.array([1]), 3)
    for anchor in (xz_nats, lambda train, validation: nats_given_train(len, train, validation)):
        with pytest.raises(ValueError, match="empty"):
            anchor("some text", "")


def test_tiny_shakespeare():
    """An independent count gave 1.698 nats a character for contexts of five characters, that is order 6 here."""
    file = Path(os.environ.get("REPLICATIONS_DATA", "")) / "tinyshakespeare" / "input.txt"
    if not file.is_file():
        pytest.skip("$REPLICATIONS_DATA has no tinyshakespeare/input.txt")
    text = file.read_text(encoding="utf-8")
    alphabet, ids = np.unique(np.array(list(text)), return_inverse=True)
    cut = int(0.9 * len(text))
    result = ngram(ids[:cut], ids[cut:], len(alphabet))
    assert result.nats_by_order[5] == pytest.approx(1.698, abs=0.002)
    assert result.nats_by_order[3] == pytest.approx(1.774, abs=0.002)
    assert (result.order, result.nats) == (5, pytest.approx(1.669, abs=0.002))


def test_nats_given_train_is_a_difference_of_code_lengths():
    sizes = {b"ab": 100, b"abcd\xc3\xa9": 103}
    assert nats_given_train(sizes.__getitem__, "ab", "cdé") == pytest.approx(3 * 8 * math.log(2) / 3)
    assert nats_given_train(len, random_text(10, 0), random_text(7, 1)) == pytest.approx(8 * math.log(2))


def test_xz_is_the_difference_of_two_lzma2_streams():
    train, validation = wordy_text(20_000, 0), wordy_text(5000, 1)

    def size(text: str, preset: int) -> int:
        compressor = lzma.LZMACompressor(lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": preset}])
        return len(compressor.compress(text.encode()) + compressor.flush())

    best, plain, found = [], [], []
    for n in range(4900, 5000, 20):
        for preset, extra_bytes in ((9 | lzma.PRESET_EXTREME, best), (9, plain)):
            extra_bytes.append(size(train + validation[:n], preset) - size(train, preset))
        found.append(xz_nats(train, validation[:n]) * n / 8 / math.log(2))
    assert found == pytest.approx(best)
    assert best != plain, "long enough texts to show what `extreme` changes"
    assert any(extra % 4 for extra in best), "containers, which are padded to four bytes, would have other sizes"


def test_xz_remembers_the_whole_training_text_and_cannot_compress_noise():
    noise = random_text(30_000, 4)
    assert xz_nats(noise, noise[:3000]) < 0.05, "the far end of the training text is within reach"
    assert math.log(64) - 0.01 < xz_nats(noise, random_text(3000, 5)) < math.log(64) * 1.05


def test_ppmd_is_the_best_difference_of_code_lengths():
    pyppmd = pytest.importorskip("pyppmd", reason="the optional package pyppmd is not installed")
    train, validation = wordy_text(20_000, 2), wordy_text(5000, 3)
    extra_bytes = {}
    for order in PPMD_ORDERS:
        size = [
            len(pyppmd.compress(text.encode(), max_order=order, mem_size=1 << 24, variant="H"))
            for text in (train, train + validation)
        ]
        extra_bytes[order] = size[1] - size[0]
        nats = extra_bytes[order] * 8 * math.log(2) / len(validation)
        assert ppmd_nats(train, validation, (order,)) == pytest.approx(nats)
    assert len(set(extra_bytes.values())) > 1, "the orders differ on this text"
    assert ppmd_nats(train, validation) == pytest.approx(min(extra_bytes.values()) * 8 * math.log(2) / len(validation))


def test_ppmd_on_repetition_and_on_noise():
    pytest.importorskip("pyppmd", reason="the optional package pyppmd is not installed")
    noise = random_text(30_000, 8)
    repeated, fresh = ppmd_nats(noise, noise[:3000]), ppmd_nats(noise, random_text(3000, 9))
    assert repeated is not None
    assert fresh is not None
    assert repeated < 0.5  # PPMd has no long matches: each character of the copy is predicted anew
    assert math.log(64) - 0.01 < fresh < math.log(64) * 1.1


def test_anchors_without_pyppmd(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyppmd", None)  # what `import` finds when a package is not there
    assert ppmd_nats("some text", "more text") is None
    ids = np.array([0, 1, 0, 1])
    assert anchors("abab", "abab", ids, ids, 2, n_chars=3)["ppmd_nats_per_char"] is None


def test_anchors_count_characters_and_tokens():
    """Two characters a token: half of a token's nats a character. All of it plain numbers that JSON keeps."""
    text = random_text(600, 10)[:64] * 9
    ids = np.array([LETTERS.index(first) for first in text[::2]])
    cut = 2 * len(ids) // 3
    result = anchors(text[: 2 * cut], text[2 * cut :], ids[:cut], ids[cut:], 64, n_chars=2 * (len(ids) - cut - 1))
    best = ngram(ids[:cut], ids[cut:], 64)
    assert json.loads(json.dumps(result)) == result
    assert result["ngram_nats"] == best.nats
    assert result["ngram_order"] == best.order
    assert result["ngram_by_order"] == best.nats_by_order
    assert result["ngram_nats_per_char"] == pytest.approx(best.nats / 2)
    assert result["xz_nats_per_char"] == xz_nats(text[: 2 * cut], text[2 * cut :])
    assert result["ppmd_nats_per_char"] == ppmd_nats(text[: 2 * cut], text[2 * cut :])


def slow_longest_match(sample: str, training: str) -> tuple[int, str]:
    for length in range(len(sample), 0, -1):
        found = {sample[i : i + length] for i in range(len(sample) - length + 1) if sample[i : i + length] in training}
        if found:
            return length, min(found, key=training.find)
    return 0, ""


@given(st.text("ab", max_size=20), st.text("abc", max_size=40))
@settings(max_examples=300, deadline=None)
def test_longest_match_on_few_letters(sample, training):
    assert longest_match(sample, training) == slow_longest_match(sample, training)


@given(st.text(st.sampled_from("aé\n🙂\ud800"), max_size=12), st.text(st.sampled_from("aé\n🙂\ud800z"), max_size=12))
@settings(max_examples=200, deadline=None)
def test_longest_match_on_any_characters(sample, training):
    assert longest_match(sample, training) == slow_longest_match(sample, training)
    inside = training + sample + training
    assert longest_match(sample, inside) == (len(sample), sample)


def test_longest_match_finds_a_recited_line():
    training, line = random_text(100_000, 11), "It is a tale told by an idiot"
    recited = longest_match(random_text(2000, 12) + line + random_text(2000, 13), training + line + training)
    assert recited == (len(line), line)
