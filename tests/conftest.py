"""What every test shares."""

import pytest

import lookback


@pytest.fixture(autouse=True)
def _small_tables(monkeypatch):
    """Tables of n-grams of a size for tiny models: those of a real one would be nearly all of their parameters."""
    monkeypatch.setattr(lookback, "NGRAM_ROWS", 512)
