"""What every test shares."""

import signal

import pytest
import torch

from common.stopping import STOPS
from decoder_model import ngram_tables

# The models of tests are so small that a second thread mostly waits for the first, and long if its core is taken.
torch.set_num_threads(1)

# A shell starts a command in the background deaf to Ctrl-C, and so would be every script that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _process_as_before():
    """A script that a test runs in this process takes its signals, and rounds the smallest numbers to 0."""
    before = {number: signal.getsignal(number) for number in STOPS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    torch.set_flush_denormal(False)


@pytest.fixture(autouse=True)
def _small_tables(monkeypatch):
    """Tables of n-grams of a size for tiny models: those of a real one would be nearly all of their parameters."""
    monkeypatch.setattr(ngram_tables, "TABLE_ENTRIES", 512)


@pytest.fixture
def lm_folder(tmp_path, monkeypatch):
    """A working folder with a text for train.py and score.py, where runs take one thread and a short sample."""
    from lm_commands import working_folder  # only where it is used: it imports the scripts

    yield from working_folder(tmp_path, monkeypatch)


@pytest.fixture
def plain_lm_folder(lm_folder, monkeypatch):
    """The same without figures and with cheap anchors."""
    from lm_commands import no_figures

    no_figures(monkeypatch)
    return lm_folder
