"""What a text model has to beat, each given the same training text, its order chosen on the development slice.

Static, as the model is: a modified Kneser-Ney n-gram, frozen after the training text. Adaptive, going on learning from what
they have coded: PPMd, or xz where its package is missing. `longest_match` tells how much of a sample is recited.
"""

import lzma
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from texts.kneser_ney import kneser_ney

Array = NDArray[Any]
MAX_ORDERS = (12, 32)  # of the n-gram: the second where the best up to the first is the first itself
UNCHOSEN_ORDER = 5  # where the development slice is too short to choose on
PPMD_ORDERS = (3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 24, 32)  # bytes of context
PPMD_FIRST = 8  # where the search begins
PPMD_MEMORY_BYTES = 1 << 28  # ample: a model that fills its memory starts again from nothing


@dataclass(frozen=True)
class Pieces:
    """A text in two pieces, as characters and as tokens (n,)."""

    train: str
    validation: str
    train_ids: Array
    val_ids: Array


def second_half(tokens: int) -> int:
    """The first token of the second half of so many: the half that no choice has looked at."""
    return tokens // 2


# ---------------------------------------------------------------- static: the n-gram


@dataclass(frozen=True)
class NGram:
    """How well the frozen n-gram of the chosen order predicts tokens 1..n-1 of a validation text of n tokens."""

    order: int
    at_edge: bool  # the order is the greatest that was tried: a greater one may do better
    development_by_order: list[float]  # mean nats per token of the development slice, orders 1, 2, …
    by_order: list[float]  # the same of the validation text, up to `order`; nothing is chosen by it
    nats: Array  # (n - 1,) -log p of each token, by `order`


def ngram(text: Pieces, inner: Pieces, vocab_size: int) -> NGram:
    """The n-gram on `text`, of the order that is best on `inner`: the training piece, split once more.

    ValueError where fewer than two validation tokens leave nothing to score.
    """
    if len(text.val_ids) < 2:
        raise ValueError("the validation text needs at least two tokens")
    order, most, tried = UNCHOSEN_ORDER, 0, np.empty(0)
    if len(inner.val_ids) >= 2:
        for most in MAX_ORDERS:
            tried = np.abs(kneser_ney(inner.train_ids, inner.val_ids, vocab_size, most)).mean(1)
            order = int(np.argmin(tried)) + 1
            if order < most:
                break
    nats = np.abs(kneser_ney(text.train_ids, text.val_ids, vocab_size, order))  # abs: no -0.0 where all is certain
    return NGram(order, order == most, tried.tolist(), nats.mean(1).tolist(), nats[-1])


# ---------------------------------------------------------------- adaptive: compressors


def nats_of(code_bytes: int, characters: int) -> float:
    """So many bytes of code for so many characters, in nats per character; ValueError where there are none."""
    if not characters:
        raise ValueError("the validation text is empty")
    return code_bytes * 8 * math.log(2) / characters


def xz_nats(train: str, validation: str) -> float:
    """Nats per character of `validation` given `train`, by LZMA2 as `xz -9e` sets it, without the container's bytes."""
    head = train.encode()
    whole = head + validation.encode()
    # The dictionary holds both texts, so that nothing is forgotten; below 4 KiB LZMA2 takes none. Memory: 11 times it.
    chain = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": max(len(whole), 1 << 12)}]
    size, known = (len(lzma.compress(data, lzma.FORMAT_RAW, filters=chain)) for data in (whole, head))
    return nats_of(size - known, len(validation))


def has_ppmd() -> bool:
    """Whether the optional package `pyppmd` is installed."""
    try:
        import pyppmd  # noqa: F401  # pyright: ignore[reportMissingImports]  # optional: pip install pyppmd
    except ImportError:
        return False
    return True


def ppmd_bytes(texts: Sequence[str], order: int) -> list[int]:
    """Bytes of code that each text adds to those before it, by PPMd variant H (Shkarin 2002) of that order."""
    import pyppmd  # pyright: ignore[reportMissingImports]

    encoder = pyppmd.Ppmd7Encoder(order, PPMD_MEMORY_BYTES)
    # Five bytes that the coder holds back at first come out at its end, whatever was coded.
    return [len(encoder.encode(text.encode())) for text in texts]


@dataclass(frozen=True)
class Adaptive:
    """PPMd of the chosen order on a validation text, in nats per character."""

    order: int
    at_edge: bool
    development_by_order: dict[int, float]  # of the development slice, for the orders that were tried
    nats: float
    second_half_nats: float  # of what follows character `cut`


