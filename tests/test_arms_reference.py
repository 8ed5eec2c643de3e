"""What the page says of habits, dropout and copies, against the committed arms, and these against their runs."""

import json
import math
from pathlib import Path

import pytest

from arms.arm_findings import arm_findings
from law_report.arm_files import read_rows
from pages import one_line, page

FOLDER = Path(__file__).resolve().parent.parent / "results/reference/scaling_laws/arms"
PAGE = one_line(page("scaling_laws/README.md"))


@pytest.fixture(scope="module")
def kept() -> dict:
    return json.loads((FOLDER / "arms.json").read_text())


def quoted(item: dict, digits: int = 2) -> str:
    value, low, high = (f"{item[key]:.{digits}f}" for key in ("value", "lo95", "hi95"))
    return f"{value} [{low}, {high}]"


def test_the_committed_findings_follow_from_the_committed_runs(kept):
    again = arm_findings(read_rows(FOLDER / "runs.csv"), read_rows(FOLDER / "arms.csv"), draws=60)
    assert (again["runs"], again["diverged"]) == (kept["runs"], kept["diverged"])
    for one, other in zip(again["habits"], kept["habits"], strict=True):
        assert (one["name"], one["cells"], one["left_out"]) == (other["name"], other["cells"], other["left_out"])
        for key in ("a", "b", "E", "isoflop_a", "a_change"):
            if other[key]:
                rel = 0.1 if key == "isoflop_a" else 0.01  # the minima weigh by their bootstrap's variance
                assert one[key]["value"] == pytest.approx(other[key]["value"], rel=rel, abs=1e-3), (one["name"], key)
    assert again["copies"]["form"] == kept["copies"]["form"]
    for one, other in zip(again["copies"]["comparisons"], kept["copies"]["comparisons"], strict=True):
        assert one.get("why_not") == other.get("why_not")
        for k, item in other.get("at", {}).items():
            assert one["at"][k]["value"] == pytest.approx(item["value"], rel=0.01), (one["kind"], k)


def test_the_page_quotes_every_habit(kept):
    habits = {habit["name"]: habit for habit in kept["habits"]}
    for name, habit in habits.items():
        if habit["arm"] and "6 N D" not in name:
            loss = f"+{100 * (math.exp(habit['log_loss_change']) - 1):.0f}%"
            assert f"| {name} | {quoted(habit['a'])} | {quoted(habit['a_change'])} | {loss} |" in PAGE, name
        assert (habit["cells"] + habit["left_out"], habit["nets"] in (0, 40, 200)) == (40, True)
    usual, wrong = kept["habits"][:2]
    assert f"| {wrong['name']} | {quoted(wrong['a'])} | {quoted(wrong['a_change'])} | |" in PAGE
    assert f"gives {quoted(wrong['a'])} for {quoted(usual['a'])}" in PAGE
    moving = [
        habit["a_change"]["value"]
        for name, habit in habits.items()
        if habit["arm"] and "6 N D" not in name and habit["a_change"]["lo95"] * habit["a_change"]["hi95"] > 0
    ]
    told = "only a long warm-up and dropout move it measurably, by {:.2f} and {:.2f}"
    assert told.format(*moving) in PAGE
    all_of_it = habits["these four at once, compute taken as 6 N D"]
    assert f"all four at once and 6 N D give {quoted(all_of_it['a'])}" in PAGE
    dropout = habits["20% dropout"]
    assert f"losses {100 * (math.exp(dropout['log_loss_change']) - 1):.0f}% higher" in PAGE
    e = dropout["E_change"]
    assert f"E moves by {e['value']:.3f} [{e['lo95']:.3f}, {e['hi95']:.3f}]" in PAGE
    low, high = sorted(abs(round(dropout["a_change"][end], 2)) for end in ("lo95", "hi95"))
    assert f"a smaller by {-dropout['a_change']['value']:.2f} [{low:.2f}, {high:.2f}]" in PAGE


def test_the_page_quotes_what_copies_are_worth(kept):
    copies = kept["copies"]
    found = {(one["kind"], one["width"], one["strength"], one["test"]): one for one in copies["comparisons"]}
    narrow, wide = (found["copies", width, 1.0, "clean"] for width in (8, 16))
    at_32 = quoted(narrow["at"]["32"], 1)
    told = f"A second transformed copy is worth {quoted(narrow['first_copy'])} fresh images, as much as a new digit; "
    assert (
        f"{told}32 copies of U images count for {at_32} U fresh ones, and endless ones for {quoted(narrow['most'], 1)} U"
        in PAGE
    )
    told = f"width 16: {quoted(wide['first_copy'])}, {quoted(wide['at']['32'], 1)} and {quoted(wide['most'], 1)}"
    assert told in PAGE
    raw = found["repeats", 8, 1.0, "clean"]["at"]
    assert f"{quoted(raw['2'])} at two showings and {quoted(raw['4'])} at four" in PAGE
    assert f"32 showings count for {quoted(raw['32'])}" in PAGE
    assert raw["8"]["value"] > 1 > raw["16"]["hi95"]
    assert f"x = {quoted(narrow['x'])}, R = {quoted(narrow['R'], 1)} copies" in PAGE
    moved = found["copies", 8, 1.0, "transformed"]
    assert f"R = {quoted(moved['R'], 0)}" in PAGE
    half = found["copies", 8, 0.5, "clean"]
    assert f"saturates at {quoted(half['most'], 1)} U" in PAGE
    errors = [f"{row['held_out_rms']:.3f}" for row in copies["forms"]]
    one, at_one, power, linear = errors
    assert f"log loss {one}, with x = 1 {at_one}, a power law {power}, linear {linear}" in PAGE
    assert copies["form"] == "saturating"
    for test in ("clean", "transformed"):
        losses = {
            strength: point["loss"]
            for (kind, width, strength, on), other in found.items()
            for point in other["points"]
            if (kind, width, on, point["unique"], point["passes"]) == ("copies", 8, test, 3436, 32)
        }
        assert min(losses, key=lambda strength: losses[strength]) == 1.0, test
    runs = sum(one["runs"] for one in copies["comparisons"] if one["test"] == "clean")
    assert f"{runs} runs, U = 1,718 to 6,872" in PAGE
