"""The arms of the scaling-law study: what each net sees and how it is trained, and the laws of copies and habits."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from arms.arm_cells import arm_cells, usual_rows
from arms.arm_findings import arm_findings
from arms.copy_value import FORMS_OF_WORTH, _law_of, compare_worths, copy_cells, worth_of_copies
from arms.exponents_by_arm import compare_arms
from common.data import load_mnist
from nets.cell_jobs import train_cell
from nets.convnet import ConvNet
from nets.digits import make_copy, open_digits, prepare, training_order, transform
from nets.flop_count import macs_per_image, n_params
from nets.learning_rate import RULE, Variant, batch_size, learning_rate, schedule
from nets.net_training import evaluate, side_by_side, train
from nets.shown_images import shown_images, transformed_test
from sweeping.grid import Cell, grid
from sweeping.sweep_settings import CommandLine, resolve
from synthetic_mnist import write_mnist


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    """A prepared folder of 1,100 digits with one copy."""
    place = tmp_path_factory.mktemp("digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPLICATIONS_CACHE", str(place / "cache"))
        prepared = str(prepare(load_mnist(write_mnist(place / "data"))))
    make_copy(prepared, 0)
    return prepared


def generators(n: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(k) for k in range(n)]


# ---------------------------------------------------------------- what a net sees


@pytest.mark.parametrize("shown", ["raw", "copies"])
def test_every_pass_shows_the_same_images_each_once(folder, shown):
    variant = Variant(shown=shown, passes=3)
    found = shown_images(folder, 120, variant, generators(2))
    assert (found.n_unique, found.n_copies) == (40, 3 if shown == "copies" else 1)
    for k in range(2):
        images = found.order.image[:, k].numpy()
        passes = [set(images[i : i + 40]) for i in (0, 40, 80)]
        assert len(passes[0]) == 40
        assert passes[0] == passes[1] == passes[2]
        assert len({tuple(images[i : i + 40]) for i in (0, 40, 80)}) == 3, "each pass has an order of its own"
    assert not np.array_equal(found.order.image[:, 0], found.order.image[:, 1])


def test_copies_are_other_versions_of_the_raw_images_with_their_labels(folder):
    raw = shown_images(folder, 80, Variant(shown="raw", passes=2), generators(2))
    copies = shown_images(folder, 80, Variant(shown="copies", passes=2, strength=1e-6), generators(2))
    for k in range(2):
        for found in (raw, copies):
            seen = Counter(np.asarray(found.labels)[found.order.image[:, k].numpy()].tolist())
            assert seen == Counter(np.asarray(raw.labels)[raw.order.image[:, k].numpy()].tolist())
        # Of almost no strength they are the raw images, so net and label can be followed.
        rows = np.unique(copies.order.image[:, k].numpy())
        raw_rows = np.unique(raw.order.image[:, k].numpy())
        own = {copies.copies[1][i].tobytes() for i in rows}
        assert own == {np.asarray(raw.copies[0][i]).tobytes() for i in raw_rows}
    strong = shown_images(folder, 80, Variant(shown="copies", passes=2), generators(2))
    assert not np.array_equal(strong.copies[0], strong.copies[1])


def test_strength_multiplies_every_part_of_a_transformation():
    images = torch.zeros(64, 28, 28, dtype=torch.uint8)
    images[:, 10:18, 10:18] = 255
    still = transform(images, torch.Generator().manual_seed(0), 0.0)
    assert torch.equal(still, images)

    def moved(strength: float) -> float:
        changed = transform(images, torch.Generator().manual_seed(0), strength).float() - images.float()
        return float(changed.abs().mean())

    assert 0 < moved(0.25) < moved(0.5) < moved(1.0)
    assert torch.equal(
        transform(images, torch.Generator().manual_seed(1)), transform(images, torch.Generator().manual_seed(1), 1.0)
    )


def test_the_transformed_test_images_never_change(folder):
    first = transformed_test(folder).copy()
    transformed_test.cache_clear()
    assert np.array_equal(first, transformed_test(folder))
    assert not np.array_equal(first, open_digits(folder, 0).test_images)


# ---------------------------------------------------------------- how a net is trained


def test_the_schedules_at_points_worked_out_by_hand():
    assert [schedule(f) for f in (0.025, 0.05, 0.525, 1.0)] == pytest.approx([0.5, 1.0, 0.5, 0.0])
    assert [schedule(f, 0.5, False) for f in (0.25, 0.5, 1.0)] == [0.5, 1.0, 1.0]
    assert [schedule(f, 0.5) for f in (0.25, 0.5, 0.75)] == [0.5, 1.0, 0.5]
    # A warm-up of twice the run: it rises to nearly a half, and is then cut by the decay.
    assert [schedule(f, 2.0) for f in (0.5, 0.9, 0.99)] == pytest.approx([0.25, 0.45, 0.2])


def test_a_test_on_the_way_is_that_of_a_run_that_ends_there(folder):
    digits = open_digits(folder, 1)
    whole = training_order(640, 1100, torch.Generator().manual_seed(3))
    seen = {}
    for n in (640, 320):
        net = ConvNet(3).place(torch.device("cpu"))
        net.init_weights(generators(1))
        order = side_by_side([tuple(part[:n] for part in whole)])  # type: ignore[misc]
        variant = Variant(constant_rate=True, warm_up_steps=10, tested_after=(320,) if n == 640 else ())

        def test(net: ConvNet = net) -> torch.Tensor:
            return torch.tensor(evaluate(net, digits.test_images, digits.test_labels))

        done = train(net, digits.copies, digits.labels, order, 0.01, 16, None, variant, test)
        seen[n] = done.tested[0] if done.tested else test()
    assert torch.equal(seen[640], seen[320])


def test_rows_of_a_run_that_is_tested_on_its_way(folder, tmp_path):
    variant = Variant(constant_rate=True, tested_after=(200, 400), tested_transformed=False)
    cell = {"folder": folder, "arm": "constant rate", "width": 2, "n_samples": 800, "seeds": [0, 1], "lr": 0.01}
    cell |= {"batch": 16, "dropout": 0.0, "split": "test", "device": "cpu", "checkpoint": str(tmp_path / "cell.pt")}
    rows = train_cell(**cell, variant=variant)["rows"]  # type: ignore[arg-type]
    assert [(row["n_samples"], row["seed"], row["steps"]) for row in rows] == [
        *((200, 0, 13), (200, 1, 13), (400, 0, 25), (400, 1, 25), (800, 0, 50), (800, 1, 50))
    ]
    assert all(row["flops"] == 6 * macs_per_image(2) * row["n_samples"] for row in rows)
    assert len({row["test_loss"] for row in rows}) == 6
    usual = train_cell(**cell)["rows"]  # type: ignore[arg-type]
    assert [row["seed"] for row in usual] == [0, 1]
    assert "transformed_test_loss" not in usual[0]
    moved = train_cell(**cell, variant=Variant(shown="copies", passes=2, tested_transformed=True))["rows"]  # type: ignore[arg-type]
    assert moved[0]["n_unique"] == 400
    assert moved[0]["transformed_test_loss"] != moved[0]["test_loss"]


# ---------------------------------------------------------------- which runs there are


def test_the_arms_of_the_default_lines():
    cells = grid(resolve(CommandLine()))
    lines = [cell for cell in cells if cell.arm == "isoflop"]
    found = arm_cells(("disagreement", "dropout", "copies"), cells, RULE, (0, 1, 2, 3, 4), 55_000)
    count = Counter(cell.arm for cell in found)
    assert count["one rate"] == count["long warm-up"] == count["one batch"] == count["dropout"] == len(lines)
    assert count["constant rate"] == count["all at once"] == len({cell.width for cell in lines})
    ways = [cell for cell in found if cell.arm == "constant rate"]
    tests = sorted((cell.width, n) for cell in ways for n in (*cell.variant.tested_after, cell.n_samples))
    assert tests == sorted((cell.width, cell.n_samples) for cell in lines)
    for cell in found:
        if cell.arm in ("one rate", "dropout", "long warm-up", "one batch"):
            assert cell.seeds == (0, 1, 2)
            wide = 8 if cell.arm == "one rate" else cell.width
            assert cell.lr == learning_rate(wide, cell.n_samples)
            assert cell.batch == (64 if cell.arm == "one batch" else batch_size(cell.n_samples))
    copies = [cell for cell in found if cell.arm in ("copies", "repeats")]
    assert {(cell.n_samples // cell.variant.passes) for cell in copies} == {1718, 3436, 6872}
    assert max(cell.n_samples for cell in copies) == 64 * 1718
    assert {cell.n_samples for cell in found if cell.arm == "fresh raw"} == {1718 * 2**j for j in range(6)}
    assert not arm_cells((), cells, RULE, (0,), 55_000)
    assert arm_cells(("dropout",), [replace(lines[0], budget=1e12)], RULE, (0,), 55_000) == []


# ---------------------------------------------------------------- the worth of copies


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


@pytest.mark.parametrize(("x", "r"), [(0.4, 6.0), (0.9, 20.0)])
def test_a_known_worth_is_found_to_four_digits(x, r):
    told = worth_of_copies(copy_cells(copy_rows(x, r)), "saturating")
    assert told["x"]["value"] == pytest.approx(x, rel=1e-4)
    assert told["R"]["value"] == pytest.approx(r, rel=1e-4)
    assert told["first_copy"]["value"] == pytest.approx(x * r * (1 - math.exp(-1 / r)), rel=1e-4)
    assert told["most"]["value"] == pytest.approx(1 + x * r, rel=1e-4)
    assert told["E"]["value"] == pytest.approx(0.03, rel=1e-3)


def test_with_noise_the_interval_holds_the_truth_and_the_held_out_form_is_right():
    cells = copy_cells(copy_rows(0.5, 8.0, 0.06))
    told = worth_of_copies(cells, "saturating")
    for key, truth in (("x", 0.5), ("R", 8.0), ("most", 5.0)):
        assert told[key]["lo95"] < truth < told[key]["hi95"]
        assert told[key]["hi95"] < 3 * truth, "an interval that says something"
    rivals = {row["form"]: row["held_out_rms"] for row in compare_worths(cells)}
    assert rivals["saturating"] < min(rivals["power law"], rivals["linear"])


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
    found = arm_findings([], copy_rows(0.4, 6.0))["copies"]
    assert found["form"] == "saturating"
    one = next(one for one in found["comparisons"] if one["test"] == "clean")
    for point in one["points"]:
        k = point["passes"]
        expected = 1 + 0.4 * 6 * (1 - math.exp(-(k - 1) / 6))
        assert point["worth"] == pytest.approx(expected, rel=1e-3)


# ---------------------------------------------------------------- the habits' exponents


def law_rows(arm: str, alpha: float, beta: float, cells: list[Cell]) -> list[dict]:
    """An additive law without noise on these cells, three seeds each, alike but for one part in a thousand."""
    rows = []
    for cell in cells:
        n, macs = n_params(cell.width), macs_per_image(cell.width)
        loss = 0.02 + 900 / n**alpha + 80 / cell.n_samples**beta
        for seed in range(3):
            row = {"arm": arm, "status": "ok", "width": cell.width, "n_params": n, "n_samples": cell.n_samples}
            row |= {"flops": 6 * macs * cell.n_samples, "seed": seed, "test_loss": loss * (1 + 1e-3 * (seed - 1))}
            rows.append(row)
    return rows


def test_each_habit_is_compared_with_the_usual_way():
    cells = [cell for cell in grid(resolve(CommandLine())) if cell.arm == "isoflop"]
    usual = law_rows("isoflop", 1.0, 0.7, cells)
    more = [{**row, "seed": 3} for row in usual[:3]]
    elsewhere = [{**usual[0], "width": 45}]
    assert usual_rows([*usual, *more, *elsewhere], cells, (0, 1, 2, 3)) == usual
    habits = compare_arms(usual, [*law_rows("one rate", 1.0, 0.7, cells), *law_rows("dropout", 1.3, 0.7, cells)])
    names = {habit["name"]: habit for habit in habits}
    base, wrong, same, other = habits
    assert list(names) == [habit["name"] for habit in habits]
    p = math.log(base["b"]["value"]) and (1 - base["b"]["value"]) / base["a"]["value"]  # a p + b = 1
    assert base["a"]["value"] == pytest.approx(0.7 / (1.0 + 0.7 * p), rel=1e-3)
    assert wrong["a"]["value"] == pytest.approx(0.7 / 1.7, rel=1e-3)  # Hoffmann's eq. 4: p = 1
    assert wrong["isoflop_a"] is None
    assert same["a_change"]["value"] == pytest.approx(0, abs=1e-9)
    assert same["a_change"]["lo95"] == pytest.approx(0, abs=1e-6)  # the draws are paired
    assert other["a"]["value"] == pytest.approx(0.7 / (1.3 + 0.7 * p), rel=1e-3)
    assert other["a_change"]["hi95"] < 0
    assert other["isoflop_a"]["value"] < base["isoflop_a"]["value"]
    assert base["runs"] == len(usual)
