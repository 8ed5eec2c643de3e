"""metrics.csv as TensorBoard's event files."""

import sys

import pytest

from common import events
from common.errors import BadInput

TABLE = "step,loss,noise\n1,0.5,nan\n3,0.25,2\n"


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "rl" / "mine"
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text(TABLE)
    return folder


def test_every_number_comes_back_at_its_step(run, tmp_path, monkeypatch):
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setattr(sys, "argv", ["events.py", str(run), "--out", str(tmp_path / "out")])
    assert events.main() == 0
    found = reading.EventAccumulator(str(tmp_path / "out" / "rl" / "mine"))
    found.Reload()
    scalars = {tag: [(one.step, one.value) for one in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    assert scalars == {"loss": [(1, 0.5), (3, 0.25)], "noise": [(3, 2.0)]}
    with pytest.raises(BadInput, match="is there already"):
        events.main()


@pytest.mark.parametrize("table", ["loss\n1\n", "step,loss\nnan,1\n"])
def test_a_table_without_steps_is_one_sentence(run, tmp_path, monkeypatch, table):
    (run / "metrics.csv").write_text(table)
    monkeypatch.setattr(events.importlib.util, "find_spec", lambda _: True)
    monkeypatch.setattr(sys, "argv", ["events.py", str(run), "--out", str(tmp_path / "out")])
    with pytest.raises(BadInput, match="has no column step"):
        events.main()
    assert not (tmp_path / "out").exists()


def test_two_runs_never_share_a_folder(run, tmp_path, monkeypatch):
    other = tmp_path / "elsewhere" / "rl" / "mine"
    other.mkdir(parents=True)
    (other / "metrics.csv").write_text(TABLE)
    monkeypatch.setattr(events.importlib.util, "find_spec", lambda _: True)
    monkeypatch.setattr(sys, "argv", ["events.py", str(run), str(other), "--out", str(tmp_path / "out")])
    with pytest.raises(BadInput, match="two of these runs would be written to"):
        events.main()


def test_without_tensorboard_the_remedy_is_named(run, monkeypatch):
    monkeypatch.setattr(events.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["events.py", str(run)])
    with pytest.raises(BadInput, match=r"pip install -e '\.\[tensorboard\]' -c constraints\.txt"):
        events.main()


@pytest.mark.parametrize(("words", "sentence"), [([], "name the folders"), (["absent"], "absent has no metrics.csv")])
def test_bad_input_is_one_sentence(words, sentence, monkeypatch):
    monkeypatch.setattr(events.importlib.util, "find_spec", lambda _: True)
    monkeypatch.setattr(sys, "argv", ["events.py", *words])
    with pytest.raises(BadInput, match=sentence):
        events.main()
