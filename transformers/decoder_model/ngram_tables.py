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
    base, longest = vocabulary + 1, max(NGRAMS)
    key, entries, above = padded[:, longest - 1 :], [], 0
    sizes = dict(zip(NGRAMS, table_sizes(vocabulary), strict=True))
    for n in range(2, longest + 1):
        # int64 wraps round where the vocabulary is large; that is one more hash.
        key = key + base ** (n - 1) % (1 << 62) * padded[:, longest - n : padded.size(1) - n + 1]
        if n in sizes:
            hashed = key if base**n <= sizes[n] else (key * 0x9E3779B1 >> 15) % sizes[n]  # Knuth's multiplicative hash
            entries.append(hashed + above)
            above += sizes[n]
    return torch.stack(entries, -1)
