"""The decoder's n-gram tables: which entries the n-grams have that end at each token.

An n-gram's entry is a vector that is learnt, and added to the token's embedding (Huang et al. 2025, over-encoding). In the
default model the tables hold 6.4 of 7.25 million parameters, of which a token reads four entries.
"""

import torch
from torch import Tensor

NGRAMS = (2, 3, 4, 5)  # tokens in the n-grams that have a table
TABLE_ENTRIES, TABLE_WIDTH = 1 << 16, 32  # of a table, at most, and the numbers in each
NGRAM_DROPOUT = 5.0  # times the dropout elsewhere: tables learn a small text by heart


def table_sizes(vocabulary: int) -> list[int]:
    """Entries of the table of each n in NGRAMS: one per n-gram, or TABLE_ENTRIES where there are more n-grams than that.

    One token more than the vocabulary has stands for "before the text".
    """
    return [min(TABLE_ENTRIES, (vocabulary + 1) ** n) for n in NGRAMS]


def ngram_entries(padded: Tensor, vocabulary: int) -> Tensor:
    """(B, max(NGRAMS) - 1 + T) -> (B, T, len(NGRAMS)): the entries of the n-grams that end at each of the last T tokens.

    The tables stand one below the other. Where a table has fewer entries than there are n-grams, some n-grams share one
    (hashed: Huang et al. 2025, section 3.2). `padded` holds the number `vocabulary` for places before the text.
    """
    base, entries, above = vocabulary + 1, [], 0
    for n, size in zip(NGRAMS, table_sizes(vocabulary), strict=True):
        if base**n <= size:
            entries.append(_keys(padded, n, base) + above)
        else:  # Knuth's multiplicative hash
            entries.append((_keys(padded, n, hash_factor(base)) * 0x9E3779B1 >> 15) % size + above)
        above += size
    return torch.stack(entries, -1)


def hash_factor(base: int) -> int:
    """By what a token counts more than the one after it in the key of an n-gram that is hashed: `base`, or one more.

    The hash reads the lowest 31 bits of the key. A base with many factors of two would push the oldest tokens beyond them:
    of 256 = 2^8, the fourth power is 2^32. An odd factor pushes nothing away.
    """
    twos = (base & -base).bit_length() - 1
    fits = (max(NGRAMS) - 1) * twos + (base - 1).bit_length() <= 31
    return base if fits else base | 1


def _keys(padded: Tensor, n: int, factor: int) -> Tensor:
    """(B, max(NGRAMS) - 1 + T) -> (B, T): one number for each of the n-grams that end at the last T tokens."""
    longest, T = max(NGRAMS), padded.size(1) - max(NGRAMS) + 1
    # int64 wraps round where the vocabulary is large; that is one more hash.
    return sum(
        (factor**back % (1 << 62) * padded[:, longest - 1 - back :][:, :T] for back in range(1, n)),
        padded[:, longest - 1 :],
    )
