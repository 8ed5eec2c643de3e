"""The arms of the scaling-law study: what each net sees, how it is trained, and the habits' exponents."""

import json
import math
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

import sweep
from arms.arm_cells import WARM_UP_STEPS, arm_cells
from arms.exponents_by_arm import compare_arms, usual_rows
from common.data import load_mnist
from common.errors import BadInput
from law_report.arm_files import write_arms
from laws.parametric import macs_law
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
    for cell in ways:
        first = min((*cell.variant.tested_after, cell.n_samples)) / cell.batch
        assert cell.variant.warm_up_steps == math.ceil(0.05 * first), "no test lies within the warm-up"
    assert {cell.variant.warm_up_steps for cell in found if cell.arm == "all at once"} == {WARM_UP_STEPS}
    for cell in found:
        if cell.arm in ("one rate", "dropout", "long warm-up", "one batch"):
            assert cell.seeds == (0, 1, 2, 3, 4)
            wide = 8 if cell.arm == "one rate" else cell.width
            assert cell.lr == learning_rate(wide, cell.n_samples)
            assert cell.batch == (64 if cell.arm == "one batch" else batch_size(cell.n_samples))
    copies = [cell for cell in found if cell.arm in ("copies", "repeats")]
    assert {(cell.n_samples // cell.variant.passes) for cell in copies} == {1718, 3436, 6872}
    assert max(cell.n_samples for cell in copies) == 64 * 1718
    assert {cell.n_samples for cell in found if cell.arm == "fresh raw"} == {1718 * 2**j for j in range(6)}
    assert not arm_cells((), cells, RULE, (0,), 55_000)
    assert arm_cells(("dropout",), [replace(lines[0], budget=1e12)], RULE, (0,), 55_000) == []


# ---------------------------------------------------------------- the habits' exponents


def law_rows(arm: str, alpha: float, beta: float, cells: list[Cell], seeds: int = 3) -> list[dict]:
    """An additive law on these cells, with a noise of one part in a thousand."""
    rng, rows = np.random.default_rng(0), []
    for cell in cells:
        n, macs = n_params(cell.width), macs_per_image(cell.width)
        loss = 0.02 + 900 / n**alpha + 80 / cell.n_samples**beta
        for seed in range(seeds):
            row = {"arm": arm, "status": "ok", "width": cell.width, "n_params": n, "n_samples": cell.n_samples}
            row |= {"flops": 6 * macs * cell.n_samples, "seed": seed}
            rows.append({**row, "test_loss": loss * (1 + 1e-3 * rng.standard_normal())})
    return rows


@pytest.fixture(scope="module")
def lines() -> list[Cell]:
    return [cell for cell in grid(resolve(CommandLine())) if cell.arm == "isoflop"]


def test_each_habit_is_compared_with_the_usual_way(lines):
    usual = law_rows("isoflop", 1.0, 0.7, lines)
    arms = [*law_rows("one rate", 1.0, 0.7, lines), *law_rows("dropout", 1.1, 0.7, lines)]
    more = [{**row, "seed": 3} for row in usual[:3]]
    elsewhere = [{**usual[0], "width": 45}]
    assert usual_rows([*usual, *more, *elsewhere], arms) == usual
    base, wrong, same, other = compare_arms(usual, arms, draws=200)
    assert [habit["arm"] for habit in (base, wrong, same, other)] == ["", "", "one rate", "dropout"]
    sizes = np.array([[n_params(width), macs_per_image(width)] for width in {cell.width for cell in lines}], float)
    p = macs_law(sizes[:, 0], sizes[:, 1]).p
    assert base["a"]["value"] == pytest.approx(0.7 / (1.0 + 0.7 * p), rel=0.02)
    assert wrong["a"]["value"] == pytest.approx(0.7 / 1.7, rel=0.02)  # Hoffmann's eq. 4: p = 1
    assert wrong["isoflop_a"] is None
    assert same["a_change"]["value"] == pytest.approx(0, abs=1e-9)
    assert same["a_change"]["lo95"] == pytest.approx(0, abs=1e-6)  # the draws are paired
    assert other["a"]["value"] == pytest.approx(0.7 / (1.1 + 0.7 * p), rel=0.02)
    assert other["a_change"]["hi95"] < 0
    assert other["isoflop_a"]["value"] < base["isoflop_a"]["value"]
    assert (base["nets"], base["cells"], base["left_out"]) == (len(usual), len(lines), 0)


def test_an_arm_that_loses_cells_is_compared_on_those_that_both_have(lines):
    usual = law_rows("isoflop", 1.0, 0.7, lines)
    least = min(cell.n_samples for cell in lines)
    arm = [
        {**row, "test_loss": 2.0} if row["n_samples"] < 2 * least else row
        for row in law_rows("one batch", 1.0, 0.7, lines)
    ]
    arm[-1] = {**arm[-1], "status": "diverged", "test_loss": ""}
    *_, habit = compare_arms(usual, arm, draws=200)
    short = {(cell.width, cell.n_samples) for cell in lines if cell.n_samples < 2 * least}
    assert habit["left_out"] == len(short | {(arm[-1]["width"], arm[-1]["n_samples"])})
    assert habit["a_change"]["value"] == pytest.approx(0, abs=1e-9)
    assert habit["log_loss_change"] == pytest.approx(0, abs=1e-12)


def test_one_seed_gives_no_interval_of_the_minima(lines):
    usual, arm = (law_rows(name, 1.0, 0.7, lines, seeds=1) for name in ("isoflop", "one rate"))
    base, _, habit = compare_arms(usual, arm, draws=100)
    assert base["isoflop_a"]["lo95"] is None
    assert habit["isoflop_a_change"]["lo95"] is None


# ---------------------------------------------------------------- the command


def test_a_sweep_with_arms_from_end_to_end(tmp_path, monkeypatch, capsys):
    """Digits so few that arms of copies are near chance: told, not a traceback; and the same again from the tables."""
    write_mnist(tmp_path / "data")
    for name, value in (("CACHE", "cache"), ("DATA", "data")):
        monkeypatch.setenv(f"REPLICATIONS_{name}", str(tmp_path / value))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    for name, value in (("COPY_WIDTHS", (2,)), ("COPY_SEEDS", 1), ("PASSES", (1, 2)), ("STRENGTHS", ())):
        monkeypatch.setattr(f"arms.arm_cells.{name}", value)
    command = ["sweep.py", "--results-dir", "results", "--name", "arms", "--budgets", "6e7", "1.2e8"]
    command += [
        "--widths",
        "1",
        "2",
        "3",
        "--seeds",
        "1",
        "--min-samples",
        "300",
        "--row-widths",
        "2",
        "--row-halvings",
    ]
    command += ["6", "--column-widths", "2", "--column-halvings", "7", "--workers", "2"]
    monkeypatch.setattr(sys, "argv", [*command, "--arms", "disagreement", "dropout", "copies"])
    assert sweep.main() == 0
    folder = tmp_path / "results/scaling_laws/arms"
    found = json.loads((folder / "arms.json").read_text())
    assert {habit["arm"] for habit in found["habits"]} >= {"", "one rate", "dropout"}
    assert {one["kind"] for one in found["copies"]["comparisons"]} == {"copies", "repeats"}
    assert (folder / "habits.png").exists()
    assert (folder / "copies.png").exists()
    (folder / "arms.json").unlink()
    write_arms(folder)
    assert json.loads((folder / "arms.json").read_text()) == found
    capsys.readouterr()
    with pytest.raises(BadInput, match="--dropout and --arms exclude each other"):
        resolve(CommandLine(arms=("copies",), dropout=0.1))
