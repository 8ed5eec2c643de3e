"""What the decoder is told of the last few tokens without attention: the token shift, and the numbers of its n-grams."""

import torch
from torch import Tensor

SHIFT = (8, 4)  # sixteenths of the channels that come from the token before, and from two tokens before
NGRAMS = (2, 3, 4, 5)  # tokens in the n-grams that have a table
NGRAM_ROWS, NGRAM_WIDTH = 1 << 16, 32  # of a table, at most
NGRAM_DROPOUT = 5.0  # times the dropout elsewhere: tables learn a small text by heart


def shift(padded: Tensor) -> Tensor:
    """(B, lags + T, C) -> (B, T, C): the first channels from earlier tokens, SHIFT[i] sixteenths from i + 1 before."""
    lags, first = len(SHIFT), 0
    parts = []
    for lag, share in enumerate(SHIFT, 1):
        last = first + share * padded.size(2) // 16
        parts.append(padded[:, lags - lag : padded.size(1) - lag, first:last])
        first = last
    return torch.cat([*parts, padded[:, lags:, first:]], 2)


def table_sizes(vocabulary: int) -> list[int]:
    """Rows of the table of each n in NGRAMS: one per n-gram, or NGRAM_ROWS where there are more n-grams than that.

    One token more than the vocabulary has stands for "before the text".
    """
    return [min(NGRAM_ROWS, (vocabulary + 1) ** n) for n in NGRAMS]


def ngram_rows(padded: Tensor, vocabulary: int) -> Tensor:
    """(B, max(NGRAMS) - 1 + T) -> (B, T, len(NGRAMS)): the rows of the n-grams that end at each of the last T tokens.

    The tables stand one below the other. Where a table has fewer rows than there are n-grams, some n-grams share one
    (hashed: Huang et al. 2025, section 3.2). `padded` holds the number `vocabulary` for places before the text.
    """
    base, longest = vocabulary + 1, max(NGRAMS)
    key, rows, above = padded[:, longest - 1 :], [], 0
    sizes = dict(zip(NGRAMS, table_sizes(vocabulary), strict=True))
    for n in range(2, longest + 1):
        # int64 wraps round where the vocabulary is large; that is one more hash.
        key = key + base ** (n - 1) % (1 << 62) * padded[:, longest - n : padded.size(1) - n + 1]
        if n in sizes:
            hashed = key if base**n <= sizes[n] else (key * 0x9E3779B1 >> 15) % sizes[n]  # Knuth's multiplicative hash
            rows.append(hashed + above)
            above += sizes[n]
    return torch.stack(rows, -1)
