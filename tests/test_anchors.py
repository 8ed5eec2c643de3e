"""Anchors: compressors against their code lengths, orders chosen where nothing is reported, the longest recited part."""

import json
import lzma
import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from texts.anchors import (
    PPMD_ORDERS,
    Pieces,
    anchors,
    downhill,
    has_ppmd,
    longest_match,
    nats_of,
    ngram,
    ppmd,
    ppmd_bytes,
    xz_nats,
)

LETTERS = "".join(chr(code) for code in range(48, 48 + 64))  # 64 characters, a byte each


def random_text(n: int, seed: int) -> str:
    return "".join(np.random.default_rng(seed).choice(list(LETTERS), n))


def wordy_text(n: int, seed: int) -> str:
    """About n characters of a few hundred words in Zipf's proportions: enough like language to tell settings apart."""
    rng = np.random.default_rng(seed)
    words = ["".join(np.random.default_rng(rank).choice(list("aeinorst"), 2 + rank % 7)) for rank in range(300)]
    odds = 1 / np.arange(1, 301)
    return " ".join(rng.choice(words, n // 5, p=odds / odds.sum()))[:n]


def pieces(train: str, validation: str) -> Pieces:
    """With 128 tokens, ASCII's numbers."""
    return Pieces(train, validation, *(np.array([ord(letter) for letter in text]) for text in (train, validation)))


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


def test_nothing_to_score_is_refused():
    with pytest.raises(ValueError, match="empty"):
        xz_nats("some text", "")


def test_ppmd_adds_what_its_code_grows_by():
    pyppmd = pytest.importorskip("pyppmd", reason="the optional package pyppmd is not installed")
    train, validation = wordy_text(20_000, 2), wordy_text(5000, 3)
    sizes = {}
    for order in (3, 6):
        known, whole = (
            len(pyppmd.compress(text.encode(), max_order=order, mem_size=1 << 24, variant="H"))
            for text in (train, train + validation)
        )
        sizes[order] = whole - known
        _, *parts = ppmd_bytes((train, validation[:1234], validation[1234:]), order)
        assert abs(sum(parts) - sizes[order]) <= 1, "a byte may be held back at either end"
    assert sizes[3] != sizes[6], "the orders differ on this text"


def test_ppmd_takes_its_order_from_the_development_slice():
    pytest.importorskip("pyppmd", reason="the optional package pyppmd is not installed")
    text = pieces(wordy_text(20_000, 2), random_text(5000, 3))  # noise, for which short orders are best
    inner = pieces(text.train[:18_000], text.train[18_000:])
    found = ppmd(text, inner, 2000)
    by_order = {order: ppmd_bytes((inner.train, inner.validation), order)[1] for order in PPMD_ORDERS}
    assert by_order[found.order] == min(by_order.values())
    assert not found.at_edge
    assert found.development_by_order.items() <= {k: nats_of(v, 2000) for k, v in by_order.items()}.items()
    _, first, last = ppmd_bytes((text.train, text.validation[:2000], text.validation[2000:]), found.order)
    assert found.nats == pytest.approx((first + last) * 8 * math.log(2) / 5000)
    assert found.second_half_nats == pytest.approx(last * 8 * math.log(2) / 3000)


def test_ppmd_on_repetition_and_on_noise():
    pytest.importorskip("pyppmd", reason="the optional package pyppmd is not installed")
    noise = random_text(30_000, 8)
    repeated, fresh = (
        nats_of(ppmd_bytes((noise, after), 8)[1], 3000) for after in (noise[:3000], random_text(3000, 9))
    )
    assert repeated < 0.5  # PPMd has no long matches: each character of the copy is predicted anew
    assert math.log(64) - 0.01 < fresh < math.log(64) * 1.1


@pytest.mark.parametrize(
    ("first", "tried"), [(8, [4, 5, 6, 7, 8, 9]), (5, [4, 5, 6]), (3, [3, 4, 5, 6]), (9, [4, 5, 6, 7, 8, 9])]
)
def test_downhill_walks_to_the_nearest_minimum(first, tried):
    asked = []

    def loss(x: int) -> float:
        asked.append(x)
        return (x - 5) ** 2

    assert downhill(loss, range(3, 10), first) == {x: (x - 5) ** 2 for x in tried}
    assert sorted(asked) == list(tried), "none twice"
    assert list(downhill(lambda x: -x, (1, 2, 4), 2)) == [1, 2, 4]


def test_anchors_without_pyppmd(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyppmd", None)  # what `import` finds when a package is not there
    assert not has_ppmd()
    text = pieces(LETTERS[:2] * 50, LETTERS[:2] * 9)
    result = anchors(text, text, 128, np.ones(128, dtype=int))
    assert result["ppmd_nats_per_char"] is None
    assert result["xz_nats_per_char"] == xz_nats(text.train, text.validation)


def test_anchors_count_characters_and_tokens():
    """Two characters a token: half of a token's nats a character. All of it plain numbers that JSON keeps."""
    text = random_text(600, 10)[:64] * 9 + random_text(64, 14)
    ids = np.array([LETTERS.index(first) for first in text[::2]])
    whole, inner = (
        Pieces(text[: 2 * cut], text[2 * cut : 2 * end], ids[:cut], ids[cut:end])
        for cut, end in ((200, 320), (160, 200))
    )
    result = anchors(whole, inner, 64, np.full(64, 2))
    best = ngram(whole, inner, 64)
    assert json.loads(json.dumps(result)) == result
    assert result["ngram_nats"] == best.nats.mean() == pytest.approx(best.by_order[-1])
    assert (result["ngram_order"], result["ngram_by_order"]) == (best.order, best.by_order)
    assert result["ngram_development_by_order"] == best.development_by_order
    assert result["ngram_nats_per_char"] == pytest.approx(best.nats.mean() / 2)
    assert result["ngram_nats_per_char_second_half"] == pytest.approx(best.nats[59:].mean() / 2)  # of tokens 60 … 119
    if has_ppmd():
        found = ppmd(whole, inner, 120)
        assert result["ppmd_nats_per_char"] == found.nats
        assert result["ppmd_nats_per_char_second_half"] == found.second_half_nats
        assert (result["ppmd_order"], result["xz_nats_per_char"]) == (found.order, None)


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
