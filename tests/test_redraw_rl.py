"""Figures from kept tables: of one run, of a comparison, and what is missing for them."""

import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

import compare
import vpg
from common.live import attempt
from common.plots import new_figure, style
from rl_commands import RUNS, inline
from rl_report.arm_lines import arm_lines, legend_below
from rl_report.comparison_report import panels, table
from rl_report.kept_results import number_or_text, read_results
from rl_report.procgen_report import procgen_table
from rl_settings.method_names import method_name

REFERENCE = Path(compare.__file__).resolve().parents[1] / "results" / "reference" / "rl"


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("strict",), "strict policy gradient"),
        (("strict", 1, "none"), "strict policy gradient, whole return"),
        (("one-epoch", 64, "gae", "impala"), "one epoch of PPO's clip, 64 minibatches, impala"),
        (("one-epoch", 24, "gae", "", 0.0, 256), "one epoch of PPO's clip, 24 minibatches, horizon 256"),
        (("ppo", 8), "PPO"),
        (("ppo", 1), "PPO, whole batches"),
        (("ppo", 64, "gae", "impala", 0.99), "PPO, 64 minibatches, γ = 0.99, impala"),
    ],
)
def test_a_method_is_called_what_it_is(arguments, name):
    assert method_name(*arguments) == name


@pytest.mark.parametrize(
    "folder", ["classic", "methods", "baselines", "procgen/suite", "procgen/three-2m", "procgen/suite-full-1m"]
)
def test_the_committed_tables_come_again_from_the_committed_runs(folder):
    results = read_results(REFERENCE / folder)
    made = procgen_table(results) if "procgen" in folder else table(results)
    assert made == (REFERENCE / folder / "table.md").read_text()


def test_more_arms_than_colours_have_lines_of_their_own():
    labels = [f"arm {i}" for i in range(20)]
    lines = arm_lines(labels + labels)
    assert list(lines) == labels
    assert len({str(sorted(line.items())) for line in lines.values()}) == 20
    assert {line["linestyle"] for line in list(lines.values())[:8]} == {"-"}


@pytest.mark.parametrize(("letters", "columns"), [(10, 3), (36, 2), (60, 1)])
def test_a_legend_stays_inside_its_figure(letters, columns):
    with style():
        figure, axes = new_figure(1, width=7.4, height=4.2)
        handles = {f"{i}" * letters: axes[0].plot([0, 1], [0, 1])[0] for i in range(6)}
        legend_below(figure, handles, None, columns=3)
    (legend,) = figure.legends
    assert vars(legend)["_ncols"] == columns
    assert legend.get_window_extent().width <= figure.bbox.width
    plt.close(figure)


def test_what_is_read_is_what_was_written():
    results = read_results(REFERENCE / "baselines")
    assert [number_or_text(text) for text in ("7", "0.5", "nan", "ok")][:2] == [7, 0.5]
    (arm,) = [arm for arm in results if arm.baseline == "none"]
    assert [run["seed"] for run in results[arm]] == list(range(10))
    assert results[arm][1]["summary"]["eval_return_mean"] == pytest.approx(259.7, abs=0.05)
    steps, returns, *_ = panels(results)["CartPole-v1"][arm.label]
    assert returns.shape == (10, len(steps))


def test_a_comparison_is_drawn_again_and_its_other_files_stay(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "c"
    shutil.copytree(REFERENCE / "baselines", folder)
    (folder / "learning_curves.png").unlink()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert inline(monkeypatch, "--redraw", str(folder), script=compare) == 0
    assert (folder / "learning_curves.png").stat().st_size > 20_000
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert "learning_curves.png" in capsys.readouterr().out.splitlines()[-1]


def test_a_run_is_drawn_again_by_redraw_and_by_its_own_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = ("--total-steps", "512", "--num-envs", "4", "--horizon", "16", "--final-episodes", "2", "--name", "r")
    assert inline(monkeypatch, *run) == 0
    figure = RUNS / "r" / "learning_curve.png"
    whole = figure.read_bytes()
    for words in (run, ("--redraw", str(RUNS / "r"))):
        figure.unlink()
        assert inline(monkeypatch, *words) == 0
        assert figure.read_bytes() == whole
    told = capsys.readouterr().out
    assert "already done\nlearning_curve.png is missing and drawn again\n" in told
    assert told.count("CartPole-v1, strict policy gradient: return") == 2


@pytest.mark.parametrize(
    ("script", "missing", "sentence"),
    [(vpg, "metrics.csv", "there is no metrics.csv"), (compare, "curves.csv", "curves.csv is not there")],
)
def test_a_folder_that_lacks_a_table_is_one_sentence(tmp_path, monkeypatch, capsys, script, missing, sentence):
    shutil.copytree(REFERENCE / "baselines", tmp_path / "c")
    (tmp_path / "c" / "config.json").write_text("{}")
    (tmp_path / "c" / missing).unlink(missing_ok=True)
    assert inline(monkeypatch, "--redraw", str(tmp_path / "c"), script=script) == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert told.count("\n") == 1


def test_a_figure_that_cannot_be_drawn_is_one_sentence(capsys):
    def broken() -> None:
        raise ModuleNotFoundError("No module named 'matplotlib_inline'")

    attempt(broken, "learning_curve.png")
    told = "learning_curve.png cannot be drawn: ModuleNotFoundError: No module named 'matplotlib_inline'\n"
    assert capsys.readouterr().out == told
