"""What a text model has to beat: a Witten-Bell n-gram, xz and PPMd, each given the same training text.

The n-gram is frozen after training, as the model is; the compressors go on learning while they read the validation
text, and PPMd is hard to beat for a small frozen model. `longest_match` tells how much of a sample is recited.
"""

import lzma
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
MAX_ORDER = 6  # five tokens of context; tinyshakespeare's last tenth: 1.669 nats a character by order 5, 1.698 by 6
PPMD_ORDERS = (4, 5, 6, 8)
PPMD_MEMORY_BYTES = 1 << 28  # ample: a model that fills its memory starts again from nothing


@dataclass(frozen=True)
class NGram:
    """How well frozen n-grams of orders 1, 2, … predict tokens 1..n-1 of a validation text of n tokens."""

    nats_by_order: list[float]  # mean nats per token; the first is the unigram's
    order: int  # the best of them
    nats: float  # mean nats per token by the best order
    log_probs: Array  # (n - 1,) log p of each token in nats, by the best order


def witten_bell(train_ids: Array, val_ids: Array, vocab_size: int, max_order: int = MAX_ORDER) -> Array:
    """Log-probabilities (max_order, n - 1) in nats of tokens 1..n-1 of `val_ids` (n,): row k - 1 is order k's.

    Order k predicts a token t from its context h, the k - 1 tokens before it. Interpolated Witten-Bell smoothing
    (Bell, Cleary & Witten 1990; Witten & Bell 1991, method C; Chen & Goodman 1998, section 2.5), h' being h without
    its oldest token:

        p_k(t|h) = (count(h t) + N1+(h .) p_{k-1}(t|h')) / (count(h) + N1+(h .)),    p_0(t) = 1 / vocab_size

    count(h) is the number of tokens that follow h in `train_ids` (any length), N1+(h .) the number of distinct ones.
    A context that nothing follows there backs off wholly: p_k = p_{k-1}.

    The validation text is read once from left to right. Token 0 is given and not scored, and the next ones have the
    shorter contexts that the text itself offers, not the end of the training text: a model's first window has nothing
    before it either, and a held-out part need not continue the training part. ValueError for ids outside
    0..vocab_size-1.
    """
    train, val = (np.asarray(ids, dtype=np.int64) for ids in (train_ids, val_ids))
    for ids in (train, val):
        if ids.size and not 0 <= ids.min() <= ids.max() < vocab_size:
            raise ValueError(f"token ids from {ids.min()} to {ids.max()} do not fit a vocabulary of {vocab_size}")
    p = np.full(len(val), 1 / vocab_size)
    log_p = np.full((max_order, max(len(val) - 1, 0)), -math.log(vocab_size))
    # h[i] numbers the context of the i-th token that has one, -1 where training lacks it. A k-gram is a pair of small
    # numbers however long it is, its context's and its last token; the k-grams are the contexts of order k + 1.
    h, val_h, n_contexts = np.zeros_like(train), np.zeros_like(val), 1
    for k in range(1, min(max_order, len(train), len(val)) + 1):
        grams, gram_of, count = _distinct(h * vocab_size + train[k - 1 :], n_contexts * vocab_size)
        # One slot more than there are contexts: number -1 finds the zero in it.
        followers = np.bincount(h, minlength=n_contexts + 1)[val_h]
        distinct = np.bincount(grams // vocab_size, minlength=n_contexts + 1)[val_h]
        key = val_h * vocab_size + val[k - 1 :]
        place = np.minimum(np.searchsorted(grams, key), len(grams) - 1)
        hit = grams[place] == key
        lower = p[k - 1 :]
        mixed = (np.where(hit, count[place], 0) + distinct * lower) / np.maximum(followers + distinct, 1)
        p[k - 1 :] = np.where(followers > 0, mixed, lower)
        log_p[k - 1 :] = np.log(p[1:])  # the higher orders too, should the loop end before them
        h, val_h, n_contexts = gram_of[:-1], np.where(hit, place, -1)[:-1], len(grams)
    return log_p


def _distinct(keys: Array, n_possible: int) -> tuple[Array, Array, Array]:
    """np.unique's values, inverse and counts, without sorting where a table of all possible keys is small enough."""
    if n_possible > 2 * len(keys):
        return np.unique(keys, return_inverse=True, return_counts=True)
    count = np.bincount(keys, minlength=n_possible)
    values = np.flatnonzero(count)
    return values, (np.cumsum(count > 0) - 1)[keys], count[values]


def ngram(train_ids: Array, val_ids: Array, vocab_size: int, max_order: int = MAX_ORDER) -> NGram:
    """The n-grams of orders 1..max_order on the validation text, and the best of them.

    The best order is chosen on the validation text itself: that flatters the n-gram, which is a little harder to beat
    for it. ValueError where fewer than two validation tokens leave nothing to score.
    """
    log_p = witten_bell(train_ids, val_ids, vocab_size, max_order)
    if log_p.shape[1] == 0:
        raise ValueError("the validation text needs at least two tokens")
    nats = -log_p.mean(1)
    best = int(np.argmin(nats))
    return NGram(nats.tolist(), best + 1, float(nats[best]), log_p[best].copy())


def nats_given_train(size_bytes: Callable[[bytes], int], train: str, validation: str) -> float:
    """(size(train + validation) - size(train)) 8 ln 2 / characters of `validation`: nats per character given `train`.

    `size_bytes` is a compressor: UTF-8 bytes -> length of their code. ValueError for an empty validation text.
    """
    if not validation:
        raise ValueError("the validation text is empty")
    head = train.encode()
    return (size_bytes(head + validation.encode()) - size_bytes(head)) * 8 * math.log(2) / len(validation)


def xz_nats(train: str, validation: str) -> float:
    """Nats per character of `validation` given `train`, by LZMA2 as `xz -9e` sets it, without the container's bytes."""
    # The dictionary holds both texts, so that nothing is forgotten; below 4 KiB LZMA2 takes none. Memory: 11 times it.
    reach = max(len(train.encode()) + len(validation.encode()), 1 << 12)
    chain = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": reach}]
    return nats_given_train(lambda data: len(lzma.compress(data, lzma.FORMAT_RAW, filters=chain)), train, validation)


def ppmd_nats(train: str, validation: str, orders: tuple[int, ...] = PPMD_ORDERS) -> float | None:
    """Nats per character of `validation` given `train`, by PPMd variant H (Shkarin 2002); None without `pyppmd`.

    The best of `orders` (bytes of context), chosen on the validation text itself as the n-gram's is.
    """
    try:
        import pyppmd  # pyright: ignore[reportMissingImports]  # optional: pip install pyppmd
    except ImportError:
        return None

    def size_bytes(order: int) -> Callable[[bytes], int]:
        return lambda data: len(pyppmd.compress(data, max_order=order, mem_size=PPMD_MEMORY_BYTES, variant="H"))

    return min(nats_given_train(size_bytes(order), train, validation) for order in orders)


def anchors(
    train_text: str, val_text: str, train_ids: Array, val_ids: Array, vocab_size: int, n_chars: int
) -> dict[str, Any]:
    """Every anchor of one text as plain numbers, for `summary.json`.

    `train_ids` and `val_ids` (n,) are the texts in the model's own tokens. Like the model, the n-gram predicts tokens
    1..n-1 of the validation text given token 0; `n_chars` is the number of characters in those (n - 1 where a token is
    a character). The compressors know no tokens and code the whole validation text.
    """
    with ThreadPoolExecutor(2) as compressors:  # which run outside Python's lock, beside the n-gram
        xz, ppmd = (compressors.submit(nats, train_text, val_text) for nats in (xz_nats, ppmd_nats))
        best = ngram(train_ids, val_ids, vocab_size)
    return {
        "ngram_nats": best.nats,  # per token
        "ngram_order": best.order,
        "ngram_nats_per_char": best.nats * len(best.log_probs) / n_chars,
        "ngram_by_order": best.nats_by_order,
        "xz_nats_per_char": xz.result(),
        "ppmd_nats_per_char": ppmd.result(),  # None without pyppmd
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
