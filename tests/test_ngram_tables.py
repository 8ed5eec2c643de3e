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


def entries_by_powers(padded: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """The 5-grams' entries as they were when all vocabularies counted tokens by powers of V + 1: (B, T)."""
    key = sum((vocabulary + 1) ** back % (1 << 62) * padded[:, 4 - back : padded.size(1) - back] for back in range(5))
    return (torch.as_tensor(key) * 0x9E3779B1 >> 15) % table_sizes(vocabulary)[-1] + sum(table_sizes(vocabulary)[:-1])


@pytest.mark.parametrize("vocabulary", [63, 65, 77, 1024, 8192, 50_000])
def test_vocabularies_that_hashed_well_keep_their_entries(monkeypatch, vocabulary):
    monkeypatch.setattr(ngram_tables, "TABLE_ENTRIES", 1 << 16)
    tokens = torch.randint(vocabulary + 1, (4, 300), generator=torch.Generator().manual_seed(1))
    assert torch.equal(ngram_entries(tokens, vocabulary)[:, :, -1], entries_by_powers(tokens, vocabulary))


@pytest.mark.parametrize("vocabulary", [63, 65, 127, 255, 511, 767, 1023, 4095, 32_767, 65_535])
def test_the_oldest_token_counts_whatever_the_size_of_the_vocabulary(monkeypatch, vocabulary):
    """With V + 1 = 2^8 and more, all 5-grams that differ in it alone shared an entry; with 2^7, an eighth of them."""
    monkeypatch.setattr(ngram_tables, "TABLE_ENTRIES", 1 << 16)
    random = torch.Generator().manual_seed(2)
    tokens = torch.randint(vocabulary + 1, (4000, max(NGRAMS)), generator=random)
    other = tokens.clone()
    other[:, 0] = (tokens[:, 0] + torch.randint(1, vocabulary + 1, (4000,), generator=random)) % (vocabulary + 1)
    changed = ngram_entries(other, vocabulary)[:, -1] != ngram_entries(tokens, vocabulary)[:, -1]
    assert float(changed[:, -1].float().mean()) > 0.999
    assert not changed[:, :-1].any(), "shorter n-grams do not see it"


def test_the_decoder_remembers_ngrams_across_the_cache():
    """Without the other parts that look back, only the tables can tell what was before the tokens that are read now."""
    model = tiny_decoder(without=("shift",))
    tokens = random_tokens(model, 2)
    with torch.no_grad():
        whole = model(tokens)
        cache = Cache(model.shape, 2, 12, model.embedding.new_empty(0))
        parts = [model(part, cache) for part in tokens.split([1, 1, 5, 5], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-5)
