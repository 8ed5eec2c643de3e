"""What a copy is worth: the forms of the law on tables whose worth is known, and what they refuse."""

import math

import numpy as np
import pytest

from arms.arm_findings import arm_findings
from arms.copy_value import FORMS_OF_WORTH, _law_of, compare_worths, copy_cells, number_by_number, worth_of_copies


def copy_rows(x: float, r: float, noise: float = 0.0) -> list[dict]:
    """A law that is known: L = 0.03 + 60 / D_eff^0.7, with D_eff = U [1 + x R (1 - e^(-(k - 1) / R))]."""
    rng = np.random.default_rng(0)
    rows = []
    for u in (1718, 3436, 6872, 13744, 27488, 54976):
        for k in (1, 2, 4, 8, 16, 32) if u < 10_000 else (1,):
            d = u * (1 + x * r * (1 - math.exp(-(k - 1) / r)))
            for seed in range(5):
                loss = (0.03 + 60 / d**0.7) * math.exp(noise * rng.standard_normal())
                arm = "fresh" if k == 1 else "copies"
                row = {
                    "arm": arm,
                    "status": "ok",
                    "width": 8,
                    "strength": 1.0,
                    "passes": k,
                    "n_unique": u,
                    "seed": seed,
                }
                rows.append({**row, "n_samples": u * k, "test_loss": loss, "transformed_test_loss": loss})
    return rows


SATURATING = FORMS_OF_WORTH["saturating"]


@pytest.mark.parametrize(("x", "r"), [(0.4, 6.0), (0.9, 20.0)])
def test_a_known_worth_is_found_to_four_digits(x, r):
    cells = copy_cells(copy_rows(x, r, 1e-9))
    told = worth_of_copies(cells, SATURATING)
    assert told["x"]["value"] == pytest.approx(x, rel=1e-4)
    assert told["R"]["value"] == pytest.approx(r, rel=1e-4)
    assert told["first_copy"]["value"] == pytest.approx(x * r * (1 - math.exp(-1 / r)), rel=1e-4)
    assert told["most"]["value"] == pytest.approx(1 + x * r, rel=1e-4)
    assert told["E"]["value"] == pytest.approx(0.03, rel=1e-3)
    free = worth_of_copies(cells, number_by_number(cells.passes.tolist()))
    for k in (2, 4, 8, 16, 32):
        expected = 1 + x * r * (1 - math.exp(-(k - 1) / r))
        assert told["at"][str(k)]["value"] == pytest.approx(expected, rel=1e-4)
        assert free["at"][str(k)]["value"] == pytest.approx(expected, rel=1e-4)


def test_with_noise_the_interval_holds_the_truth_and_the_held_out_form_is_right():
    cells = copy_cells(copy_rows(0.5, 8.0, 0.06))
    told = worth_of_copies(cells, SATURATING)
    for key, truth in (("x", 0.5), ("R", 8.0), ("most", 5.0)):
        assert told[key]["lo95"] < truth < told[key]["hi95"]
        assert told[key]["hi95"] < 3 * truth, "an interval that says something"
    rivals = {row["form"]: row["held_out_rms"] for row in compare_worths(cells)}
    assert min(rivals, key=lambda name: rivals[name]) == "saturating"


def test_copies_that_never_saturate_have_no_most():
    told = worth_of_copies(copy_cells(copy_rows(0.5, 1e5, 0.03)), SATURATING)
    assert told["most"] is None
    assert told["R"]["hi95"] is None
    assert told["x"]["lo95"] < 0.5 < told["x"]["hi95"]


@pytest.mark.parametrize(
    ("kept", "why"),
    [
        (lambda row: row["passes"] == 1, "too few cells"),
        (lambda row: row["passes"] > 1, "fresh cells"),
        (lambda row: row["passes"] == 1 or (row["passes"], row["n_unique"]) == (2, 1718), "too few cells"),
        (lambda row: row["seed"] == 0, "one seed"),
        (lambda _: False, "fresh cells"),
    ],
)
def test_what_the_cells_do_not_determine_is_refused(kept, why):
    told = worth_of_copies(copy_cells([row for row in copy_rows(0.4, 6.0, 0.03) if kept(row)]), SATURATING)
    assert why in told["why_not"]
    assert not {"x", "R", "at", "first_copy"} & told.keys()


def test_cells_near_chance_and_diverged_runs_enter_no_worth():
    rows = copy_rows(0.4, 6.0, 1e-9)
    lost = [{**row, "test_loss": 2.0} if row["n_unique"] == 1718 else row for row in rows]
    lost += [{**row, "status": "diverged", "test_loss": ""} for row in rows[:3]]
    cells = copy_cells(lost)
    assert 1718 not in cells.unique
    assert worth_of_copies(cells, SATURATING)["x"]["value"] == pytest.approx(0.4, rel=1e-3)


def test_raw_repeats_that_get_worse_are_told_number_by_number():
    rows = copy_rows(0.4, 6.0, 0.02)
    raw = {"fresh": "fresh raw", "copies": "repeats"}
    worse = {1: 1.0, 2: 1.0, 4: 1.0, 8: 1.1, 16: 1.3, 32: 1.7}
    rows += [
        {**r, "arm": raw[r["arm"]], "strength": "", "test_loss": r["test_loss"] * worse[r["passes"]]} for r in rows
    ]
    found = arm_findings([], rows, draws=200)["copies"]
    one = next(one for one in found["comparisons"] if one["test"] == "clean" and one["kind"] == "repeats")
    assert one["form"] == "number by number"
    assert one["at"]["32"]["value"] < one["at"]["4"]["value"]
    assert "most" not in one
    assert found["form"] == "saturating"


@pytest.mark.parametrize("name", FORMS_OF_WORTH)
def test_the_gradients_of_the_forms_of_worth(name):
    form = FORMS_OF_WORTH[name]
    theta = np.array([[-3.0, -1.0, 0.6, *([-0.7, 1.9][: len(form.parameters)])]])
    x = np.array([[-0.5, 1.0], [0.3, 2.0], [0.1, 16.0]])
    law = _law_of(form)
    _, by = law(theta, x)
    for i in range(theta.shape[1]):
        step = np.zeros_like(theta)
        step[0, i] = 1e-6
        slope = (law(theta + step, x)[0] - law(theta - step, x)[0]) / 2e-6
        assert by[0, :, i] == pytest.approx(slope[0], abs=1e-7)


def test_findings_choose_one_form_and_give_each_point_its_fresh_images():
    found = arm_findings([], copy_rows(0.4, 6.0, 1e-6), draws=100)["copies"]
    assert found["form"] == "saturating"
    one = next(one for one in found["comparisons"] if one["test"] == "clean")
    for point in one["points"]:
        k = point["passes"]
        expected = 1 + 0.4 * 6 * (1 - math.exp(-(k - 1) / 6))
        assert point["worth"] == pytest.approx(expected, rel=1e-3)
