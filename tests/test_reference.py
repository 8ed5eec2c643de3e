"""The page's numbers on scaling laws against the committed results, and these against the committed runs."""

import csv
import json
import math
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from common.cli import parse
from law_forms.form_fits import fit_form
from law_forms.forms import FORMS
from law_report.fits_json import to_json
from law_report.formulae import formulae, number
from laws.analysis import Analysis, analyse
from laws.parametric import fit_parametric, least_loss, macs_law
from laws.run_table import CHANCE_LOSS, make_cells, read_table
from laws.seed_noise import cell_noise
from pages import one_line, page
from planning.best_cell import Budget, predicted
from planning.kept_law import read_law
from sweeping.grid import grid
from sweeping.sweep_settings import PRESETS, CommandLine, resolve

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "results/reference/scaling_laws/default"
PAGE = page("scaling_laws/README.md")


@pytest.fixture(scope="module")
def fits() -> dict:
    return json.loads((REFERENCE / "fits.json").read_text())


@pytest.fixture(scope="module")
def full() -> dict:
    """The fits of the sweep of 485 runs, which the page begins with."""
    return json.loads((REFERENCE.parent / "full/fits.json").read_text())


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analyse(read_table(REFERENCE / "runs.csv"), 1e-3, CHANCE_LOSS)


@pytest.fixture(scope="module")
def again(analysis) -> dict:
    return to_json(analysis)


def test_the_committed_fits_follow_from_the_committed_runs(fits, again):
    for part in ("noise_matched", "q_1", "q_free"):
        for key in ("E", "alpha", "beta", "a", "b"):
            for end in ("value", "lo95", "hi95"):
                expected = pytest.approx(fits[part][key][end], rel=0.02, abs=1e-4)
                assert again[part][key][end] == expected, (part, key, end)
    for key in ("a", "b"):
        assert again["isoflop"][key] == pytest.approx(fits["isoflop"][key], rel=1e-6)
    assert again["frontier"]["a"] == pytest.approx(fits["frontier"]["a"], rel=0.02)
    assert again["data"] == pytest.approx(fits["data"])
    assert {key: again["q_free"][key] for key in fits["q_free"]} == {key: again[key] for key in fits["q_free"]}
    assert formulae(fits) in (REFERENCE / "formulae.md").read_text()


def test_the_form_is_chosen_by_what_was_held_out(fits, full, again):
    """On the 63 cells; beside it what the later 97 say."""
    forms = again["forms"]
    assert forms["chosen"] == fits["forms"]["chosen"] == full["forms"]["chosen"] == "power mean"
    assert len(forms["table"]) == 9
    rows = {row["form"]: row for row in forms["table"]}
    for name, row in rows.items():
        committed, later = (
            next(other for other in one["forms"]["table"] if other["form"] == name) for one in (fits, full)
        )
        assert row["held_out_error"] == pytest.approx(committed["held_out_error"], rel=0.01), name
        eighth = next(part for part in later["held_out"] if part["name"] == "C <= C_max / 8")
        sizes = later["held_out"][-1]
        assert (eighth["cells"], sizes["cells"]) == (19, 97)
        error = f"{row['held_out_error']:.3f}"
        error = f"**{error}**" if name == forms["chosen"] else error
        numbers = (
            f"| {row['parameters']} | {error} | {eighth['rms']:.3f} ({eighth['bias']:+.3f}) | {sizes['rms']:.3f} | "
        )
        numbers += f"{later['chi2_per_degree']:.2f} |"
        assert any(line.endswith(numbers) for line in PAGE.splitlines()), name
    least = min(row["held_out_error"] for row in forms["table"])
    assert rows["power mean"]["held_out_error"] == least
    tau = read_law(REFERENCE / "fits.json").predictive.forms[0].tau
    assert f"misses that the cells of a width share are some {100 * tau.mean():.1f}%" in one_line(PAGE)
    assert f"χ² was {rows['power mean']['chi2_per_degree']:.2f}" in one_line(PAGE)


