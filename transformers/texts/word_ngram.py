"""An n-gram whose context grows by letters and then by whole words: what the decoder's predictions are mixed with.

Smoothed like the n-gram of kneser_ney.py (Chen & Goodman 1999). There seven characters of context are spent on the end of
a word or two; here every step beyond the letters is a word. On tinyshakespeare's development slice the best order of
characters gives 1.492 nats per character, three letters and four words 1.449.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from texts.kneser_ney import discounts
from texts.vocabulary import Vocabulary

Array = NDArray[Any]
SHAPES = ((3, 4), (4, 4), (6, 8))  # letters and words of the longest context, of which a text chooses
TOKENS_ONLY = (3, 0)  # the same where tokens are words or parts of them
CHOSEN_ON = 500_000  # tokens of the text that are counted for the choice, at most
REACH = 256  # tokens before a place that its context is read from in sampling: eight words of most texts and more
ODD, STEP = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1B54A32D192ED03)


class Counted:
    """The contexts of one length and what followed them, each sorted by a 64-bit hash."""

    def __init__(self) -> None:
        self.contexts = np.empty(0, dtype=np.uint64)  # (C,)
        self.sums = np.empty((2, 0))  # (2, C) of the counts of what followed, and of their discounts
        self.grams = np.empty(0, dtype=np.uint64)  # (G,) a context with what followed it
        self.counts = np.empty(0, dtype=np.int64)  # (G,)

    def of_contexts(self, contexts: Array) -> Array:
        """(2, n) the sums of the contexts (n,): 0 where one is not there."""
        at, there = _find(self.contexts, contexts)
        found = np.zeros((2, len(contexts)))
        found[:, there] = self.sums[:, at[there]]
        return found

    def of_grams(self, grams: Array) -> Array:
        """(n,) the counts of the grams (n,): 0 where one is not there."""
        at, there = _find(self.grams, grams)
        found = np.zeros(len(grams), dtype=np.int64)
        found[there] = self.counts[at[there]]
        return found

    def add(self, earlier: "Counted", discounts: Array, context: Array, grams: Array, count: Array) -> Array:
        """Count the different grams (n,), sorted, of the contexts (n,); which of them (n,) are new here and `earlier`.

        With the `discounts` (4,) of their counts here and `earlier` together.
        """
        before = self.of_grams(grams)
        before += earlier.of_grams(grams)
        taken = discounts[np.minimum(before + count, 3)] - discounts[np.minimum(before, 3)]
        contexts, at = np.unique(context, return_inverse=True)
        sums = np.array([np.bincount(at, count), np.bincount(at, taken)]).reshape(2, -1)
        self.contexts, self.sums = _added(self.contexts, self.sums, contexts, sums)
        self.grams, self.counts = _added(self.grams, self.counts, grams, count)
        return before == 0


class WordNGram:
    """Interpolated modified Kneser-Ney over contexts that lie in one another.

    A token's contexts are nothing, the last 1 … `letters` tokens, these with all of the present word, and that with the
    1 … `words` words before it. `in_word` (V,) tells the tokens that words are made of; between two words, the others
    since the last one count as the present word. The formula is `kneser_ney`'s, with the next longer of these contexts
    for the next longer n-gram: in the longest a count is how often a token followed, in the others after how many
    different next longer contexts it did. Contexts are told apart by 64-bit hashes: that any two of ten million are the
    same has a probability of 3e-6.

    `learn` counts what is read later too; the discounts stay those of the training text. ValueError for ids outside
    0 … V - 1.
    """

    def __init__(self, train_ids: Array, in_word: Array, letters: int, words: int):
        self.in_word, self.letters, self.words = np.asarray(in_word, dtype=bool), letters, words
        self.depth = letters + 1 + (words + 1 if words else 0)  # contexts of a token, the empty one included
        self.trained, self.read = ([Counted() for _ in range(self.depth)] for _ in range(2))
        self.discounts: list[Array] = []  # (4,) of each length
        ids = self._checked(train_ids)
        contexts, following = self.contexts(ids[:-1]), ids[1:]
        places = np.arange(len(following))
        for counted, context in zip(reversed(self.trained), reversed(contexts), strict=True):
            grams, first, count = _unique(_gram(context[places], following[places]))
            places = places[first]
            self.discounts.insert(0, discounts(count))
            counted.add(Counted(), self.discounts[0], context[places], grams, count)

    @property
    def size(self) -> int:
        """How many counts it holds of its training text."""
        return sum(len(counted.grams) for counted in self.trained)

    def learn(self, ids: Array, known: int = 0) -> None:
        """Count the tokens known + 1 … n - 1 of the text `ids` (n,) too; those up to `known` are only context."""
        ids = self._checked(ids)
        contexts, following = self.contexts(ids[:-1]), ids[1:]
        places = np.arange(known, len(following))
        for k in reversed(range(self.depth)):
            context = contexts[k][places]
            grams, first, count = _unique(_gram(context, following[places]))
            new = self.read[k].add(self.trained[k], self.discounts[k], context[first], grams, count)
            places = places[first][new]  # of what is there once already, the shorter context has heard

    def contexts(self, ids: Array) -> list[Array]:
        """The hashes (n,) of the contexts that end with each token of `ids` (n,), the shortest first."""
        ends = np.zeros(len(ids), dtype=np.uint64)
        found = [ends]
        padded = np.concatenate([np.zeros(self.letters, dtype=np.uint64), ids.astype(np.uint64) + np.uint64(1)])
        parts = [padded[self.letters - back : len(padded) - back] for back in range(self.letters)]
        if self.words:
            present, before = _words(ids, self.in_word[ids], self.words)
            parts += [present, *before]
        for part in parts:
            ends = _mix(ends * ODD + part + np.uint64(1))
            found.append(ends)
        return found

    def probabilities(self, ids: Array) -> tuple[Array, Array]:
        """Of tokens 1 … n - 1 of a text `ids` (n,): p of each, and how many of its contexts are known, 0 … depth."""
        ids = self._checked(ids)
        return self._interpolated(self.contexts(ids[:-1]), ids[1:])

    def following(self, ids: Array) -> tuple[Array, int]:
        """p of every token (V,) after the text `ids` (n,), n >= 1, and how many of the place's contexts are known."""
        contexts = self.contexts(self._checked(ids[-REACH:]))
        V = len(self.in_word)
        p, known = self._interpolated([np.repeat(context[-1:], V) for context in contexts], np.arange(V))
        return p, int(known[0])

    def _checked(self, ids: Array) -> Array:
        ids = np.asarray(ids, dtype=np.int64)
        if ids.size and not 0 <= ids.min() <= ids.max() < len(self.in_word):
            raise ValueError(
                f"token ids from {ids.min()} to {ids.max()} do not fit a vocabulary of {len(self.in_word)}"
            )
        return ids

    def _interpolated(self, contexts: list[Array], tokens: Array) -> tuple[Array, Array]:
        """p of the tokens (n,) and the number of known contexts (n,), with the contexts' hashes (n,) by length."""
        p, depth = np.full(len(tokens), 1 / len(self.in_word)), np.zeros(len(tokens), dtype=np.int64)
        for k, context in enumerate(contexts):
            gram = _gram(context, tokens)
            total, freed = self.trained[k].of_contexts(context) + self.read[k].of_contexts(context)
            before, more = self.trained[k].of_grams(gram), self.read[k].of_grams(gram)
            count = before + more
            kept = count - self.discounts[k][np.minimum(count, 3)]
            p = np.where(total > 0, (kept + freed * p) / np.maximum(total, 1), p)
            depth += total > 0
        return p, depth


