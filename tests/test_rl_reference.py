"""README's numbers on policy gradients against the committed runs."""

import csv
import statistics
from pathlib import Path

from compare import solved_at

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "results/reference/rl/classic"
README = (ROOT / "README.md").read_text()


def rows(name: str) -> list[dict[str, str]]:
    with open(REFERENCE / name, newline="") as file:
        return list(csv.DictReader(file))


def test_cartpole_is_solved_as_readme_says():
    curves: dict[str, list[dict[str, float]]] = {}
    for row in rows("curves.csv"):
        if (row["env"], row["algo"], row["baseline"]) == ("CartPole-v1", "vpg", "gae"):
            point = {name: float(row[name]) for name in ("step", "seconds", "eval_return")}
            curves.setdefault(row["seed"], []).append(point)
    solved = [found for found in (solved_at(curve, 475.0) for curve in curves.values()) if found]
    steps, seconds = (statistics.median(found[name] for found in solved) for name in ("step", "seconds"))
    assert len(curves) >= 5
    assert steps <= 80_000
    assert seconds <= 5
    text = " ".join(README.split())
    assert f"median of {steps:,.0f} steps and {seconds:.1f} s of training" in text
    assert f"in {len(solved)} of {len(curves)} seeds" in text


def test_the_table_is_that_of_the_runs():
    runs = rows("runs.csv")
    table = (REFERENCE / "table.md").read_text().strip()
    assert table in README
    for algo, baseline in {(row["algo"], row["baseline"]) for row in runs}:
        mine = [row for row in runs if (row["algo"], row["baseline"]) == (algo, baseline)]
        assert {row["status"] for row in mine} == {"ok"}
        mean = statistics.mean(float(row["eval_return_mean"]) for row in mine)
        label = algo if baseline == "gae" else f"{algo}, {baseline}"
        assert any(line.startswith(f"| CartPole-v1 | {label} | {mean:.1f} (") for line in table.splitlines())


def test_each_baseline_has_less_variance_than_the_one_before():
    found = {(int(row["updates"]), row["baseline"]): row for row in rows("gradient_variance.csv")}
    order = ("none", "reward-to-go", "value", "gae")
    for updates in sorted({key[0] for key in found}):
        for baseline in order:
            row = found[updates, baseline]
            text = f"{float(row['variance']):.2g} [{float(row['lo95']):.2g}, {float(row['hi95']):.2g}]"
            assert text in README
        values = [float(found[updates, baseline]["variance"]) for baseline in order]
        assert values == sorted(values, reverse=True)