def test_the_law_of_the_63_cells_predicts_the_runs_made_after_it():
    """The form and its parameters from the earlier sweep alone, the cells of the later one beyond its compute."""
    before, after = (
        make_cells(read_table(REFERENCE.parent / name / "runs.csv").runs, CHANCE_LOSS)[0]
        for name in ("default", "full")
    )
    beyond = after.flops > 1.02 * before.flops.max()
    missed = {}
    for name in ("power mean", "additive"):
        law = fit_form(FORMS[name], before.n_params, before.n_samples, before.log_loss, 1e-3)
        missed[name] = after.log_loss[beyond] - law.log_loss(after.n_params[beyond], after.n_samples[beyond])
    rms = {name: math.sqrt(np.mean(error**2)) for name, error in missed.items()}
    noise = cell_noise(after)
    assert rms["power mean"] <= 1.25 * noise
    far = after.flops.max() / before.flops.max()
    told = [
        f"the power mean predicts the {beyond.sum()} new cells beyond their compute, up to {far:.1f} times,",
        f"with a root mean square error of {rms['power mean']:.1%} and a bias of {missed['power mean'].mean():.1%},",
        f"the noise of a cell's mean being {noise:.1%}; the additive law with {rms['additive']:.1%}",
    ]
    assert " ".join(told) in one_line(PAGE)


def test_the_full_sweeps_law_follows_from_its_runs(full):
    cells = make_cells(read_table(REFERENCE.parent / "full/runs.csv").runs, CHANCE_LOSS)[0]
    macs = macs_law(cells.n_params, cells.flops / (6 * cells.n_samples))
    fit = fit_parametric(cells, 1e-3, macs, draws=50, free_q=True)
    for key in ("E", "alpha", "beta", "q", "a", "b"):
        assert fit.value[key] == pytest.approx(full[key]["value"], rel=1e-3), key
        assert full[key]["lo95"] < full[key]["value"] < full[key]["hi95"]
    assert (full["a"]["hi95"] - full["a"]["lo95"]) / (2 * 1.96) < 0.015
    assert formulae(full) in (REFERENCE.parent / "full/formulae.md").read_text()


def test_with_few_cells_the_additive_law_predicts_better():
    """What the page says of C_max / 16."""
    cells = make_cells(read_table(REFERENCE / "runs.csv").runs, CHANCE_LOSS)[0]
    kept = cells.flops <= cells.flops.max() / 16 * 1.02
    assert kept.sum() == 30
    errors = {}
    for name, form in FORMS.items():
        law = fit_form(form, cells.n_params[kept], cells.n_samples[kept], cells.log_loss[kept], 0.0394)
        missed = law.log_loss(cells.n_params[~kept], cells.n_samples[~kept]) - cells.log_loss[~kept]
        errors[name] = math.sqrt(np.mean(missed**2))
    assert min(errors, key=lambda name: errors[name]) == "additive"


def test_readme_quotes_the_committed_numbers(full):
    def quoted(item: dict, digits: int = 2) -> str:
        return f"{item['value']:.{digits}f} [{item['lo95']:.{digits}f}, {item['hi95']:.{digits}f}]"

    for item in (full["a"], full["b"], full["isoflop"]["a"], full["isoflop"]["b"], full["frontier"]["a"]):
        assert quoted(item) in PAGE
    for item in (full["alpha"], full["beta"], full["q"], full["a_macs"], full["error_rate_vs_compute"]["exponent"]):
        assert quoted(item) in PAGE
    assert quoted(full["E"], 3) in PAGE
    assert f"test loss of {quoted(full['example']['loss'], 3)}" in one_line(PAGE)
    assert f"{full['data']['runs']} runs" in PAGE
    for symbol, item in (("N", full["example"]["N"]), ("D", full["example"]["D"])):
        assert number(item["value"]) in PAGE, symbol
    n, d = (number(full["optimum"][symbol]["value"]) for symbol in "ND")
    formula = (
        f"N_opt = {n} (C / 1e11)^{full['a']['value']:.3f} parameters on D_opt = {d} (C / 1e11)^{full['b']['value']:.3f}"
    )
    assert formula in one_line(PAGE)
    least, largest = (full["a_without_one_size"][key] for key in ("least", "largest"))
    assert f"a stays between {least:.2f} and {largest:.2f}" in one_line(PAGE)
    assert f"misses by {full['q_1']['misfit_ratio']:.1f} times" in one_line(PAGE)


