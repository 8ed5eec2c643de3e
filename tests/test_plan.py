"""plan.py as a user runs it, and its numbers by hand: a prediction stands before its training; one sentence for bad input."""

import csv
import math
import sys
from pathlib import Path

import numpy as np
import pytest

import fit
import plan
from common.cli import run_main
from common.errors import BadInput
from common.files import read_record, write_json
from law_forms.form_fits import Law
from law_forms.forms import FORMS
from law_report.fits_json import to_json
from laws.analysis import analyse
from laws.parametric import MacsLaw, optimum
from laws.predictive import ErrorLine, Predictive, WeightedForm
from laws.run_table import read_table
from nets.flop_count import macs_per_image, n_params
from planning.best_cell import Budget, Sized, compute_for, compute_interval, extrapolation, predicted
from planning.kept_law import IMAGES_AT_1, IMAGES_EXPONENT, KeptLaw, read_law
from planning.machine_speed import CALIBRATED, TEST_COST, best_in_minutes
from planning.plan_settings import COMMITTED
from planning.plan_text import extrapolation_line, plan_lines
from synthetic_law import LAW, POWER_MEAN, sweep_table, table
from synthetic_mnist import write_mnist

ROOT = Path(__file__).resolve().parent.parent


def run(script, monkeypatch, *arguments: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", [f"scaling_laws/{script.__name__}.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        run_main(script.main)
    return stop.value.code


def write_runs(path: Path, runs, dataset: str = "custom") -> Path:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("n_params", "n_samples", "loss", "flops", "test_accuracy", "dataset"))
        for n, d, loss, flops in zip(runs.n_params, runs.n_samples, runs.loss, runs.flops, strict=True):
            writer.writerow((n, d, loss, flops, 1 - 0.3 * loss, dataset))
    return path


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> Path:
    """Folders of fits: ours/ of this repository's net on `custom` digits, other/ of nets of another kind."""
    folder = tmp_path_factory.mktemp("fits")
    for name, runs in (("ours", sweep_table(noise=0.068, seed=0)), ("other", table(noise=0.03, seeds=3))):
        (folder / name).mkdir()
        result = analyse(read_table(write_runs(folder / f"{name}.csv", runs)), 1e-3)
        write_json(folder / name / "fits.json", to_json(result))
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    write_mnist(tmp_path / "data")
    monkeypatch.setenv("REPLICATIONS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("REPLICATIONS_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan_file(place: Path) -> Path:
    (found,) = (place / "results").glob("scaling_laws/*/plan.json")
    return found


# ---------------------------------------------------------------- from the command line


def test_the_prediction_is_written_then_trained_then_compared(fitted, place, monkeypatch, capsys):
    arguments = ("--flops", "3e8", "--fits", str(fitted / "ours"), "--results-dir", "results", "--seeds", "2")
    assert run(plan, monkeypatch, *arguments) == 0
    told = capsys.readouterr().out
    before = read_record(plan_file(place))
    assert before["measured"] is None
    assert "EXTRAPOLATES" in told
    assert f"predicted loss {before['loss']['value']:.4f}" in told
    written = []
    really = plan.train_plan

    def watched(*values):
        written.append(read_record(plan_file(place)))
        return really(*values)

    monkeypatch.setattr(plan, "train_plan", watched)
    assert run(plan, monkeypatch, *arguments, "--train") == 0  # the same folder
    assert written == [before]
    after = read_record(plan_file(place))
    assert {**after, "measured": None} == before
    with open(plan_file(place).parent / "runs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["width"], row["n_samples"], row["seed"]) for row in rows] == [
        (str(before["cell"]["width"]), str(before["cell"]["n_samples"]), seed) for seed in "01"
    ]
    losses = [float(row["test_loss"]) for row in rows]
    assert after["measured"]["loss"] == pytest.approx(math.exp(np.mean(np.log(losses))))
    assert after["measured"]["log_error"] == pytest.approx(
        math.log(after["measured"]["loss"] / before["loss"]["value"])
    )
    assert "measured loss" in capsys.readouterr().out
    content = plan_file(place).read_bytes()
    assert run(plan, monkeypatch, *arguments, "--train") == 0  # nothing is trained twice
    assert len(written) == 1
    assert plan_file(place).read_bytes() == content


def test_a_stop_between_prediction_and_training_keeps_the_prediction(fitted, place, monkeypatch, capsys):
    arguments = (
        "--flops",
        "3e8",
        "--fits",
        str(fitted / "ours"),
        "--results-dir",
        "results",
        "--seeds",
        "1",
        "--train",
    )
    really = plan.train_plan

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(plan, "train_plan", stop)
    assert run(plan, monkeypatch, *arguments) == 130
    kept = read_record(plan_file(place))
    assert kept["measured"] is None
    monkeypatch.setattr(plan, "train_plan", really)
    monkeypatch.setattr(plan, "make_plan", stop)  # the prediction is not made again
    assert run(plan, monkeypatch, *arguments) == 0
    after = read_record(plan_file(place))
    assert {**after, "measured": None} == kept
    assert len(after["measured"]["losses"]) == 1


def test_other_data_and_other_nets_are_refused_and_leave_nothing(fitted, place, monkeypatch, capsys):
    ours = ("--flops", "3e8", "--results-dir", "results", "--train", "--fits")
    assert run(plan, monkeypatch, *ours, str(fitted / "ours"), "--dataset", "mnist5k") == 2
    assert "the law is of custom, the data here are mnist5k" in capsys.readouterr().err
    assert run(plan, monkeypatch, *ours, str(fitted / "other")) == 2
    assert "of other nets than this repository's" in capsys.readouterr().err
    assert not (place / "results").exists()
    assert run(plan, monkeypatch, "--flops", "1e9", "--fits", str(fitted / "other"), "--results-dir", "results") == 0
    assert " samples" in capsys.readouterr().out


def test_without_flags_it_plans_by_the_latest_fits(fitted, place, monkeypatch, capsys):
    folder = place / "results/scaling_laws/mine"
    folder.mkdir(parents=True)
    (folder / "fits.json").write_bytes((fitted / "ours/fits.json").read_bytes())
    assert run(plan, monkeypatch, "--results-dir", "results") == 0
    told = capsys.readouterr().out
    assert "4.00 times the largest compute" in told
    assert "on custom" in told


def test_minutes_are_spent_on_this_machine(fitted, place, monkeypatch, capsys):
    monkeypatch.setattr(plan, "measure_speed", lambda *_: {"images_per_second": 20_000.0})
    arguments = ("--minutes", "0.5", "--fits", str(fitted / "ours"), "--results-dir", "results", "--workers", "2")
    assert run(plan, monkeypatch, *arguments, "--seeds", "2") == 0
    cell = read_record(plan_file(place))["cell"]
    assert cell["n_samples"] == pytest.approx(30 * 20_000 - TEST_COST, abs=2)


BAD = {
    "two budgets": (("--flops", "1e10", "--loss", "0.1"), "exclude each other"),
    "nan": (("--flops", "nan"), "--flops must be positive and finite"),
    "negative": (("--minutes", "-1"), "--minutes must be positive"),
    "tiny": (("--flops", "1e6"), "are too few"),
    "nothing": (("--flops", "1"), "are too few"),
    "huge": (("--flops", "1e40"), "no optimum"),
    "below E": (("--loss", "1e-4"), "out of reach"),
    "easy": (("--loss", "5"), "no training worth a plan"),
    "within": (("--within", "0"), "--within must be"),
    "seeds": (("--seeds", "0"), "--seeds must be positive"),
    "absent": (("--fits", "absent.json"), "is not there"),
    "name": (("--name", "../out"), "--name"),
    "no number": (("--flops", "much"), "flops"),
    "short": (("--minutes", "1e-6"), "too short"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_sentence_and_leaves_nothing(name, fitted, place, monkeypatch, capsys):
    arguments, sentence = BAD[name]
    fits = () if "--fits" in arguments else ("--fits", str(fitted / "ours"))
    monkeypatch.setattr(plan, "measure_speed", lambda *_: {"images_per_second": 20_000.0})
    assert run(plan, monkeypatch, *arguments, *fits, "--results-dir", "results") == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    assert sentence in told
    assert not list(place.rglob("plan.json"))


@pytest.mark.parametrize("content", ["{}", "[]", '{"prediction": null}', '{"prediction": {"forms": [1]}}', "not json"])
def test_files_that_are_no_law(content, tmp_path, monkeypatch, capsys):
    (tmp_path / "fits.json").write_text(content)
    assert run(plan, monkeypatch, "--fits", str(tmp_path), "--results-dir", str(tmp_path / "r")) == 2
    assert "fits.json" in capsys.readouterr().err


def test_tables_of_one_width_or_one_budget_have_no_law(tmp_path, monkeypatch, capsys):
    runs = sweep_table(noise=0.068, seed=0)
    for keep, sentence in (
        (runs.n_params == n_params(6), "3 different n_params"),
        (np.abs(np.log(runs.flops / 3.2e10)) < 0.02, "same compute"),
    ):
        part = type(runs)(*(getattr(runs, name)[keep] for name in ("n_params", "n_samples", "loss", "flops", "error")))
        path = write_runs(tmp_path / "t.csv", part)
        assert run(fit, monkeypatch, "--csv", str(path), "--results-dir", str(tmp_path / "r")) == 2
        assert sentence in capsys.readouterr().err


# ---------------------------------------------------------------- the numbers


def law_of(constants: dict[str, float], our_net: bool = False, noise: float = 0.06, tau: float = 0.0) -> KeptLaw:
    """A law that is known exactly, of one form and one draw."""
    theta = np.array([math.log(constants["E"]), math.log(constants["A"]), math.log(constants["B"])])
    theta = np.array([*theta, constants["alpha"], constants["beta"], math.log(constants.get("q", 1.0))])
    law = Law(FORMS["power mean"], theta, np.zeros(2))
    form = WeightedForm(law, 1.0, np.repeat(theta[None], 200, 0), np.full(200, tau))
    predictive = Predictive([form], noise, ErrorLine(-1.25, 0.96, 0.02))
    macs = MacsLaw(0.0549, 1.678) if our_net else MacsLaw()
    return KeptLaw(predictive, "mnist" if our_net else "", our_net, macs, (2e3, 3e4), (2e3, 3e5), (1e9, 3e11), 189)


def test_best_size_is_the_closed_forms():
    law = law_of(POWER_MEAN)
    budget = Budget(law, 1e11)
    budget.check()
    n, d = optimum(1e11, POWER_MEAN, MacsLaw())
    assert budget.cell().n_params == pytest.approx(n, rel=0.01)
    assert budget.cell().n_samples == pytest.approx(d, rel=0.01)
    assert compute_for(law, math.exp(budget.log_loss.min())) == pytest.approx(1e11, rel=0.01)


def test_widths_use_the_nets_exact_count():
    budget = Budget(law_of(POWER_MEAN, our_net=True), 5e12)
    cell = budget.cell()
    assert cell.width > 23
    assert (cell.n_params, cell.macs) == (n_params(cell.width), macs_per_image(cell.width))
    assert cell.flops == pytest.approx(5e12, rel=1e-5)
    assert abs(math.log(0.0549 * cell.n_params**1.678 / cell.macs)) > 0.03  # what the power would have missed by


def test_flatness_by_the_formula():
    law = law_of(LAW)
    budget = Budget(law, 1e10)
    n, d = (np.asarray(value) for value in optimum(1e10, LAW, MacsLaw()))

    def loss(factor: float) -> float:
        return LAW["E"] + LAW["A"] / (factor * n) ** LAW["alpha"] + LAW["B"] / (d / factor) ** LAW["beta"]

    for factor in (2.0, 0.5):
        part = budget.elsewhere(factor)
        assert part is not None
        assert part["loss_increase"] == pytest.approx(loss(factor) / loss(1.0) - 1, rel=0.05)
        assert 0.3 < part["compute"] < 1
        again = Budget(law, 1e10 * part["compute"])
        assert math.exp(again.log_loss.min()) == pytest.approx(loss(factor), rel=0.01)
    region = budget.region(0.02)
    low, high = region["n_params"]
    assert low < n < high
    for end in (low, high):
        assert loss(end / n) == pytest.approx(1.02 * loss(1.0), rel=0.003)


def test_interval_of_an_exactly_known_law_is_that_of_the_seeds():
    cell = Sized(16, n_params(16), macs_per_image(16), 175_981)
    for seeds in (1, 3):
        found = predicted(law_of(POWER_MEAN, our_net=True), cell, seeds)
        assert found["half_width"] == pytest.approx(1.96 * 0.06 / math.sqrt(seeds), rel=0.05)
        assert found["half_width_of_seeds_alone"] == pytest.approx(1.96 * 0.06 / math.sqrt(seeds))
        value = found["loss"]["value"]
        low, high = found["loss"]["beyond_these_images"]
        images = IMAGES_AT_1 * value**-IMAGES_EXPONENT
        expected = 1.96 * math.hypot(0.06 / math.sqrt(seeds), images)
        assert math.log(high / low) / 2 == pytest.approx(expected, rel=0.05)
    with_misses = predicted(law_of(POWER_MEAN, our_net=True, tau=0.05), cell, 3)
    assert with_misses["half_width"] == pytest.approx(1.96 * math.hypot(0.06 / math.sqrt(3), 0.05), rel=0.05)
    assert predicted(law_of(POWER_MEAN), cell, 3)["loss"].keys() == {"value", "lo95", "hi95"}


def test_extrapolation_by_hand():
    law = law_of(POWER_MEAN)
    found = extrapolation(law, Sized(0, 1_000, 1_000.0, 600_000))
    assert found == pytest.approx({"flops": 1.0, "n_params": 0.5, "n_samples": 2.0})
    line = extrapolation_line({"extrapolation": found})
    assert line == "EXTRAPOLATES: 0.50 of the smallest size, 2.00 times the largest number of samples of the law's runs"
    assert extrapolation_line({"extrapolation": dict.fromkeys(found, 1.0)}) == "inside the range of the law's runs"


def test_compute_interval_of_a_known_law_is_a_point():
    item = compute_interval(law_of(POWER_MEAN), 0.05)
    assert item["lo95"] == pytest.approx(item["value"], rel=1e-6)
    with pytest.raises(BadInput, match="out of reach"):
        compute_interval(law_of(POWER_MEAN), 0.0288)


def test_minutes_buy_what_the_speeds_allow():
    law = law_of(POWER_MEAN, our_net=True)
    asked: list[int] = []

    def speed(width: int) -> float:
        asked.append(width)
        return 50e9 / (6 * macs_per_image(width))  # 50 GFLOP/s at every width

    cell = best_in_minutes(law, 1.0, seeds=3, workers=2, speed=speed)
    assert asked == list(CALIBRATED)
    # two rounds of runs in a minute: 30 s of 50 GFLOP/s each, a little of it for the test
    assert cell.flops == pytest.approx(30 * 50e9, rel=0.1)
    assert cell.width == pytest.approx(Budget(law, cell.flops).cell().width, abs=2)
    with pytest.raises(BadInput, match="too short"):
        best_in_minutes(law, 1e-5, 3, 2, speed)


# ---------------------------------------------------------------- the committed law


def test_the_committed_law_predicts():
    law = read_law(ROOT / COMMITTED)
    assert law.our_net
    assert law.dataset == "mnist"
    assert law.predictive.law.form.name == "power mean"
    assert sum(form.weight for form in law.predictive.forms) == pytest.approx(1)


def test_the_images_part_is_the_measured_one():
    with open(ROOT / "results/reference/scaling_laws/tuning/image_losses.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    loss, deviation = (np.log([float(row[key]) for row in rows]) for key in ("test_loss", "sd_log_loss"))
    slope, intercept = np.polyfit(loss, deviation, 1)
    assert (math.exp(intercept), -slope) == pytest.approx((IMAGES_AT_1, IMAGES_EXPONENT), rel=2e-3)
    residual = deviation - intercept - slope * loss
    assert np.abs(residual).max() < 0.12
    for row in rows:  # error rates: binomial
        rate = float(row["test_error"])
        assert float(row["sd_log_error"]) == pytest.approx(math.sqrt((1 - rate) / (rate * 10_000)), rel=0.06)


def test_the_text_names_what_is_left_open():
    told = {"law": {"form": "additive", "runs": 9, "dataset": "", "fits": "f", "weights": {"additive": 1.0}}}
    span = {"value": 1.0, "lo95": 0.5, "hi95": None}
    size = {"width": 0, "n_params": 10, "n_samples": 20, "flops": 1e9}
    interval = {"value": 1.0, "lo95": 1.0, "hi95": 2.0}
    text = plan_lines(
        {
            **told,
            "cell": size,
            "amount": 0.1,
            "seeds": [0],
            "loss": interval,
            "compute_of_the_loss": span,
            "half_width": 0.1,
            "half_width_of_seeds_alone": 0.1,
            "optimum": {"n_params": interval, "n_samples": interval},
            "region": {"within": 0.02, "n_params": [1, 2], "n_samples": [2, 1], "open": True},
            "twice_too_large": None,
            "twice_too_small": None,
            "extrapolation": {"flops": 1.0},
        }
    )
    assert "1 [0.5, …] FLOP" in "\n".join(text)
    assert any("1 and more parameters" in line for line in text)
    assert any("10 parameters on 20 samples" in line for line in text)