def ppmd(text: Pieces, inner: Pieces, cut: int) -> Adaptive:
    """PPMd on `text`, of the order that is best on `inner`; the second half begins at character `cut`."""

    def development(order: int) -> float:
        return nats_of(ppmd_bytes((inner.train, inner.validation), order)[1], len(inner.validation))

    tried = downhill(development, PPMD_ORDERS, PPMD_FIRST)
    order = min(tried, key=lambda one: tried[one])
    _, first, last = ppmd_bytes((text.train, text.validation[:cut], text.validation[cut:]), order)
    n = len(text.validation)
    edges = (PPMD_ORDERS[0], PPMD_ORDERS[-1])
    return Adaptive(order, order in edges, tried, nats_of(first + last, n), nats_of(last, n - cut))


def downhill(loss: Callable[[int], float], choices: Sequence[int], first: int) -> dict[int, float]:
    """The losses of the choices that a walk from `first` to the nearest minimum tries, in the order of `choices`."""
    tried: dict[int, float] = {}

    def at(i: int) -> float:
        if not 0 <= i < len(choices):
            return math.inf
        return tried.setdefault(choices[i], tried[choices[i]] if choices[i] in tried else loss(choices[i]))

    here = choices.index(first)
    while True:
        below, level, above = at(here - 1), at(here), at(here + 1)
        if level <= min(below, above):
            return dict(sorted(tried.items()))
        here += -1 if below < above else 1


# ---------------------------------------------------------------- all of them


def anchors(text: Pieces, inner: Pieces, vocab_size: int, characters: Array) -> dict[str, Any]:
    """Every anchor of one text as plain numbers, for `summary.json`; `characters` (V,) is how many begin in each token.

    Like the model, the n-gram predicts tokens 1..n-1 of the validation text given token 0. The compressors know no
    tokens and code the whole validation text; where its second half begins, both know.
    """
    half = second_half(len(text.val_ids))
    cut = int(characters[text.val_ids[:half]].sum())
    with ThreadPoolExecutor(1) as compressor:  # which runs outside Python's lock, beside the n-gram
        adaptive = compressor.submit(ppmd, text, inner, cut) if has_ppmd() else None
        xz = None if adaptive else compressor.submit(xz_nats, text.train, text.validation)
        best = ngram(text, inner, vocab_size)
    rest = best.nats[max(half - 1, 0) :]  # the first of all is of token 1
    n_chars, n_chars_rest = (max(int(characters[text.val_ids[max(i, 1) :]].sum()), 1) for i in (1, half))
    found = {
        "ngram_smoothing": "modified Kneser-Ney",
        "ngram_order": best.order,
        "ngram_order_at_edge": best.at_edge,
        "ngram_nats": float(best.nats.mean()),  # per token
        "ngram_nats_per_char": float(best.nats.sum()) / n_chars,
        "ngram_nats_per_char_second_half": float(rest.sum()) / n_chars_rest,
        "ngram_by_order": best.by_order,
        "ngram_development_by_order": best.development_by_order,
        "xz_nats_per_char": xz.result() if xz else None,
    }
    if adaptive is None:
        return found | {"ppmd_nats_per_char": None}
    return found | {
        "ppmd_order": adaptive.result().order,
        "ppmd_order_at_edge": adaptive.result().at_edge,
        "ppmd_nats_per_char": adaptive.result().nats,
        "ppmd_nats_per_char_second_half": adaptive.result().second_half_nats,
        "ppmd_development_by_order": {str(k): v for k, v in adaptive.result().development_by_order.items()},
    }


def longest_match(sample: str, training: str) -> tuple[int, str]:
    """The longest substring of `sample` that stands verbatim in `training`: its length in characters, and itself.

    Of several equally long ones, the one that ends first in `training`. Exact: for lengths 1, 2, … it keeps the places
    in `training` where some substring of the sample of that length ends; few places outlive a dozen characters.
    """
    sample_codes, training_codes = (
        np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32) for text in (sample, training)
    )
    alphabet = np.unique(sample_codes)
    stop = len(alphabet)  # stands for any character that the sample lacks, and for the end of `training`
    code_of = np.full(0x110000, stop, dtype=np.int32)  # every code point of Unicode
    code_of[alphabet] = np.arange(stop)
    s, t = code_of[sample_codes], np.append(code_of[training_codes], np.int32(stop))
    # As above, a substring is a pair: the number of all but its last character, and that character. `number` turns
    # pairs into numbers, -1 for pairs that the sample lacks.
    number = np.full(len(s) * (stop + 1), -1, dtype=np.int32)
    prefix, t_prefix, t_next = np.zeros_like(s), np.zeros_like(t), np.arange(len(t), dtype=np.int32)
    length = end = 0
    while length < len(sample):
        pairs, prefix = np.unique(prefix * (stop + 1) + s[length:], return_inverse=True)
        number[pairs] = np.arange(len(pairs))
        t_prefix = number[t_prefix * (stop + 1) + t[t_next]]
        number[pairs] = -1
        t_next, t_prefix = t_next[t_prefix >= 0] + 1, t_prefix[t_prefix >= 0]
        if len(t_next) == 0:
            break
        prefix, length, end = prefix[:-1], length + 1, int(t_next[0])
    return length, training[end - length : end]
