"""What every test shares."""

import pytest
import torch

import lookback

# The models of tests are so small that a second thread mostly waits for the first, and long if its core is taken.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _small_tables(monkeypatch):
    """Tables of n-grams of a size for tiny models: those of a real one would be nearly all of their parameters."""
    monkeypatch.setattr(lookback, "NGRAM_ROWS", 512)
