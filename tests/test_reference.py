"""README's numbers against the committed results, and these against the committed runs."""

import json
import re
from pathlib import Path

import pytest

import fit

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "results/reference/scaling_laws/default"
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def fits() -> dict:
    return json.loads((REFERENCE / "fits.json").read_text())


def test_the_committed_fits_follow_from_the_committed_runs(fits):
    again = fit.to_json(fit.analyse(fit.read_table(REFERENCE / "runs.csv"), 1e-3, fit.CHANCE_LOSS))
    for part, committed in ((again, fits), (again["noise_matched"], fits["noise_matched"])):
        for key in ("alpha", "beta", "a", "b"):
            for end in ("value", "lo95", "hi95"):
                assert part[key][end] == pytest.approx(committed[key][end], rel=0.02), key
    for key in ("a", "b"):
        assert again["isoflop"][key] == pytest.approx(fits["isoflop"][key], rel=1e-6)
    assert again["data"] == pytest.approx(fits["data"])
    assert fit.formulae(fits) in (REFERENCE / "formulae.md").read_text()


def test_readme_quotes_the_committed_numbers(fits):
    def quoted(item: dict, digits: int = 2) -> str:
        return f"{item['value']:.{digits}f} [{item['lo95']:.{digits}f}, {item['hi95']:.{digits}f}]"

    for item in (fits["a"], fits["b"], fits["isoflop"]["a"], fits["isoflop"]["b"], fits["frontier"]["a"]):
        assert quoted(item) in README
    for item in (fits["alpha"], fits["beta"], fits["a_macs"]):
        assert quoted(item) in README
    assert f"{fits['data']['runs']} runs" in README
    for symbol, item in (("N", fits["example"]["N"]), ("D", fits["example"]["D"])):
        assert fit.number(item["value"]) in README, symbol


def test_reference_meets_what_was_asked_of_the_default_sweep(fits):
    table = fit.read_table(REFERENCE / "runs.csv")
    assert table.dataset == "mnist"
    assert len(table.runs.loss) >= 100
    assert fits["macs"]["p"] * fits["a"]["value"] + fits["b"]["value"] == pytest.approx(1)
    assert len(fits["isoflop"]["lines"]) >= 5


def test_every_linked_file_exists():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("http") or (ROOT / link).exists(), link


def test_reference_results_are_small_and_anonymous():
    files = [path for path in (ROOT / "results/reference").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 15e6
    for path in files:
        assert path.suffix in (".csv", ".json", ".md", ".png", ".pdf"), path
        if path.suffix == ".png":
            assert path.stat().st_size <= 200_000, path
        if path.suffix in (".csv", ".json", ".md"):
            assert not re.search(r"(?<![\w.])/(home|Users|root|work|tmp)/", path.read_text()), path
