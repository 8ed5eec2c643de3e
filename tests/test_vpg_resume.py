"""vpg.py goes on: a stopped run, a longer run after a shorter one, environments that cannot be saved."""

import json
import shutil
import signal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.run import read_metrics
from rl_commands import RUNS, TIMES, TINY, inline, rows, summary, working_folder
from training_runs.evaluations import crossed
from vpg_learner.vpg_trainer import Trainer


@pytest.fixture
def place(tmp_path, monkeypatch):
    yield from working_folder(tmp_path, monkeypatch)


def stop_after(monkeypatch: Any, updates: int) -> None:
    """Ctrl-C during an update."""
    before = Trainer.update

    def update(self: Trainer) -> dict[str, float]:
        row = before(self)
        if self.updates == updates:
            signal.raise_signal(signal.SIGINT)
        return row

    monkeypatch.setattr(Trainer, "update", update)


@pytest.mark.parametrize("kind", ["constant", "annealed", "not restorable"])
def test_a_longer_run_begins_with_the_shorter_one_where_that_changes_nothing(place, monkeypatch, capsys, kind):
    """At a constant rate, and where environments can be restored: what the whole run in one piece says, row by row."""
    env = "LunarLander-v3" if kind == "not restorable" else "CartPole-v1"
    arguments = (*TINY, "--env", env, "--anneal" if kind == "annealed" else "--no-anneal", "--normalise-rewards")
    longer = ("--total-steps", "1024")
    assert inline(monkeypatch, *arguments, *longer, "--name", "whole") == 0
    for name, more in (("short", ()), ("z-other", ("--lr", "0.5")), ("damaged", ("--total-steps", "768"))):
        assert inline(monkeypatch, *arguments, *more, "--name", name) == 0
        began = capsys.readouterr().out.count("is the beginning of this one")
        assert began == (kind == "constant" and name == "damaged")
    (RUNS / "damaged" / "checkpoint.pt").write_bytes(b"no checkpoint")
    shutil.copytree(RUNS / "short", RUNS / "y-damaged")
    (RUNS / "y-damaged" / "summary.json").write_text("{")
    assert inline(monkeypatch, *arguments, *longer, "--name", "long") == 0
    assert ("a run of 5" in capsys.readouterr().out) == (kind == "constant")
    assert rows("long") == rows("whole")
    same = {key: value for key, value in summary("long").items() if key not in TIMES}
    assert same == {key: value for key, value in summary("whole").items() if key not in TIMES}
    if kind == "constant":  # the time of both parts counts
        seconds, before = (read_metrics(RUNS / name / "metrics.csv")["seconds"] for name in ("long", "short"))
        assert (seconds[: len(before)] == before).all()
        assert (np.diff(seconds) > 0).all()
        assert json.loads((RUNS / "long" / "began_with.json").read_text())["config"]["total_steps"] == 512


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_a_stopped_run_ends_where_an_uninterrupted_one_does(place, monkeypatch, capsys, env):
    arguments = (*TINY, "--env", env, "--normalise-observations", "--normalise-rewards", "--anneal")
    assert inline(monkeypatch, *arguments, "--name", "whole") == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        assert inline(patch, *arguments, "--name", "parts") == 130
    assert "To go on: python vpg.py" in capsys.readouterr().err
    assert len(rows("parts")) == 4
    assert inline(monkeypatch, *arguments, "--name", "parts") == 0
    assert "going on at step" in capsys.readouterr().out
    assert rows("parts") == rows("whole")
    same = {key: value for key, value in summary("parts").items() if key not in TIMES}
    assert same == {key: value for key, value in summary("whole").items() if key not in TIMES}


def test_environments_that_cannot_be_saved_begin_new_episodes_and_say_so(place, monkeypatch, capsys):
    arguments = (*TINY, "--env", "LunarLander-v3", "--name", "a")
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        assert inline(patch, *arguments) == 130
    assert inline(monkeypatch, *arguments) == 0
    assert "with new episodes" in capsys.readouterr().out
    assert summary("a")["steps"] == 512


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 40))
def test_every_multiple_is_crossed_once(steps, every):
    at, places = 0, []
    for step in steps:
        if crossed(at, at + step, every):
            places.append(at + step)
        at += step
    assert [place // every for place in places] == sorted({place // every for place in places} - {0})
    assert not places or places[-1] // every == at // every
    assert not crossed(0, at, 0)