@pytest.mark.parametrize(("law", "folder"), [("default", "predictions"), ("full", "later_predictions")])
def test_the_predictions_are_those_of_the_committed_law(law, folder):
    """Made before their runs, from the fits that are committed: the same again to the last digit that is quoted."""
    kept_law = read_law(REFERENCE.parent / law / "fits.json")
    files = sorted((REFERENCE.parent / folder).glob("*.json"), key=lambda path: float(path.stem))
    assert len(files) == 5
    ratios = []
    for path in files:
        kept = json.loads(path.read_text())
        cell = Budget(kept_law, float(path.stem)).cell()
        assert (cell.width, cell.n_samples) == (kept["cell"]["width"], kept["cell"]["n_samples"])
        loss = predicted(kept_law, cell, 3)["loss"]
        for end in ("value", "lo95", "hi95"):
            assert loss[end] == pytest.approx(kept["loss"][end], rel=1e-3)
        ratios.append(kept["half_width"] / kept["half_width_of_seeds_alone"])
        if law == "full":
            told = f"{loss['value']:.4f} [{loss['lo95']:.4f}, {loss['hi95']:.4f}] | {ratios[-1]:.2f} |"
            assert f"| {path.stem} | {cell.width} | {cell.n_samples:,} | {told}" in PAGE
    assert law == "default" or max(ratios) <= 1.3


