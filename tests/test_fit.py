"""fit.py as a user runs it: recovery through the files it writes, and one sentence for each kind of bad table."""

import csv
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fit
from common.cli import run_main
from law_report.fits_json import to_json
from law_report.formulae import formulae, number
from laws.analysis import analyse
from laws.run_table import Runs, Table, read_table
from synthetic_law import LAW, isoflop_table, table


def run_fit(monkeypatch, *arguments: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["scaling_laws/fit.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        run_main(fit.main)
    return stop.value.code


def write_table(path: Path, runs: Runs, **columns: list) -> Path:
    names = {"n_params": runs.n_params, "n_samples": runs.n_samples, "loss": runs.loss, **columns}
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(zip(*(np.asarray(values).tolist() for values in names.values()), strict=True))
    return path


def test_recovers_a_law_from_a_table(tmp_path, monkeypatch, capsys):
    path = write_table(tmp_path / "runs.csv", table())
    assert run_fit(monkeypatch, "--csv", str(path), "--results-dir", str(tmp_path / "results")) == 0
    folder = tmp_path / "results" / "scaling_laws" / "fit-runs"
    fits = json.loads((folder / "fits.json").read_text())
    for key, true in {**LAW, "a": 0.55, "b": 0.45}.items():
        assert fits[key]["value"] == pytest.approx(true, rel=1e-4), key
        assert fits[key]["lo95"] <= fits[key]["value"] * (1 + 1e-9), key
        assert fits[key]["hi95"] >= fits[key]["value"] * (1 - 1e-9), key
        assert fits["noise_matched"][key]["value"] == pytest.approx(true, rel=1e-3), key
    printed = capsys.readouterr().out
    assert "N_opt(C)" in printed
    assert "exponent 0.55 [" in printed
    assert (folder / "formulae.md").read_text().replace("**", "").splitlines()[2] in printed
    for name in ("optimum", "power_laws", "parametric"):
        assert (folder / f"{name}.png").stat().st_size > 5_000
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_every_approach_finds_the_exponent(tmp_path):
    runs = isoflop_table(noise=0.02, seeds=3, p=1.6)
    path = write_table(tmp_path / "t.csv", runs, flops=list(runs.flops), seed=[0, 1, 2] * (len(runs.loss) // 3))
    fits = to_json(analyse(read_table(path), 1e-3))
    true = 0.55 / (0.45 + 1.6 * 0.55)
    assert fits["macs"]["p"] == pytest.approx(1.6, abs=1e-6)
    assert fits["data"]["noise"] == pytest.approx(0.02, rel=0.15)
    for item in (fits["a"], fits["noise_matched"]["a"], fits["isoflop"]["a"]):
        assert item["value"] == pytest.approx(true, abs=0.03)
        assert abs(item["value"] - true) < 0.8 * (item["hi95"] - item["lo95"])
    assert fits["frontier"]["a"]["value"] == pytest.approx(true, abs=0.08)
    assert fits["a"]["value"] * 1.6 + fits["b"]["value"] == pytest.approx(1)
    assert fits["a_macs"]["value"] == pytest.approx(1.6 * fits["a"]["value"])
    # L(C) along the frontier: exponent alpha beta / (alpha + p beta), constant E
    law = fits["loss_vs_compute"]["with_constant"]
    assert law["exponent"]["value"] == pytest.approx(0.45 * 0.55 / (0.45 + 1.6 * 0.55), abs=0.04)


def test_example_is_the_closed_form(tmp_path):
    result = analyse(read_table(write_table(tmp_path / "t.csv", table())), 1e-3)
    example = to_json(result)["example"]
    n, d = example["N"]["value"], example["D"]["value"]
    assert 6 * n * d == pytest.approx(example["flops"], rel=1e-6)
    assert n == pytest.approx((0.45 * LAW["A"] / (0.55 * LAW["B"])) * (example["flops"] / 6) ** 0.55, rel=1e-3)
    assert example["loss"]["value"] == pytest.approx(LAW["E"] + LAW["A"] / n**0.45 + LAW["B"] / d**0.55, rel=1e-3)


def test_diverged_runs_are_left_out_and_counted(tmp_path):
    runs = table(noise=0.01, seeds=2)
    status = ["ok"] * len(runs.loss)
    loss = [str(value) for value in runs.loss]
    status[3], loss[3] = "diverged", ""
    columns = {"test_loss": loss, "status": status, "test_accuracy": ["0.9"] * len(loss)}
    path = write_table(tmp_path / "t.csv", runs, **columns)
    text = path.read_text().replace("loss", "other", 1)  # only test_loss remains
    path.write_text(text)
    result = analyse(read_table(path), 1e-3, math.log(10))
    assert result.table.n_diverged == 1
    assert len(result.table.runs.loss) == 127
    assert "1 diverged runs" in formulae(to_json(result))


def test_one_seed_per_cell_still_gets_an_interval(tmp_path):
    path = write_table(tmp_path / "t.csv", table(noise=0.03))
    fits = to_json(analyse(read_table(path), 1e-3))
    assert fits["alpha"]["hi95"] - fits["alpha"]["lo95"] > 0.02
    assert fits["data"]["noise"] is None


BAD = {
    "missing column": ("n_params,n_samples\n1,2\n", "lacks the column loss"),
    "no header": ("", "lacks the column n_params and n_samples and loss"),
    "nan": ("n_params,n_samples,loss\n1,2,0.3\n1,2,nan\n", "line 3: loss is nan"),
    "zero": ("n_params,n_samples,loss\n1,2,0\n", "line 2: loss is 0"),
    "negative size": ("n_params,n_samples,loss\n-1,2,1\n", "line 2: n_params is -1"),
    "text": ("n_params,n_samples,loss\n1,2,low\n", "line 2: loss is 'low', not a number"),
    "short row": ("n_params,n_samples,loss\n1,2\n", "line 2: loss is None"),
    "no rows": ("n_params,n_samples,loss\n", "has no runs"),
    "few rows": ("n_params,n_samples,loss\n1,2,1\n2,3,1\n3,4,1\n", "at least 6 cells"),
    "accuracy": ("n_params,n_samples,loss,test_accuracy\n1,2,1,high\n", "test_accuracy is 'high', not a number"),
    "accuracy above 1": (
        "n_params,n_samples,loss,test_accuracy\n1,2,1,97\n",
        "test_accuracy is 97; it must be from 0 to 1",
    ),
    "binary": (b"\xff\xfe\x00\x01", "is not a CSV file"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tables_get_one_sentence_and_leave_nothing(name, tmp_path, monkeypatch, capsys):
    content, sentence = BAD[name]
    path = tmp_path / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    results = tmp_path / "results"
    assert run_fit(monkeypatch, "--csv", str(path), "--results-dir", str(results)) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert sentence in told
    assert told.count("\n") == 1
    assert not results.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--csv", "absent.csv"),
        ("--runs", "absent"),
        ("--delta", "-1"),
        ("--delta", "nan"),
        ("--delta", "small"),
        ("--runs", "a", "--csv", "b"),
        ("--chance-loss", "0"),
        ("--name", "../out"),
        ("--unknown", "1"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    extra = ["--csv", str(write_table(tmp_path / "t.csv", table()))] if "--name" in arguments else []
    assert run_fit(monkeypatch, *arguments, *extra, "--results-dir", str(tmp_path / "r")) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1


def test_a_table_from_a_spreadsheet_with_a_space_in_its_name(tmp_path, monkeypatch, capsys):
    path = write_table(tmp_path / "my runs.csv", table())
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # the mark with which spreadsheets begin UTF-8
    assert run_fit(monkeypatch, "--csv", str(path), "--results-dir", str(tmp_path / "r")) == 0
    assert (tmp_path / "r/scaling_laws/fit-my-runs/fits.json").exists()


def test_a_sweep_is_fitted_elsewhere_under_a_name(tmp_path, monkeypatch, capsys):
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    path = write_table(sweep / "runs.csv", table())
    before = sorted(sweep.iterdir())
    arguments = ("--runs", str(path.parent), "--name", "other", "--delta", "0.03", "--results-dir", str(tmp_path / "r"))
    assert run_fit(monkeypatch, *arguments) == 0
    assert json.loads((tmp_path / "r/scaling_laws/other/fits.json").read_text())["delta"] == 0.03
    assert sorted(sweep.iterdir()) == before


def test_earlier_results_survive_a_bad_table(tmp_path, monkeypatch, capsys):
    path = write_table(tmp_path / "t.csv", table())
    arguments = ("--csv", str(path), "--results-dir", str(tmp_path / "r"))
    assert run_fit(monkeypatch, *arguments) == 0
    before = (tmp_path / "r/scaling_laws/fit-t/fits.json").read_bytes()
    path.write_text("n_params,n_samples,loss\n1,2,nan\n")
    assert run_fit(monkeypatch, *arguments) == 2
    assert (tmp_path / "r/scaling_laws/fit-t/fits.json").read_bytes() == before


@pytest.mark.parametrize(
    ("value", "text"), [(12345.0, "12,300"), (0.05234, "0.0523"), (1e-9, "0"), (1.23e11, "1.23e+11"), (math.nan, "?")]
)
def test_number(value, text):
    assert number(value) == text


def test_a_constant_beyond_every_number_is_null_in_the_file():
    """As B = L D^beta is where noise makes beta a hundred: once an error after all the training."""
    result = analyse(Table(isoflop_table(noise=0.02, seeds=2), 0, ""), 1e-3)
    assert result.other_q is not None
    huge = replace(result.other_q, value={**result.other_q.value, "B": math.inf})
    fits = to_json(replace(result, other_q=huge))
    json.dumps(fits, allow_nan=False)
    assert fits["q_free" if huge.free_q else "q_1"]["B"]["value"] is None
    assert "approach" in formulae(fits)
