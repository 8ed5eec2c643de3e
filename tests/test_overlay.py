"""Runs side by side: groups, means and intervals by hand, tables of every project, bad input."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common import overlay
from common.cli import run_main
from common.errors import BadInput
from common.overlay import choose, find_runs, frontier, group_runs, read_curve, table

REFERENCE = Path(overlay.__file__).resolve().parents[1] / "results" / "reference"


def make_run(folder: Path, metrics: str, **config: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text(metrics)
    (folder / "config.json").write_text(json.dumps({"config": config}))
    return folder


@pytest.fixture
def four(tmp_path):
    """Two runs of one setting whose steps differ, one of another, and one without an evaluation at its first step."""
    return [
        make_run(tmp_path / "a0", "step,val_loss\n0,4\n10,2\n", lr=0.1, seed=0, sources={"a.py": "1"}),
        make_run(tmp_path / "a1", "step,val_loss\n0,6\n20,2\n", lr=0.1, seed=1, sources={"a.py": "1"}),
        make_run(tmp_path / "b0", "step,val_loss\n0,5\n10,3\n", lr=0.2, seed=0, sources={"a.py": "2"}),
        make_run(tmp_path / "c0", "step,val_loss\n0,nan\n5,1.5\n", lr=0.4, seed=0, sources={"a.py": "1"}),
    ]


def test_runs_that_differ_in_the_seed_alone_are_one_group(four):
    groups = group_runs([read_curve(folder) for folder in four], "val_loss", "step")
    assert [group.label for group in groups] == ["lr 0.1", "lr 0.2", "lr 0.4"]
    both = groups[0]
    assert (both.x[0], both.x[-1], len(both.x)) == (0, 10, 200)  # where both are known
    assert both.y[:, -1].tolist() == [2, 4]  # the second is half way from 6 to 2
    assert both.mean[-1] == 3
    # t(0.975, 1) = 12.706; the deviation of 2 and 4 is sqrt(2), of their mean 1
    assert both.half_width is not None
    assert both.half_width[-1] == pytest.approx(12.7062, rel=1e-5)
    assert groups[1].half_width is None
    assert groups[2].x.tolist() == [5]


def test_the_table_says_n_and_the_interval(four):
    lines = table(group_runs([read_curve(folder) for folder in four], "val_loss", "step"), "val_loss").splitlines()
    assert lines[2] == "| lr 0.1 | 2 | 3 [-9.706, 15.71] | 3 | 5 |"
    assert lines[3] == "| lr 0.2 | 1 | 3 | 3 | 5 |"


def test_groups_that_no_setting_tells_apart_have_their_folders_names(tmp_path):
    folders = [make_run(tmp_path / name, "step,x\n1,2\n", sources={"a.py": name}) for name in "ab"]
    groups = group_runs([read_curve(folder) for folder in folders], "x", "step")
    assert [group.label for group in groups] == ["a", "b"]


def test_of_a_sweep_the_frontier_of_the_cells_means(tmp_path):
    rows = [
        "width,n_samples,flops,test_loss",
        "2,10,100,0.5",
        "2,10,100,0.7",
        "4,10,200,0.9",
        "4,20,400,0.2",
        "8,1,800,",
    ]
    (tmp_path / "runs.csv").write_text("\n".join(rows) + "\n")
    found = frontier(tmp_path / "runs.csv")
    assert found["flops"].tolist() == [100, 400]
    assert found["test_loss"].tolist() == pytest.approx([0.6, 0.2])


def test_the_committed_runs_of_every_project_can_be_compared(tmp_path, capsys, monkeypatch):
    for words in (
        [*sorted(map(str, (REFERENCE / "transformers").glob("induction-*"))), "--column", "second_half_loss"],
        [str(REFERENCE / "scaling_laws" / "default")],
    ):
        out = tmp_path / "figure.png"
        monkeypatch.setattr(sys, "argv", ["overlay.py", *words, "--out", str(out)])
        assert overlay.main() == 0
        assert out.stat().st_size > 10_000
        out.unlink()
    told = capsys.readouterr().out
    assert "| layers 1 | 3 | 3.332 [3.1, 3.564] |" in told
    assert "| default | 1 | 0.04231 |" in told


def test_a_folder_of_runs_stands_for_them(four, tmp_path):
    assert find_runs((str(tmp_path),)) == four
    assert find_runs((str(four[0]), str(tmp_path))) == four


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "name the folders"),
        (["absent"], "absent is no folder"),
        (["{a}", "--column", "loss"], "--column loss: the columns that all these runs have are step, val_loss"),
        (["{a}", "--x", "minutes"], "--x minutes: the columns"),
        (["{a}", "--out", "a.svg"], "--out a.svg: only .png can be written"),
        (["{empty}"], "holds no metrics.csv"),
    ],
)
def test_bad_input_is_one_sentence(four, tmp_path, monkeypatch, capsys, words, sentence):
    (tmp_path / "a0" / "inside").mkdir()
    places = {"a": str(four[0]), "empty": str(tmp_path / "a0" / "inside")}
    monkeypatch.setattr(sys, "argv", ["overlay.py", *(word.format(**places) for word in words)])
    with pytest.raises(SystemExit) as stop:
        run_main(overlay.main)
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert told.count("\n") == 1


def test_a_table_without_a_common_column_or_a_value_is_refused(tmp_path):
    one = read_curve(make_run(tmp_path / "a", "step,x\n1,nan\n"))
    two = read_curve(make_run(tmp_path / "b", "time,y\n1,2\n"))
    with pytest.raises(BadInput, match="are none"):
        choose([one, two], None, None)
    with pytest.raises(BadInput, match="has no value of x"):
        group_runs([one], "x", "step")
    with pytest.raises(BadInput, match="has no rows yet"):
        read_curve(make_run(tmp_path / "c", "step,x\n"))
    assert math.isnan(float(np.asarray(one.columns["x"])[0]))