def choose_shape(ids: Array, held: Array, vocabulary: Vocabulary) -> tuple[int, int]:
    """Of SHAPES the one whose n-gram, counted in the end of a text (n,), predicts another text (m,) best."""
    if vocabulary.kind != "char":
        return TOKENS_ONLY

    def loss(shape: tuple[int, int]) -> float:
        p, _ = count_words(ids[-CHOSEN_ON:], vocabulary, shape).probabilities(held)
        return float(-np.log(p).sum())

    return min(SHAPES, key=loss)


def count_words(ids: Array, vocabulary: Vocabulary, shape: tuple[int, int]) -> WordNGram:
    """The n-gram of a text in tokens `ids` (n,), with so many letters and words; words are of letters, digits, _ and '."""
    told = [token.decode("utf-8", "replace") for token in vocabulary.tokens]
    in_word = np.array([bool(one) and all(c.isalnum() or c in "_'" for c in one) for one in told])
    return WordNGram(ids, in_word, *shape)


def _added(keys: Array, values: Array, new_keys: Array, new_values: Array) -> tuple[Array, Array]:
    """Sorted keys (n,) with values (…, n), and others added to them; the values of equal keys are summed."""
    at, there = _find(keys, new_keys)
    values = values.copy()
    values[..., at[there]] += new_values[..., there]
    place = np.searchsorted(keys, new_keys[~there])
    return np.insert(keys, place, new_keys[~there]), np.insert(values, place, new_values[..., ~there], axis=-1)


def _unique(values: Array) -> tuple[Array, Array, Array]:
    """The different values in their order, a place of each, and how often each is there."""
    order = np.argsort(values)
    ordered = values[order]
    begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(values)])
    return ordered[begins], order[begins], np.diff(np.append(begins, len(values)))


def _words(ids: Array, inside: Array, words: int) -> tuple[Array, list[Array]]:
    """Of each place: a hash of the present word up to there, and of the 1 … `words` words before it, 0 where none is.

    A word is a longest run of tokens that are `inside`; where the place is not, the run of others takes its place.
    """
    n = len(ids)
    begins = np.ones(n, dtype=bool)  # of a run, of either kind
    begins[1:] = inside[1:] != inside[:-1]
    start = np.maximum.accumulate(np.where(begins, np.arange(n), 0))
    # A polynomial in an odd number, modulo 2^64, from which the tokens before a run can be taken out again.
    power, inverse = (np.cumprod(np.concatenate([[np.uint64(1)], np.full(n, base)])) for base in (STEP, _inverse(STEP)))
    sums = np.concatenate([[np.uint64(0)], np.cumsum((ids.astype(np.uint64) + np.uint64(1)) * power[:n])])
    present = _mix((sums[1:] - sums[start]) * inverse[start])
    ends = inside & np.concatenate([begins[1:], [False]])[:n]  # the last tokens of whole words
    number = np.cumsum(ends) - ends  # of whole words that ended before the place
    whole = np.concatenate([np.zeros(words, dtype=np.uint64), present[ends]])
    return present, [whole[words + number - back] for back in range(1, words + 1)]


def _inverse(odd: np.uint64) -> np.uint64:
    return np.uint64(pow(int(odd), -1, 1 << 64))


def _gram(context: Array, token: Array) -> Array:
    return _mix(context + (token.astype(np.uint64) + np.uint64(1)) * STEP)


def _mix(x: Array) -> Array:
    """The finaliser of SplitMix64 (Steele et al. 2014): every bit of the result depends on all."""
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)


def _find(ordered: Array, wanted: Array) -> tuple[Array, Array]:
    """Where each of `wanted` (n,) stands in `ordered`, and whether it is there."""
    if not len(ordered):
        return np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted), dtype=bool)
    at = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    return at, ordered[at] == wanted
