"""The page's numbers on scaling laws against the committed results, and these against the committed runs."""

import csv
import json
import math
import re
from collections import defaultdict
from pathlib import Path

import pytest

from law_report.fits_json import to_json
from law_report.formulae import formulae, number
from laws.analysis import analyse
from laws.run_table import CHANCE_LOSS, read_table
from pages import page

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "results/reference/scaling_laws/default"
PAGE = page("scaling_laws/README.md")


@pytest.fixture(scope="module")
def fits() -> dict:
    return json.loads((REFERENCE / "fits.json").read_text())


def test_the_committed_fits_follow_from_the_committed_runs(fits):
    again = to_json(analyse(read_table(REFERENCE / "runs.csv"), 1e-3, CHANCE_LOSS))
    for part, committed in ((again, fits), (again["noise_matched"], fits["noise_matched"])):
        for key in ("alpha", "beta", "a", "b"):
            for end in ("value", "lo95", "hi95"):
                assert part[key][end] == pytest.approx(committed[key][end], rel=0.02), key
    for key in ("a", "b"):
        assert again["isoflop"][key] == pytest.approx(fits["isoflop"][key], rel=1e-6)
    assert again["data"] == pytest.approx(fits["data"])
    assert formulae(fits) in (REFERENCE / "formulae.md").read_text()


def test_readme_quotes_the_committed_numbers(fits):
    def quoted(item: dict, digits: int = 2) -> str:
        return f"{item['value']:.{digits}f} [{item['lo95']:.{digits}f}, {item['hi95']:.{digits}f}]"

    for item in (fits["a"], fits["b"], fits["isoflop"]["a"], fits["isoflop"]["b"], fits["frontier"]["a"]):
        assert quoted(item) in PAGE
    for item in (fits["alpha"], fits["beta"], fits["a_macs"]):
        assert quoted(item) in PAGE
    assert f"{fits['data']['runs']} runs" in PAGE
    for symbol, item in (("N", fits["example"]["N"]), ("D", fits["example"]["D"])):
        assert number(item["value"]) in PAGE, symbol


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
