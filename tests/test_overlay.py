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
from common.overlay import Group, choose, find_runs, frontier, group_runs, read_curve, table, without_repeats
from common.provenance import short_hash

REFERENCE = Path(overlay.__file__).resolve().parents[1] / "results" / "reference"


def make_run(folder: Path, metrics: str, seconds: float | None = None, **config: Any) -> Path:
    folder.mkdir(parents=True)
    if seconds is not None:
        (folder / "summary.json").write_text(json.dumps({"train_seconds": seconds}))
    (folder / "metrics.csv").write_text(metrics)
    (folder / "config.json").write_text(json.dumps({"config": config}))
    return folder


@pytest.fixture
def four(tmp_path):
    """Two runs of one setting whose steps differ, one of another, and one without an evaluation at its first step."""
    return [
        make_run(tmp_path / "a0", "step,val_loss\n0,4\n10,2\n", seconds=10.0, lr=0.1, seed=0, sources={"a.py": "1"}),
        make_run(tmp_path / "a1", "step,val_loss\n0,6\n20,2\n", seconds=20.0, lr=0.1, seed=1, sources={"a.py": "1"}),
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
    assert lines[0] == "| runs | n | last val_loss | lowest | highest | seconds | other settings that differ |"
    code, other = (short_hash({"a.py": text}) for text in "12")
    assert lines[2] == f"| lr 0.1 | 2 | 3 [-9.706, 15.71] | 3 | 5 | 15 | sources {code} |"
    assert lines[3] == f"| lr 0.2 | 1 | 3 | 3 | 5 |  | sources {other} |"


def test_a_label_is_the_fewest_settings_that_tell_the_groups_apart(tmp_path):
    """Width goes with the task and so says nothing more; what the label leaves out stands in the table."""
    settings = [("kjv", 8, 0.1), ("kjv", 8, 0.2), ("text", 4, 0.1)]
    for i, (task, width, lr) in enumerate(settings):
        make_run(tmp_path / str(i), "step,x\n1,2\n", task=task, width=width, lr=lr, layers=2)
    groups = group_runs([read_curve(tmp_path / name) for name in "012"], "x", "step")
    assert [group.label for group in groups] == ["task kjv, lr 0.1", "task kjv, lr 0.2", "task text, lr 0.1"]
    assert [group.others for group in groups] == ["width 8", "width 8", "width 4"]


def test_the_same_seed_twice_is_one_run(four, tmp_path, capsys):
    again = make_run(tmp_path / "again", "step,val_loss\n0,9\n10,9\n", lr=0.1, seed=0, sources={"a.py": "1"})
    curves = without_repeats([read_curve(folder) for folder in (*four, again)])
    assert [curve.folder for curve in curves] == four
    assert capsys.readouterr().out == f"left out: {again} has the settings and the seed of {four[0]}\n"
    seedless = [make_run(tmp_path / name, "step,x\n1,2\n", lr=0.1) for name in "xy"]
    assert len(without_repeats([read_curve(folder) for folder in seedless])) == 2


def test_a_long_legend_stays_within_the_figure(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    inside = []

    def look(figure: Figure, *_: Any, **__: Any) -> None:
        figure.draw_without_rendering()
        (legend,) = figure.legends
        box, page = legend.get_window_extent(), figure.bbox
        inside.append(box.x0 >= page.x0 and box.x1 <= page.x1 and box.y0 >= page.y0 and box.y1 <= page.y1)

    monkeypatch.setattr(Figure, "savefig", look)
    monkeypatch.setattr("common.plots.Image.open", lambda _: (_ for _ in ()).throw(EOFError))
    step = np.array([0.0, 1.0])
    for n, length in ((11, 50), (11, 20), (2, 60)):
        groups = [Group(f"{i} " + "x" * length, step, np.array([[i, 1.0]])) for i in range(n)]
        with pytest.raises(EOFError):
            overlay.draw(groups, "loss", "step", tmp_path / "a.png")
    assert inside == [True] * 3


def test_dollars_in_names_are_no_formula(tmp_path):
    groups = [Group(name, np.array([0.0, 1.0]), np.array([[2.0, 1.0]])) for name in ("$x_{", "a$b$", "plain")]
    overlay.draw(groups, "lo$$_{", "step", tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000


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


def test_a_run_is_found_by_its_name_in_the_results(tmp_path, monkeypatch):
    run = make_run(tmp_path / "results" / "rl" / "mine", "step,x\n1,2\n")
    monkeypatch.setattr(overlay, "repository_root", lambda: tmp_path)
    assert find_runs(("mine",)) == find_runs(("rl/mine",)) == find_runs(("rl",)) == [run]


@pytest.mark.parametrize("content", ["[]", '{"config": [1]}', "{", "\ud800"])
def test_a_damaged_record_is_one_sentence(tmp_path, content):
    run = make_run(tmp_path / "a", "step,x\n1,2\n")
    (run / "config.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(BadInput, match=r"config\.json is (damaged|not readable JSON)"):
        read_curve(run)


def test_of_compare_which_is_no_sweep_the_sentence_says_so():
    with pytest.raises(BadInput, match="is no table of a sweep"):
        read_curve(REFERENCE / "rl" / "classic")


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
    with pytest.raises(BadInput, match="no two columns in common to draw: a has step, x; b has time, y"):
        choose([one, two], None, None)
    assert choose([one], None, None) == ("x", "step")
    with pytest.raises(BadInput, match="has no value of x"):
        group_runs([one], "x", "step")
    early, late = "step,x\n1,2\n5,1\n", "step,x\n10,2\n50,1\n"
    apart = [read_curve(make_run(tmp_path / f"s{i}", (early, late)[i], lr=1, seed=i)) for i in (0, 1)]
    with pytest.raises(BadInput, match="s0, s1 differ in the seed alone, and no step lies within all of them"):
        group_runs(apart, "x", "step")
    tables = ("step,x,y\n1,2,1\n2,0,2\n3,5,3\n", "step,x,y\n1,0,1\n2,1,2\n3,5,3\n")
    turning = [read_curve(make_run(tmp_path / f"t{i}", tables[i], lr=1, seed=i)) for i in (0, 1)]
    with pytest.raises(BadInput, match=r"x falls somewhere in .*t0, so seeds cannot be averaged along it"):
        group_runs(turning, "y", "x")
    with pytest.raises(BadInput, match="has no rows yet"):
        read_curve(make_run(tmp_path / "c", "step,x\n"))
    assert math.isnan(float(np.asarray(one.columns["x"])[0]))
