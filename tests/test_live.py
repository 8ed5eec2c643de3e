"""Figures that are drawn while a run goes on: when, how often, and that they cost no run."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

import sweep
from common import live
from common.cli import figures
from common.files import write_record
from common.live import LiveFigure
from common.pool import Finished
from law_report import law_figures
from laws.analysis import analyse
from laws.isoflop import through_minima
from laws.run_table import CHANCE_LOSS, Runs, Table
from lm_report.train_report import draw_so_far
from nets.learning_rate import RULE
from sweeping import sweep_runner
from sweeping.grid import Cell, grid
from sweeping.sweep_settings import CommandLine, resolve
from synthetic_law import isoflop_table


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves."""
    now = [100.0]
    monkeypatch.setattr(live.time, "perf_counter", lambda: now[0])
    return now


def test_drawing_takes_its_share_of_the_time_and_no_more(clock, tmp_path, capsys):
    drawn = []

    def draw() -> bool:
        drawn.append(clock[0])
        clock[0] += 0.5
        return True

    figure = LiveFigure(tmp_path / "loss.png", draw, share=0.05, after=10.0)
    for _ in range(1000):
        clock[0] += 0.1
        figure.update()
    elapsed = clock[0] - 100
    assert drawn[0] == pytest.approx(110.0, abs=0.15)
    assert 9 <= len(drawn) <= 0.05 * elapsed / 0.5 + 1
    assert min(np.diff(drawn)) >= 0.5
    assert capsys.readouterr().out.count("open") == 1


def test_nothing_to_see_yet_is_asked_again(clock, tmp_path, capsys):
    answers = iter([False, False, True, True])
    figure = LiveFigure(tmp_path / "loss.png", lambda: next(answers), share=1.0, after=0.0)
    for told in (False, False, True, False):
        figure.update()
        assert ("loss.png" in capsys.readouterr().out) == told


def test_a_drawing_that_fails_is_told_once_and_costs_no_run(clock, tmp_path, capsys):
    def draw() -> bool:
        raise ModuleNotFoundError("no such backend")

    figure = LiveFigure(tmp_path / "loss.png", draw, share=1.0, after=0.0)
    for _ in range(3):
        figure.update()
    assert capsys.readouterr().out.count("no such backend") == 1


def test_the_pictures_of_a_folder_are_named_with_the_main_one_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert figures(tmp_path, "loss.png") == ""
    for name in ("attention.png", "loss.png", "loss.pdf", "metrics.csv"):
        (tmp_path / name).touch()
    assert figures(tmp_path, "loss.png") == "open loss.png; also attention.png"
    assert figures(tmp_path, "learning_curve.png") == "open attention.png; also loss.png"


# ---------------------------------------------------------------- a sweep


def sweep_rows() -> list[dict]:
    """Runs of seven IsoFLOP lines of nine sizes, without noise, as a sweep has them."""
    runs = isoflop_table()
    names = ("n_params", "n_samples", "test_loss", "flops")
    columns = zip(runs.n_params, runs.n_samples, runs.loss, runs.flops, strict=True)
    return [{"status": "ok", **dict(zip(names, values, strict=True))} for values in columns]


def test_a_preview_needs_two_complete_lines_and_shows_their_minima(tmp_path, monkeypatch):
    rows = sweep_rows()
    budgets = sorted({row["flops"] for row in rows})
    seen = []
    monkeypatch.setattr(law_figures, "draw_preview", lambda cells, lines, *_: seen.append((cells, lines)))
    for n in (0, 1):
        assert not sweep.preview(tmp_path, 100, "mnist", rows, budgets[:n])
    assert sweep.preview(tmp_path, 100, "mnist", rows, budgets[:3])
    (cells, lines), table = seen[0], Table(Runs(*map(np.array, zip(*seen_columns(rows), strict=True))), 0, "")
    assert len(cells.log_loss) == len(rows)
    whole = analyse(table, 1e-3, CHANCE_LOSS)
    for line, final in zip(lines, whole.lines, strict=False):
        assert (line.log_n, line.log_d, line.log_loss) == pytest.approx((final.log_n, final.log_d, final.log_loss))
    assert through_minima(whole.lines, 0)[1] == pytest.approx(0.55, abs=0.01)


def seen_columns(rows: list[dict]) -> list[tuple[float, ...]]:
    return [(row["n_params"], row["n_samples"], row["test_loss"], row["flops"], np.nan) for row in rows]


