"""Figures of train.py and noise_scale.py from kept tables, and what is missing for them."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest

import noise_scale
import train
from common.errors import BadInput
from common.files import finite, read_json
from common.run import read_metrics
from critical_batch.predictions import verdicts
from lm_commands import inline
from lm_report import train_figures
from lm_report.kept_study import interval_of, read_study
from lm_report.run_pictures import draw_run, figures_due

REFERENCE = Path(train.__file__).resolve().parents[1] / "results" / "reference" / "transformers"
RUN = (
    "--task",
    "repeat",
    "--length",
    "4",
    "--vocab",
    "5",
    "--steps",
    "12",
    "--width",
    "32",
    "--layers",
    "1",
    "--name",
    "r",
)


def test_a_run_is_drawn_again_by_its_own_command_and_by_redraw(lm_folder, monkeypatch, capsys):
    assert inline(monkeypatch, *RUN) == 0
    folder = next(Path.cwd().glob("**/by_position.csv")).parent
    by_position = read_metrics(folder / "by_position.csv")
    assert by_position["position"].tolist() == list(range(1, 9))
    figures = {name: (folder / name).read_bytes() for name in ("loss.png", "attention.png")}
    for words in (RUN, ("--redraw", str(folder))):
        for name in figures:
            (folder / name).unlink()
        assert figures_due(folder) == ["loss.png", "attention.png"]
        assert inline(monkeypatch, *words) == 0
        assert {name: (folder / name).read_bytes() for name in figures} == figures
    assert "drawn again, since missing: loss.png, attention.png" in capsys.readouterr().out
    with np.load(folder / "attention.npz") as kept:
        weights = kept["layer_1"].astype(float)
    assert weights.shape[1:] == (8, 8)
    assert weights.sum(-1) == pytest.approx(1.0, abs=2e-3)  # of every token that looks


def test_an_older_run_says_which_panel_it_lacks(tmp_path, capsys):
    shutil.copytree(REFERENCE / "repeat-5", tmp_path / "r")
    (tmp_path / "r" / "loss.png").unlink()
    draw_run(tmp_path / "r")
    assert "keeps no by_position.csv" in capsys.readouterr().out
    assert (tmp_path / "r" / "loss.png").read_bytes() == (REFERENCE / "repeat-5" / "loss.png").read_bytes()


@pytest.mark.parametrize("name", ["config.json", "metrics.csv", "summary.json"])
def test_a_missing_table_is_one_sentence(tmp_path, name):
    shutil.copytree(REFERENCE / "repeat-5", tmp_path / "r")
    (tmp_path / "r" / name).unlink()
    with pytest.raises(BadInput, match=f"has no {name}, which the figures are drawn from"):
        draw_run(tmp_path / "r")


# ---------------------------------------------------------------- the noise scale


def test_the_committed_study_comes_back_whole():
    """The verdicts from what is read again are those that were written."""
    arms, sizes = read_study(REFERENCE / "noise_scale")
    assert [arm.name for arm in arms][:3] == ["kjv-64-adamw", "kjv-32-adamw", "kjv-128-adamw"]
    assert [arm.name for arm in sizes] == ["kjv-32-adamw", "kjv-128-adamw"]
    kept = read_json(REFERENCE / "noise_scale" / "fits.json")["predictions"]
    again = [finite(verdict.row()) for verdict in verdicts(arms[0], arms, sizes)]
    assert [(row["name"], row["arm"], row["verdict"]) for row in again] == [
        (row["name"], row["arm"], row["verdict"]) for row in kept
    ]
    for old, new in zip(kept, again, strict=True):
        assert new["value"] == (None if old["value"] is None else pytest.approx(old["value"], rel=1e-6))


def test_an_interval_may_have_no_end():
    assert interval_of({"value": 2.0, "lo95": 1.0, "hi95": None}).hi95 == math.inf
    assert interval_of({"value": None, "lo95": 1.0, "hi95": None}).value == math.inf
    assert math.isnan(interval_of({"value": None, "lo95": None, "hi95": None}).value)


def test_the_study_is_drawn_again(tmp_path, monkeypatch):
    shutil.copytree(REFERENCE / "noise_scale", tmp_path / "n")
    for name in ("noise_scale.png", "predictions.png"):
        (tmp_path / "n" / name).unlink()
    monkeypatch.setattr("sys.argv", ["noise_scale.py", "--redraw", str(tmp_path / "n")])
    assert noise_scale.main() == 0
    for name in ("noise_scale.png", "predictions.png"):
        assert (tmp_path / "n" / name).stat().st_size > 30_000
    (tmp_path / "n" / "noise.csv").unlink()
    with pytest.raises(BadInput, match=r"has no noise\.csv"):
        noise_scale.main()


def test_several_nets_have_a_curve_each_and_the_axes_their_names(tmp_path, monkeypatch):
    folder, drawn = REFERENCE / "tinyshakespeare-15-s0", []
    monkeypatch.setattr(train_figures, "save_figure", lambda figure, *_, **__: drawn.append(figure))
    metrics, numbers = read_metrics(folder / "metrics.csv"), read_json(folder / "summary.json")
    train_figures.text_figure(metrics, None, numbers, "tinyshakespeare", tmp_path / "loss")
    axes = drawn[0].axes[:2]
    assert [ax.get_xlabel() for ax in axes] == ["training tokens", "minutes since the command began"]
    curves = [line for line in axes[0].lines if line.get_marker() == "."]
    assert len(curves) == numbers["members"] == 3
    assert sum(len(line.get_xdata()) for line in curves) == len(metrics["step"])
    names = axes[1].get_legend_handles_labels()[1]
    assert len(names) == len(set(names)) == 6
