"""The batch-size sweep's cells and what is measured in them, and noise_scale.py end to end."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import noise_scale
from common.cli import run_main
from common.errors import BadInput
from common.provenance import source_hashes
from critical_batch.batch_sweep import (
    BETA2,
    BETA2_BATCH,
    FIRST_TOKENS,
    GROWTH,
    LEAST_BETA2,
    WARMUP,
    Arm,
    Problem,
    Stepper,
    beta2,
    crossing,
    full_steps,
    loss_at,
    next_check,
    read_trials,
    train_to,
    tune,
)
from critical_batch.local_noise import Effort, branch_losses, only_some, plain_copy
from critical_batch.study_cells import start_rate, studies, tuning_jobs
from device_guard import no_float64
from gradient_noise.noise_estimators import (
    IGNORED,
    gradient,
    loss_of,
    measure,
    per_example_gradients,
    per_example_moments,
)
from lm_settings.noise_settings import PRESETS, Config, resolve_noise
from optimisation.optimizer import Optimizer

ROOT = Path(__file__).resolve().parent.parent
TINY = Arm("ascending", 32)
GOALS = [3.0, 2.0]


@pytest.fixture(scope="module")
def problem() -> Iterator[Problem]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Problem(TINY, Path(), torch.device("cpu"), torch.float32)
    torch.set_num_threads(threads)


# ---------------------------------------------------------------- cells


def test_a_loss_is_reached_between_two_measurements():
    curve = [(0, 4.2), (10, 4.0), (20, 3.0), (40, 2.0), (80, 2.4), (100, 2.2), (120, 2.0), (140, 1.9)]
    assert crossing(curve, 2.5) == pytest.approx(full_steps(30))  # half way from 3 to 2
    assert crossing(curve, 2.2) == pytest.approx(full_steps(100))  # 2.0 at step 40 did not last
    assert crossing(curve, 4.1) == pytest.approx(full_steps(5))
    assert crossing(curve, 1.95) == math.inf  # one measurement is not enough
    assert crossing(curve, 1.0) == math.inf
    assert loss_at(curve, 15) == 3.5
    assert loss_at(curve, 1000) == 1.9


def test_steps_of_the_warm_up_count_by_their_rates():
    rates = np.minimum(1, (np.arange(50) + 1) / WARMUP)
    for steps in (0, 1, 5, WARMUP, 30):
        assert full_steps(steps) == pytest.approx(rates[:steps].sum())


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_the_loss_is_measured_at_ever_wider_steps(step, tokens_per_step):
    following = next_check(step, tokens_per_step)
    assert following > step
    assert following * tokens_per_step >= FIRST_TOKENS
    assert following <= max(math.ceil(FIRST_TOKENS / tokens_per_step), GROWTH * step + 1)


@given(st.integers(1, 512))
def test_beta2_keeps_its_half_life_in_tokens_as_far_as_it_may(batch):
    half_life = math.log(0.5) / math.log(beta2(batch)) * batch  # in sequences
    expected = math.log(0.5) / math.log(BETA2) * BETA2_BATCH
    assert beta2(batch) >= LEAST_BETA2
    assert half_life == pytest.approx(expected) or (beta2(batch) == LEAST_BETA2 and half_life > expected)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_every_optimiser_learns_and_goes_on_exactly_from_its_state(problem, optimizer):
    def steps(model, stepper, first, last):
        for step in range(first, last):
            loss_of(model, data(step)).backward()
            stepper.step(step, 0.3)

    data = problem.batches(16, 0)
    whole = problem.model(0)
    before = problem.loss(whole)
    stepper = Stepper(whole, optimizer, 16, torch.float32)
    steps(whole, stepper, 0, 30)
    assert problem.loss(whole) < before - 0.05
    half = problem.model(0)
    first = Stepper(half, optimizer, 16, torch.float32)
    steps(half, first, 0, 15)
    second = Stepper(half, optimizer, 16, torch.float32)
    second.load(first.state(), 16)
    steps(half, second, 15, 30)
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), half.parameters(), strict=True))


def test_batches_follow_from_seed_and_step_alone(problem):
    draw, again, other = problem.batches(4, 1), problem.batches(4, 1), problem.batches(4, 2)
    assert torch.equal(draw(3)[0], again(3)[0])
    assert not torch.equal(draw(3)[0], draw(4)[0])
    assert not torch.equal(draw(3)[0], other(3)[0])


def test_training_calls_back_at_every_goal_and_ends_at_its_limits(problem):
    told = []
    goals = [3.0, 2.0, 1.99, 0.3]  # the third is reached with the second
    trial = train_to(problem, 16, 1.0, goals, [400] * 4, at_goal=lambda i, _m, _s, step: told.append((i, step)))
    assert [i for i, _ in told] in ([0, 2, 3], [2, 3])
    assert all(step >= trial.steps[i] for i, step in told)
    assert trial.steps == sorted(trial.steps)
    assert trial.steps == [crossing(trial.curve, goal) for goal in goals]
    short = train_to(problem, 64, 1.0, [0.0001], [20])
    assert short.steps == [math.inf]
    assert 20 < short.made <= next_check(21, 64 * problem.context)
    wild = train_to(problem, 64, 1e6, [0.0001], [400])
    assert wild.made < 400  # it left all bounds
    assert wild.curve[-1][1] == math.inf
    slow = train_to(problem, 16, 0.01, goals, [400] * 4, leader=trial.curve)
    assert 2 * WARMUP < slow.made < 60  # it lay too far behind


def test_training_and_measuring_use_no_float64(problem):
    with no_float64():
        train_to(problem, 8, 1.0, [0.0001], [4])


def test_the_tuned_rate_lies_between_two_worse_ones(problem):
    goals = [1.0, 0.3]
    trials = tune(problem, 16, 128.0, goals, 3e5)  # a guess that is far too high
    rates = np.array([trial.rate for trial in trials])
    np.testing.assert_allclose(rates[1:] / rates[:-1], 2)
    for goal in range(len(goals)):
        best = int(np.argmin([trial.steps[goal] for trial in trials]))
        assert 0 < best < len(trials) - 1


def test_a_goal_that_no_rate_reaches_stays_open(problem):
    trials = tune(problem, 64, 1.0, [0.0001], 3e4)
    assert all(trial.steps == [math.inf] for trial in trials)
    nearest = int(np.argmin([trial.curve[-1][1] for trial in trials]))
    assert 0 < nearest < len(trials) - 1


def test_a_cell_that_was_killed_keeps_its_trials(problem, tmp_path, monkeypatch):
    arguments = (problem, 16, 128.0, [1.0, 0.01], 5e4)  # the last is not reached, and rates of hundreds diverge
    whole = tune(*arguments)
    partial, begun = tmp_path / "cell.partial", []

    def mortal(*rest):
        begun.append(rest)
        if len(begun) == 4:
            raise KeyboardInterrupt
        return train_to(*rest)

    monkeypatch.setattr("critical_batch.batch_sweep.train_to", mortal)
    with pytest.raises(KeyboardInterrupt):
        tune(*arguments, partial=partial)
    kept = read_trials(partial)
    assert len(kept) == 3
    whole_file = partial.read_bytes()
    for place in range(0, len(whole_file), len(whole_file) // 40):  # one flipped bit is never another number
        partial.write_bytes(whole_file[:place] + bytes([whole_file[place] ^ 1]) + whole_file[place + 1 :])
        with pytest.raises(BadInput, match=r"cell\.partial is (damaged|not readable JSON)"):
            read_trials(partial)
    partial.write_bytes(whole_file)
    resumed = tune(*arguments, partial=partial)
    assert len(begun) == 1 + len(whole)  # none was run twice but the one that was cut off
    assert [(t.rate, t.steps, t.curve) for t in resumed] == [(t.rate, t.steps, t.curve) for t in whole]


def test_branches_of_the_same_batch_go_on_like_the_run(problem):
    model = problem.model(0)
    stepper = Stepper(model, "adamw", 16, torch.float32)
    data = problem.batches(16, 0)
    for step in range(24):
        loss_of(model, data(step)).backward()
        stepper.step(step, 0.5)
    before = [p.clone() for p in model.parameters()]
    start = problem.loss(model)
    how = Effort(branches=(0.25, 1.0, 64.0), branch_seeds=2)
    found = dict(branch_losses(problem, model, stepper.state(), 16, 0.5, 24, how, 0))
    assert set(found) == {4, 16}  # the largest would have had less than a step
    assert all(loss < start and loss != losses[0] for losses in found.values() for loss in losses[1:])
    assert all(torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))
    assert isinstance(stepper.optimizer, Optimizer)
    assert float(stepper.optimizer.adam.state_dict()["state"][0]["step"]) == 24  # and its optimiser is where it was


def test_a_loaded_optimiser_has_the_beta2_of_its_new_batch(problem):
    stepper = Stepper(problem.model(0), "adamw", 16, torch.float32)
    stepper.load(stepper.state(), 64)
    assert isinstance(stepper.optimizer, Optimizer)
    assert {group["betas"] for group in stepper.optimizer.adam.param_groups} == {(0.9, beta2(64))}


def test_on_a_net_in_training_both_estimators_agree(problem):
    model, data = problem.model(0), problem.batches(16, 0)
    stepper = Stepper(model, "adamw", 16, torch.float32)
    for step in range(8):
        loss_of(model, data(step)).backward()
        stepper.step(step, 0.5)
    assert 1 < problem.loss(model) < 4
    squared_norm, trace = per_example_moments(per_example_gradients(plain_copy(model), problem.batches(512, 5)(0)))
    draw = problem.batches(64, 6)
    found = measure(model, (draw(i) for i in range(12)), 16).b_simple()
    assert trace / squared_norm in found
    assert found.hi95 < 3 * found.lo95


def test_a_loss_on_some_tokens_is_that_of_these_tokens(problem):
    inputs, targets = problem.batches(6, 0)(0)
    some = only_some((inputs, targets), 3, torch.Generator().manual_seed(0))
    assert torch.equal(some[0], inputs)
    kept = some[1] != IGNORED
    assert (kept.sum(1) == 3).all()
    assert torch.equal(some[1][kept], targets[kept])
    model = problem.model(0)
    whole = only_some((inputs, targets), problem.context, torch.Generator().manual_seed(0))
    for g, h in zip(gradient(model, (inputs, targets)), gradient(model, whole), strict=True):
        torch.testing.assert_close(g, h)


# ---------------------------------------------------------------- the script

SMALL = (
    *(
        "--task",
        "ascending",
        "--preset",
        "quick",
        "--batches",
        "4",
        "16",
        "64",
        "--goals",
        "1.0",
        "0.3",
        "--sizes",
        "64",
    ),
    *("--max-tokens", "3e5", "--name", "tiny", "--results-dir", "results"),
)


def test_the_star_changes_one_factor_at_a_time():
    full = resolve_noise(Config(**PRESETS["full"]))
    star = studies(full)
    base = star[0].arm
    assert [len(study.batches) for study in star] == [10] + 7 * [5]
    changed = [
        [name for name in ("task", "width", "optimizer", "context") if getattr(study.arm, name) != getattr(base, name)]
        for study in star
    ]
    assert sorted(changed) == [[], *2 * [["optimizer"]], *3 * [["task"]], *2 * [["width"]]]
    # Without the star, other sizes are only measured, with what was tuned for the base.
    default = resolve_noise(Config())
    alone = studies(default)
    assert [study.swept for study in alone] == [True, False, False]
    assert [len(tuning_jobs(default, study, "", "cpu", Path())) for study in alone] == [5, 0, 0]


def start(*arguments: str, folder: Path) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "transformers/noise_scale.py"), *SMALL, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder)


def test_the_script_resumes_after_a_kill_and_ends_with_tables_figures_and_verdicts(problem, tmp_path):
    folder = tmp_path / "results/transformers/tiny"
    cells = folder / "cells"
    stopped = start(folder=tmp_path)
    deadline = time.monotonic() + 200
    while not list(cells.glob("*.json")) and stopped.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(stopped.pid, signal.SIGKILL)
    stopped.communicate()
    kept = {path.name: path.stat().st_mtime_ns for path in cells.glob("*.json")}
    assert kept
    whole = start(folder=tmp_path)
    out, err = whole.communicate(timeout=300)
    assert whole.returncode == 0, err
    assert all((cells / name).stat().st_mtime_ns == at for name, at in kept.items())
    assert all((folder / name).exists() for name in ("fits.json", "noise_scale.png", "predictions.png", "summary.json"))
    assert not list(cells.glob("*.partial"))
    fits = json.loads((folder / "fits.json").read_text())
    assert [goal["goal"] for goal in fits["arms"][0]["goals"]] == [1.0, 0.3]
    assert {verdict["name"] for verdict in fits["predictions"]} >= {"P1", "P3", "P4", "P5", "P6", "P10", "P12"}
    assert "P1 " in out
    with open(folder / "noise.csv", newline="") as file:
        assert {row["arm"] for row in csv.DictReader(file)} == {"ascending-32-adamw", "ascending-64-adamw"}
    with open(folder / "batch_sweep.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["batch"] for row in rows} == {"4", "16", "64"}
    # The cells are what one process gets that nothing stopped.
    for batch in (4, 16, 64):
        expected = tune(problem, batch, start_rate("adamw", batch), [1.0, 0.3], 3e5)
        mine = [row for row in rows if row["batch"] == str(batch)]
        found = [(float(row["rate"]), float(row["steps"] or "inf"), int(row["steps_made"])) for row in mine]
        assert found == [(t.rate, round(steps, 2), t.made) for t in expected for steps in t.steps]
    # Once more, only what the kept cells do not hold is made again: the tables, the verdicts and the figures.
    kept = {path.name: path.stat().st_mtime_ns for path in cells.glob("*.json")}
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".csv", ".json", ".png")}
    for name in ("fits.json", "noise_scale.png"):
        (folder / name).unlink()
    again = start(folder=tmp_path)
    out, _ = again.communicate(timeout=60)
    assert again.returncode == 0
    assert "already done" in out
    assert "P1 " in out
    assert {path.name: path.stat().st_mtime_ns for path in cells.glob("*.json")} == kept
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_what_judges_and_draws_is_no_part_of_a_study():
    files = {Path(name).stem for name in source_hashes(*noise_scale.ROOTS)}
    assert {"batch_sweep", "local_noise", "decoder", "optimizer", "corpora"} <= files
    assert not {"predictions", "arm_tables", "batch_laws", "study_tables", "study_figures", "run", "cli"} & files


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--goals", "2.0", "2.4"), "--goals must be"),
        (("--batches", "4", "8"), "--batches must name"),
        (("--width", "40"), "multiples of 32"),
        (("--sizes", "64"), "--sizes must differ"),
        (("--context", "4"), "--context must be"),
        (("--depth", "5"), "--depth must be"),
        (("--seed", "-1"), "--seed must be"),
        (("--max-tokens", "0"), "--max-tokens must be positive"),
        (("--max-tokens", "inf"), "--max-tokens must be positive"),
        (("--goals", "nan"), "--goals must be"),
        (("--device", "tpu"), "--device"),
        (("--task", "tinyshakespeare", "--data-dir", "nowhere"), "nowhere"),
    ],
)
def test_bad_arguments_get_one_sentence_and_leave_nothing(tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["transformers/noise_scale.py", "--results-dir", "results", *arguments])
    with pytest.raises(SystemExit) as stop:
        run_main(noise_scale.main)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert sentence in error
    assert "Traceback" not in error
    assert not (tmp_path / "results").exists()