def test_a_preview_is_a_picture(tmp_path):
    rows = sweep_rows()
    budgets = sorted({row["flops"] for row in rows})
    assert sweep.preview(tmp_path, 100, "mnist", rows[:-3], budgets[:4])
    assert (tmp_path / "optimum.png").stat().st_size > 5_000
    assert [path.name for path in tmp_path.iterdir()] == ["optimum.png"]


class InOrder:
    """A pool that runs nothing: each job ends with one row, in the order in which it was given, stored ones first."""

    def __init__(self):
        self.keys: list[str] = []

    def map(self, jobs, folder):
        for job in sorted(jobs, key=lambda job: not (folder / f"{job.key}.json").exists()):
            self.keys.append(job.key)
            row = {name: job.arguments[name] for name in ("arm", "width", "n_samples")} | {"test_loss": 0.1, "seed": 0}
            yield Finished(job, {"rows": [row]})


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """The default sweep's runner with a pool that runs nothing, drawing as often as it can."""
    runner = sweep_runner.Sweep(resolve(CommandLine()), InOrder(), 2, tmp_path, tmp_path, tmp_path, "cpu")  # type: ignore[arg-type]
    monkeypatch.setattr(runner, "seconds", lambda cell, seeds: float(cell.n_samples * cell.width))
    monkeypatch.setattr(
        sweep_runner, "LiveFigure", lambda path, draw, **_: LiveFigure(path, draw, share=1e9, after=0.0)
    )
    return runner


def keys_of(runner: sweep_runner.Sweep) -> list[str]:
    """The keys of the jobs that have ended."""
    assert isinstance(runner.pool, InOrder)
    return runner.pool.keys


def drawings(runner: sweep_runner.Sweep, cells: list[Cell]) -> list[tuple[int, list[float]]]:
    """How many jobs had ended, and which lines, at every drawing of a sweep."""
    calls, keys = [], keys_of(runner)
    keys.clear()

    def draw(rows: list[dict], budgets: list[float]) -> bool:
        calls.append((len(keys), sorted(budgets)))
        return True

    rows = runner.train(cells, RULE, draw)
    assert len(rows) == len(keys)
    return calls


def test_a_sweep_runs_its_smallest_budgets_first_and_draws_as_lines_end(planned):
    cells, budgets = grid(planned.settings), planned.settings.budgets
    calls = drawings(planned, cells)
    budget = {f"test-w{cell.width}-n{cell.n_samples}": cell.budget for cell in cells}
    order = [budget[key.rsplit("-s", 1)[0]] for key in keys_of(planned)]
    assert order == sorted(order)
    assert len(set(order)) == 8  # seven lines, and the rows and columns
    jobs_of_two = sum(value <= budgets[1] for value in order)
    assert calls[0] == (jobs_of_two, list(budgets[:2]))
    assert len(calls) == len(order) - jobs_of_two  # the last drawing is the report's
    assert all(math.isfinite(budget) for _, ended in calls for budget in ended)


def test_rows_and_columns_are_no_line_and_what_is_stored_is_not_drawn_again(planned):
    """As when a failed job is tried again: all else is on the disk and comes first, the rows and columns too."""
    cells = grid(planned.settings)
    last = [cell for cell in cells if cell.budget == planned.settings.budgets[-1]]
    for cell in cells:
        for job in planned.test_jobs(cell, RULE) if cell not in last else []:
            write_record(planned.store / f"{job.key}.json", {})
    assert {tuple(ended) for _, ended in drawings(planned, cells)} == {planned.settings.budgets[:-1]}
    for cell in last:
        for job in planned.test_jobs(cell, RULE):
            write_record(planned.store / f"{job.key}.json", {})
    assert drawings(planned, cells) == []


# ---------------------------------------------------------------- a text


def test_a_text_run_has_a_curve_from_its_third_row(tmp_path):
    settings = SimpleNamespace(development=False, task="tinyshakespeare")
    text = SimpleNamespace(validation=range(101), characters=100)
    run, learner = SimpleNamespace(folder=tmp_path), SimpleNamespace(settings=settings, text=text)
    to_beat = {"ngram_order": 5, "ngram_nats_per_char": 1.7, "xz_nats_per_char": 1.8, "ppmd_nats_per_char": 1.4}
    lines = ["step,tokens,minutes,train_loss,val_loss", "1,100,0.1,4.0,4.1", "2,200,0.2,3.0,3.1", "3,300,0.3,2.5,2.6"]
    for n, drawn in ((3, False), (4, True)):
        (tmp_path / "metrics.csv").write_text("\n".join(lines[:n]) + "\n")
        assert draw_so_far(run, learner, to_beat) == drawn  # type: ignore
        assert (tmp_path / "loss.png").exists() == drawn
    assert not (tmp_path / "loss.pdf").exists()
