"""What every test shares."""

import signal

import pytest
import torch

import lookback

# The models of tests are so small that a second thread mostly waits for the first, and long if its core is taken.
torch.set_num_threads(1)

# A shell starts a command in the background deaf to Ctrl-C, and so would be every script that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _small_tables(monkeypatch):
    """Tables of n-grams of a size for tiny models: those of a real one would be nearly all of their parameters."""
    monkeypatch.setattr(lookback, "NGRAM_ROWS", 512)
