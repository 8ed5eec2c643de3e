"""The tables of n-grams: which entries are read, that they are shared rarely, and what the cache keeps for them."""

import pytest
import torch

from decoder_model import ngram_tables
from decoder_model.decoder import Cache
from decoder_model.ngram_tables import NGRAMS, ngram_entries, table_sizes
from tiny_decoder import random_tokens, tiny_decoder


@pytest.mark.parametrize("vocabulary", [2, 13, 65, 50_000])
def test_ngram_entries_depend_on_the_ngram_alone_and_stay_in_their_table(vocabulary):
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocabulary + 1, (4, 203), generator=random)
    rows = ngram_entries(tokens, vocabulary)
    assert rows.shape == (4, 204 - max(NGRAMS), len(NGRAMS))
    starts = torch.tensor([0, *table_sizes(vocabulary)]).cumsum(0)
    assert (rows >= starts[:-1]).all()
    assert (rows < starts[1:]).all()
    # The same last n tokens, whatever was before them, have the same row; another token among them has another, but for
    # hash collisions.
    for i, n in enumerate(NGRAMS):
        changed = tokens.clone()
        changed[:, : 203 - n] = torch.randint(vocabulary + 1, (4, 203 - n), generator=random)
        assert torch.equal(ngram_entries(changed, vocabulary)[:, -1, i], rows[:, -1, i])
        for back in range(n):
            other = tokens.clone()
            other[:, -1 - back] = (other[:, -1 - back] + 1) % (vocabulary + 1)
            assert (ngram_entries(other, vocabulary)[:, -1, i] != rows[:, -1, i]).sum() >= 3


def test_hashed_ngrams_spread_over_their_table(monkeypatch):
    """All 4-grams of 16 letters among 65 tokens, as many as a real table has rows, after one and the same token."""
    monkeypatch.setattr(ngram_tables, "TABLE_ENTRIES", 1 << 16)
    letters = torch.cartesian_prod(*[torch.arange(20, 36)] * 4)  # (16^4, 4)
    letters = torch.cat([torch.full((1 << 16, max(NGRAMS) - 4), 7), letters], 1)
    at = NGRAMS.index(4)
    rows = ngram_entries(letters, 65)[:, -1, at] - sum(table_sizes(65)[:at])
    counts = torch.bincount(rows, minlength=1 << 16).float()
    used = float((counts > 0).float().mean())
    assert 0.55 < used < 0.999  # chance alone leaves 1 - 1/e = 0.63 of the rows in use
    assert float(counts.max()) <= 12


def test_the_decoder_remembers_ngrams_across_the_cache():
    """Without the other parts that look back, only the tables can tell what was before the tokens that are read now."""
    model = tiny_decoder(without=("shift",))
    tokens = random_tokens(model, 2)
    with torch.no_grad():
        whole = model(tokens)
        cache = Cache(model.shape, 2, 12, model.embedding.new_empty(0))
        parts = [model(part, cache) for part in tokens.split([1, 1, 5, 5], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-5)
