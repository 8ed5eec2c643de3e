"""An n-gram as good as a closed form makes it: modified Kneser-Ney, frozen after its training text.

The n-gram of order k predicts a token from the k - 1 before it. All orders are counted in one sorted array: places of the
text in the order of what stands before them, newest token first, so that equal k-grams lie side by side for every k.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
FALLBACK = (0.5, 1.0, 1.5)  # KenLM's discounts where the counts of counts give none (Heafield et al. 2013)


def discounts(counts: Array) -> Array:
    """(4,) what is taken from a count of 0, 1, 2, and 3 or more, given the counts (any shape) of all n-grams of an order.

    Chen & Goodman 1999, section 3: with n_r n-grams of count r and Y = n_1 / (n_1 + 2 n_2),
    D_r = r - (r + 1) Y n_{r+1} / n_r for r = 1, 2, 3. FALLBACK where one of these is not between 0 and r.
    """
    n = np.bincount(np.minimum(counts, 5), minlength=5)[1:5].astype(float)
    r = np.arange(1, 4)
    if n[:3].all():
        found = r - (r + 1) * (n[0] / (n[0] + 2 * n[1])) * n[1:] / n[:3]
        if ((found > 0) & (found < r)).all():
            return np.array([0.0, *found])
    return np.array([0.0, *FALLBACK])


def kneser_ney(train_ids: Array, val_ids: Array, vocab_size: int, max_order: int) -> Array:
    """Log-probabilities (max_order, n - 1) in nats of tokens 1..n-1 of `val_ids` (n,): row k - 1 is order k's.

    Interpolated modified Kneser-Ney (Chen & Goodman 1999, section 3): with h the k - 1 tokens before t, h' the same
    without the oldest, c the counts of k-grams and D(c) their order's `discounts`,

        p_k(t|h) = (c(h t) - D(c(h t))) / sum_u c(h u) + (sum_u D(c(h u)) / sum_u c(h u)) p_{k-1}(t|h'),

    p_0(t) = 1 / vocab_size. In the order that is asked for, c is how often h t stands in `train_ids` (any length); in
    the lower ones how many different tokens stand before it there, the beginning of the text counting as one. A context
    that nothing follows in training backs off wholly: p_k = p_{k-1}.

    The validation text is read once from left to right. Token 0 is given and not scored, and the next ones have the
    shorter contexts that the text itself offers: a model's first window has nothing before it either. ValueError for ids
    outside 0..vocab_size-1.
    """
    train, val = (np.asarray(ids, dtype=np.int64) for ids in (train_ids, val_ids))
    for ids in (train, val):
        if ids.size and not 0 <= ids.min() <= ids.max() < vocab_size:
            raise ValueError(f"token ids from {ids.min()} to {ids.max()} do not fit a vocabulary of {vocab_size}")
    if len(val) < 2:
        return np.empty((max_order, 0))
    # Before each text stand tokens that no other text has: no n-gram reaches from one text into the other.
    before, beyond = np.zeros(max_order, dtype=np.int64), np.ones(max_order, dtype=np.int64)
    text = np.concatenate([before, train + 2, beyond, val + 2])
    counted = np.zeros(len(text), dtype=bool)
    counted[max_order : max_order + len(train)] = True
    scored = np.arange(len(text) - len(val) + 1, len(text))

    log_p = np.empty((max_order, len(scored)))
    p = np.full(len(scored), 1 / vocab_size)  # of the order below, with its counts of different tokens before
    levels = _levels(text, counted, max_order)
    grams = next(levels)
    for k in range(1, max_order + 1):
        above = next(levels) if k < max_order else None
        log_p[k - 1] = np.log(_interpolated(grams, grams.count, scored, p))
        if above is not None:
            distinct = np.bincount(above.suffix[above.count > 0], minlength=len(grams.count))
            p = _interpolated(grams, distinct, scored, p)
            grams = above
    return log_p


@dataclass(frozen=True)
class _Grams:
    """The different k-grams of a text, G of them, numbered in the order of their tokens, newest first."""

    at: Array  # (N,) the k-gram that ends at each place of the text
    context_at: Array  # (N,) the (k - 1)-gram that ends there
    count: Array  # (G,) how many of its places are counted
    context: Array  # (G,) its first k - 1 tokens, as a (k - 1)-gram
    suffix: Array  # (G,) its last k - 1 tokens


def _levels(text: Array, counted: Array, max_order: int) -> Iterator[_Grams]:
    """The k-grams of `text` (N,) for k = 1..max_order; tokens before the text are another token 0."""
    order = _order(text, max_order)
    padded = np.concatenate([np.zeros(max_order, dtype=text.dtype), text])
    padded = padded.astype(np.min_scalar_type(int(text.max())))  # small enough to stay in the processor's cache
    new = np.zeros(len(text), dtype=bool)  # whether a place begins another k-gram than the one before it in `order`
    new[0] = True
    at = np.zeros(len(text), dtype=np.int32)
    sorted_gram, weight = np.zeros(len(text), dtype=np.int32), counted[order]
    for k in range(1, max_order + 1):
        token = padded[order + (max_order - k + 1)]
        new[1:] |= token[1:] != token[:-1]
        first = np.flatnonzero(new)
        suffix, place = sorted_gram[first], order[first]
        context = np.where(place > 0, at[place - 1], 0)
        sorted_gram = np.cumsum(new, dtype=np.int32) - 1
        context_at, at = at, np.empty_like(at)
        at[order] = sorted_gram
        yield _Grams(at, context_at, np.add.reduceat(weight, first, dtype=np.int32), context, suffix)


def _order(text: Array, depth: int) -> Array:
    """The places of `text` (N,) sorted by the token there, then by the one before it, and so on for `depth` tokens."""
    rank, base, known = text, int(text.max()) + 1, 1  # a place's rank stands for its last `known` tokens
    if base > len(text):
        rank = _ranks(text, np.argsort(text, kind="stable"))
        base = int(rank.max()) + 1
    while True:
        key, room, length = rank, base, known
        while length < depth and room * base < 1 << 62:  # as many ranks as fit, the last ones overlapping if need be
            further = min(known, depth - length)
            back = np.concatenate([np.zeros(length + further - known, dtype=np.int64), rank])[: len(text)]
            key, room, length = key * base + back, room * base, length + further
        order = np.argsort(key, kind="stable")
        if length == depth:
            return order
        rank, known = _ranks(key, order), length
        base = int(rank.max()) + 1


def _ranks(key: Array, order: Array) -> Array:
    """The number of smaller different keys, of each key (N,), given the `order` that sorts them."""
    ordered, rank = key[order], np.empty(len(key), dtype=np.int64)
    rank[order] = np.cumsum(np.concatenate([[False], ordered[1:] != ordered[:-1]]))
    return rank


def _interpolated(grams: _Grams, count: Array, scored: Array, lower: Array) -> Array:
    """p_k of the tokens at the places `scored`, with the counts (G,) given and p_{k-1} in `lower`."""
    taken = discounts(count)[np.minimum(count, 3)]
    size = int(grams.context.max()) + 1
    total, freed = (np.bincount(grams.context, values, minlength=size) for values in (count, taken))
    gram, context = grams.at[scored], grams.context_at[scored - 1]
    followers = total[context]
    mixed = (count[gram] - taken[gram] + freed[context] * lower) / np.maximum(followers, 1)
    return np.where(followers > 0, mixed, lower)