def errors_of_predictions(folder: Path) -> list[float]:
    """log measured minus log predicted of each, in order of compute; each run's folder holds what was committed before it."""
    errors = []
    for run in sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: float(path.name)):
        before = json.loads((folder / f"{run.name}.json").read_text())
        after = json.loads((run / "plan.json").read_text())
        assert {**after, "measured": None, "crc32": before["crc32"]} == before
        with open(run / "runs.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["seed"] for row in rows] == ["0", "1", "2"]
        assert {(int(row["width"]), int(row["n_samples"])) for row in rows} == {
            (before["cell"]["width"], before["cell"]["n_samples"])
        }
        loss = math.exp(sum(math.log(float(row["test_loss"])) for row in rows) / len(rows))
        assert before["loss"]["lo95"] < loss < before["loss"]["hi95"]
        errors.append(math.log(loss / before["loss"]["value"]))
        if folder.name == "later_predictions":
            assert f"| {loss:.4f} ({100 * errors[-1]:+.1f}%) |" in PAGE
    assert len(errors) == 5
    return errors


def test_what_was_predicted_and_what_was_measured(full):
    earlier, later = (errors_of_predictions(REFERENCE.parent / name) for name in ("predictions", "later_predictions"))
    told = "All five measured losses lie inside their intervals: root mean square error {:.1%}, where the seeds' noise alone"
    told += " gives {:.1%}, mean {:+.1%}"
    noise = full["data"]["noise"] / math.sqrt(3)
    assert told.format(math.sqrt(np.mean(np.square(later))), noise, np.mean(later)) in one_line(PAGE)
    told = "from the 63 cells alone, lie inside theirs too, with {:.1%} and {:+.1%}"
    assert told.format(math.sqrt(np.mean(np.square(earlier))), np.mean(earlier)) in one_line(PAGE)


def test_readme_quotes_the_plan_for_1e12():
    law = read_law(REFERENCE.parent / "full/fits.json")
    budget = Budget(law, 1e12)
    cell = budget.cell()
    loss = predicted(law, cell, 3)["loss"]
    told = (
        f"width {cell.width} on {cell.n_samples:,} images, {loss['value']:.4f} [{loss['lo95']:.4f}, {loss['hi95']:.4f}]"
    )
    assert told in one_line(PAGE)
    costs = [part["loss_increase"] for part in (budget.elsewhere(2.0), budget.elsewhere(0.5)) if part]
    assert f"costs {costs[0]:.1%} of loss, one twice too small {costs[1]:.1%}" in one_line(PAGE)


def test_the_page_quotes_how_often_intervals_cover():
    found: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
    with open(REFERENCE.parent / "coverage.csv", newline="") as file:
        for row in csv.DictReader(file):
            found[row["case"]][row["quantity"]] = int(row["covered"]), int(row["trials"])
    fits_of = {case: counts for case, counts in found.items() if "alpha" in counts}
    assert len(fits_of) == 9
    for case, counts in fits_of.items():
        n = counts["E"][1]
        shares = [counts[key][0] / n for key in ("E", "alpha", "beta", "a", "L at 1e12")]
        told = " | ".join(f"{share:.{1 if n > 100 else 0}%}" for share in shares)
        assert f"| {case} | {n} | {told} |" in PAGE
        assert min(shares) >= 0.9
    envelopes = [counts["a of the envelope"] for counts in found.values() if "a of the envelope" in counts]
    least, most = min(envelopes)[0], max(envelopes)[0]
    assert {n for _, n in envelopes} == {50}
    assert f"covers in {least} to {most} of 50" in one_line(PAGE)
    new = {counts["loss of a new cell"] for counts in found.values() if "loss of a new cell" in counts}
    assert new == {(73, 75)}
    assert "in 73 of 75" in one_line(PAGE)


def test_reference_meets_what_was_asked_of_the_default_sweep(fits):
    table = read_table(REFERENCE / "runs.csv")
    assert table.dataset == "mnist"
    assert len(table.runs.loss) >= 100
    assert fits["macs"]["p"] * fits["a"]["value"] + fits["b"]["value"] == pytest.approx(1)
    assert len(fits["isoflop"]["lines"]) >= 5


def tuning_rows(name: str) -> list[dict[str, str]]:
    with open(ROOT / f"results/reference/scaling_laws/tuning/{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


def best_loss(rows: list[dict[str, str]]) -> float:
    """The least geometric mean over seeds among all (width, learning rate) of the rows."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["width"], row["lr"]].append(math.log(float(row["tune_loss"])))
    return math.exp(min(sum(logs) / len(logs) for logs in groups.values()))


def test_readme_quotes_the_choice_of_the_net_and_of_the_batch():
    rows = tuning_rows("net")
    for line, cheap in (("1.6e10 FLOP", True), ("6.4e10 FLOP", False)):
        found = []
        for net in ("two_conv", "three_conv", "three_conv_mean"):
            mine = [row for row in rows if row["net"] == net]
            for width in {row["width"] for row in mine}:  # of a width's numbers of samples, the smaller is the cheaper
                counts = sorted({int(row["n_samples"]) for row in mine if row["width"] == width})
                kept = counts[:1] if cheap else counts[1:]
                mine = [row for row in mine if row["width"] != width or int(row["n_samples"]) in kept]
            found.append(f"{best_loss(mine):.3f}")
        assert f"| {line} | {' | '.join(found)} |" in PAGE
    rows = tuning_rows("batch")
    for width, samples in (("4", "1719"), ("4", "27500"), ("11", "1719"), ("11", "27500")):
        cell = [row for row in rows if (row["width"], row["n_samples"]) == (width, samples)]
        losses = [
            best_loss([row for row in cell if row["batch_size"] == batch]) for batch in ("4", "8", "16", "32", "64")
        ]
        assert f"| {width} | {int(samples):,} | {' | '.join(f'{loss:.3f}' for loss in losses)} |" in PAGE


def test_reference_results_are_small_and_anonymous():
    files = [path for path in (ROOT / "results/reference").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 15e6
    for path in files:
        assert path.suffix in (".csv", ".json", ".md", ".png", ".gif", ".pdf", ".txt"), path
        most = {".png": 200_000, ".gif": 1_000_000}
        assert path.stat().st_size <= most.get(path.suffix, 15e6), path
        if path.suffix in (".csv", ".json", ".md", ".txt"):
            assert not re.search(r"(?<![\w.])/(home|Users|root|work|tmp)/", path.read_text()), path


# ---------------------------------------------------------------- the default sweep of two minutes


def widths_of_intervals(found: Analysis) -> np.ndarray:
    """Of a, E and the least losses at 1e11 and 1e12 FLOP."""
    draws = found.parametric.draws
    losses = [np.asarray(least_loss(flops, draws, found.macs)) for flops in (1e11, 1e12)]
    return np.array([np.ptp(np.percentile(values, [2.5, 97.5])) for values in (draws["a"], draws["E"], *losses)])


def test_the_default_sweeps_cells_and_intervals_are_those_of_the_page(analysis):
    folder = REFERENCE.parent / "two_minutes"
    found = analyse(read_table(folder / "runs.csv"), 1e-3, CHANCE_LOSS)
    fits, again = json.loads((folder / "fits.json").read_text()), to_json(found)
    for key in ("E", "alpha", "beta", "a", "b"):
        for end in ("value", "lo95", "hi95"):
            assert again[key][end] == pytest.approx(fits[key][end], rel=0.02, abs=1e-4), (key, end)
    cells = {(cell.width, cell.n_samples) for cell in grid(resolve(CommandLine()))}
    with open(folder / "runs.csv", newline="") as file:
        assert {(int(row["width"]), int(row["n_samples"])) for row in csv.DictReader(file)} == cells
    with open(REFERENCE.parent / "tuning/design.csv", newline="") as file:
        designs = list(csv.DictReader(file))
    ours = [row for row in designs if row["design"] == "2e9 to 1.28e11, columns of 27,500 and 110,000"]
    assert {(row["cells"], row["runs"]) for row in ours} == {(str(len(cells)), str(len(found.table.runs.loss)))}
    assert 0.7 < float(ours[0]["seconds"]) / float(designs[0]["seconds"]) < 0.8

    def listed(values) -> str:
        *most, last = (f"{float(value):.2f}" for value in values)
        return f"{', '.join(most)} and {last}"

    assert f"intervals {listed(row['simulated'] for row in ours)} times as wide" in one_line(PAGE)
    real = widths_of_intervals(found) / widths_of_intervals(analysis)
    assert f"the four are {listed(real)} times as wide" in one_line(PAGE)
    assert f"came out at {100 * found.cells.noise:.1f}%" in one_line(PAGE)
    told = []
    for key, digits in (("a", 2), ("E", 3)):
        value, low, high = (f"{fits[key][end]:.{digits}f}" for end in ("value", "lo95", "hi95"))
        told.append(f"{key} = {value} [{low}, {high}]")
    assert " and ".join(told) in one_line(PAGE)
    varies = [float(row["varies"]) for row in ours]
    assert f"a width varies by {100 * min(varies):.0f} to {100 * max(varies):.0f}%" in one_line(PAGE)


def test_the_committed_cells_can_be_run_again():
    words = next(line for line in PAGE.splitlines() if "--from-config" in line).split("`")[1].split()[2:]
    words = [str(ROOT / word) if word.endswith(".json") else word for word in words]
    settings = resolve(parse(CommandLine, PRESETS, arguments=words))
    with open(REFERENCE / "runs.csv", newline="") as file:
        kept = {(int(row["width"]), int(row["n_samples"]), int(row["seed"])) for row in csv.DictReader(file)}
    assert {(cell.width, cell.n_samples, seed) for cell in grid(settings) for seed in settings.seeds} == kept
