"""The keeping of a training loop: rows, checkpoints and Ctrl-C."""

import os
import signal

import pytest

from common import keeping
from common.files import load_checkpoint
from common.keeping import Keeper
from common.live import LiveFigure
from common.run import Run, read_metrics


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves."""
    now = [0.0]
    monkeypatch.setattr(keeping.time, "perf_counter", lambda: now[0])
    return now


@pytest.fixture
def run(tmp_path):
    with Run(tmp_path / "run", {}, "cpu") as run:
        yield run


def checkpoint(run: Run) -> int | None:
    path = run.folder / "checkpoint.pt"
    return load_checkpoint(path)["step"] if path.exists() else None


def test_checkpoints_come_by_the_clock_and_at_the_end(run, clock):
    saved = []
    with Keeper(run, 10, lambda: {"x": 1}, seconds=30.0) as keep:
        while keep.done < keep.total:
            clock[0] += 11
            keep.made(keep.done + 1)
            keep.save()
            saved.append(checkpoint(run))
    assert saved == [None, None, 3, 3, 3, 6, 6, 6, 9, 10]


def test_nothing_worth_keeping_leaves_the_last_checkpoint(run, clock):
    states = iter([{"x": 1}, None])
    with Keeper(run, 2, lambda: next(states), seconds=0.0) as keep:
        for done in (1, 2):
            clock[0] += 1
            keep.made(done)
            keep.save()
    assert checkpoint(run) == 1


def test_rows_are_logged_and_a_loop_goes_on_from_where_it_was(run, clock):
    with Keeper(run, 5, dict, done=3) as keep:
        assert keep.done == 3
        keep.made(4)
        keep.row("loss 2", step=4, loss=2.0)
        keep.total = 6  # a plan that was revised
        assert keep.total == 6
    assert read_metrics(run.folder / "metrics.csv")["loss"].tolist() == [2.0]


@pytest.mark.parametrize(("quiet", "drawn"), [(False, 2), (True, 0)])
def test_the_figure_is_drawn_on_the_way_but_not_at_the_end(run, quiet, drawn):
    calls = []
    figure = LiveFigure(run.folder / "loss.png", lambda: bool(calls.append(1)), share=1e9, after=0.0)
    with Keeper(run, 3, dict, figure=figure, quiet=quiet) as keep:
        for done in (1, 2, 3):
            keep.made(done)
            keep.row("", step=done)
    assert len(calls) == drawn


def test_ctrl_c_is_passed_on_after_a_checkpoint(run, clock):
    before = signal.getsignal(signal.SIGINT)

    def loop() -> None:
        with Keeper(run, 10, lambda: {"x": 1}) as keep:
            os.kill(os.getpid(), signal.SIGINT)
            keep.made(1)  # the step is finished
            keep.save()

    with pytest.raises(KeyboardInterrupt):
        loop()
    assert checkpoint(run) == 1
    assert signal.getsignal(signal.SIGINT) is before


def test_a_worker_leaves_ctrl_c_to_its_parent(run):
    before = signal.getsignal(signal.SIGINT)
    with Keeper(run, 10, dict, quiet=True):
        assert signal.getsignal(signal.SIGINT) is before


def test_a_loop_that_ends_a_little_beyond_its_total_keeps_its_bar(run):
    with Keeper(run, 10, dict) as keep:
        keep.made(8)
        keep.made(12)
        assert keep.done == 12
        assert keep._bar.n == 10
