"""The batch-size sweep's cells, the predictions on cells with known answers, and noise_scale.py end to end."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import noise_scale
from batch_sweep import (
    BETA2,
    BETA2_BATCH,
    FIRST_TOKENS,
    Arm,
    Problem,
    Stepper,
    beta2,
    crossing,
    next_check,
    train_to,
    tune,
)
from common.cli import run_main
from critical_batch import steps_needed
from gradient_noise import Interval, loss_of
from local_noise import local_critical_batch, read_squares
from predictions import (
    arm_results,
    log_mean,
    p1_hyperbola,
    p3_noise_scale,
    p4_growth,
    p5_size,
    p6_learning_rate,
    p10_tokens,
    p12_branches,
)

ROOT = Path(__file__).resolve().parent.parent
TINY = Arm("ascending", 32)
GOALS = [3.0, 2.0]


@pytest.fixture(scope="module")
def problem() -> Problem:
    torch.set_num_threads(1)
    return Problem(TINY, Path(), torch.device("cpu"), torch.float32)


# ---------------------------------------------------------------- cells


def test_a_loss_is_reached_between_two_measurements():
    curve = [(10, 4.0), (20, 3.0), (40, 2.0), (80, 2.4), (100, 2.2), (120, 2.0), (140, 1.9)]
    assert crossing(curve, 2.5) == pytest.approx(20 * 2**0.5)  # half way, in log(step), from 3 to 2
    assert crossing(curve, 2.2) == pytest.approx(100)  # 2.0 at step 40 did not last
    assert crossing(curve, 4.5) == 10
    assert crossing(curve, 1.95) == math.inf  # one measurement is not enough
    assert crossing(curve, 1.0) == math.inf


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_the_loss_is_measured_at_ever_wider_steps(step, tokens_per_step):
    following = next_check(step, tokens_per_step)
    assert following > step
    assert following * tokens_per_step >= FIRST_TOKENS
    assert following <= max(math.ceil(FIRST_TOKENS / tokens_per_step), 1.05 * step + 1)


@given(st.integers(1, 256))
def test_beta2_keeps_its_half_life_in_tokens(batch):
    half_life = math.log(0.5) / math.log(beta2(batch)) * batch  # in sequences
    assert half_life == pytest.approx(math.log(0.5) / math.log(BETA2) * BETA2_BATCH)


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
    trial = train_to(problem, 64, 1.0, GOALS, [400, 400], at_goal=lambda i, _m, _s, step: told.append((i, step)))
    assert [i for i, _ in told] == [0, 1]
    assert all(step >= trial.steps[i] for i, step in told)
    assert trial.steps[0] <= trial.steps[1] < trial.made
    assert trial.steps == [crossing(trial.curve, goal) for goal in GOALS]
    short = train_to(problem, 64, 1.0, [0.0001], [20])
    assert short.steps == [math.inf]
    assert 20 < short.made <= next_check(21, 64 * problem.context)
    wild = train_to(problem, 64, 1e6, [0.0001], [400])
    assert wild.made < 400  # it left all bounds


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


def test_the_branches_bracket_the_critical_batch():
    found = local_critical_batch([(4, 2.005), (16, 2.0), (64, 2.006), (256, 2.046)])
    assert (found.lo95, found.hi95) == (64, 256)
    assert found.value == pytest.approx(64 * 4**0.1)  # 0.004 of the 0.04 that it rises from 64 to 256
    assert local_critical_batch([(4, 2.0), (16, 2.0)]).hi95 == math.inf
    assert local_critical_batch([(4, 2.0), (16, math.nan)]) == Interval(4.0, 4.0, 16.0)


# ---------------------------------------------------------------- predictions

CONTEXT = 10
BATCHES = 4 ** np.arange(6)


def cells_of(b_crit: list[float], exponent: float = 1.0, alpha: float = 0.5) -> list[dict]:
    """Tuning cells that follow the theory: S_min = 100, and rates around eps = (1 + 400 / B)^-alpha."""
    cells = []
    for batch in BATCHES:
        centre = (1 + 400 / (batch * CONTEXT)) ** -alpha
        trials = []
        for k in (-1, 0, 1):
            factor = 1.2 if k else 1.0
            steps = [factor * float(steps_needed(batch * CONTEXT, 100, b, exponent)) for b in b_crit]
            trials.append({"rate": centre * 2.0**k, "steps": steps, "made": 1000})
        cells.append({"batch": int(batch), "context": CONTEXT, "trials": trials})
    return cells


def measured_of(goals: list[float], b_simple: list[float], contexts: dict[str, float] | None = None) -> dict:
    """A measuring cell whose B_simple, in tokens, is about what is given, with little spread."""

    def squares(sequences: float) -> dict:
        wobble = 1 + 0.02 * np.array([-1.5, -0.5, 0.5, 1.5])  # the mean is 1
        small, big = (1 + sequences * wobble / size for size in (4, 32))
        return {"names": ["all"], "small_squares": small[:, None], "big_squares": big[:, None], "small": 4, "big": 32}

    found = [
        {"goal": goal, "squares": squares(b / CONTEXT), "branches": [(1, 2.0), (16, 2.0), (64, 3.0)]}
        for goal, b in zip(goals, b_simple, strict=True)
    ]
    found[-1]["contexts"] = {T: squares(b) for T, b in (contexts or {}).items()}
    return {"context": CONTEXT, "goals": found}


LOSSES = [2.6, 2.4, 2.2, 2.0]
CRITICAL = [1000 * (loss / 2) ** -5.0 for loss in LOSSES]


def test_a_world_that_follows_the_theory_passes():
    arm = arm_results("a", LOSSES, cells_of(CRITICAL), measured_of(LOSSES, [1.5 * b for b in CRITICAL]))
    for one, b in zip(arm.at, CRITICAL, strict=True):
        assert one.fit is not None
        assert one.fit.b_crit.value == pytest.approx(b, rel=1e-3)
        assert one.b_simple is not None
        assert one.b_simple.value == pytest.approx(1.5 * b, rel=1e-3)
        assert one.inside.all()
    first = p1_hyperbola([arm])
    assert first.passed
    assert first.value == pytest.approx(1, rel=0.01)
    third = p3_noise_scale([arm])
    assert third.passed
    assert third.value == pytest.approx(1.5, rel=0.01)
    assert third.lo95 < 1.5 < third.hi95
    for verdict in p4_growth(arm):
        assert verdict.passed
        assert verdict.value == pytest.approx(-5, rel=0.05)
    assert p5_size([arm, arm]).passed
    sixth = p6_learning_rate(arm, (0.5, 1.0))
    assert sixth.passed
    assert sixth.value == pytest.approx(0.5, abs=0.05)


def test_a_world_that_does_not_follow_it_fails():
    arm = arm_results("a", LOSSES, cells_of(CRITICAL, 0.5, 0.1), measured_of(LOSSES, [9 * b for b in CRITICAL]))
    assert p1_hyperbola([arm]).passed is False
    assert p1_hyperbola([arm]).value == pytest.approx(0.5, rel=0.02)
    assert p3_noise_scale([arm]).passed is False
    assert p6_learning_rate(arm, (0.5, 1.0)).passed is False
    flat = arm_results("b", LOSSES, cells_of([1000.0] * 4), measured_of(LOSSES, [1000.0] * 4))
    assert [verdict.passed for verdict in p4_growth(flat)] == [False, False]
    assert p5_size([arm, flat]).passed is False


def test_where_too_little_was_measured_nothing_is_decided():
    arm = arm_results("a", LOSSES, cells_of(CRITICAL)[:2], None)
    undecided = (p1_hyperbola([arm]), p3_noise_scale([arm]), *p4_growth(arm), p5_size([arm]), p10_tokens(arm))
    assert {verdict.word for verdict in (*undecided, p12_branches([arm]))} == {"not decided"}


@pytest.mark.parametrize(("power", "passed"), [(0.0, True), (1.0, False)])
def test_the_unit_is_found(power, passed):
    contexts = {str(T): 1000 * float(T) ** (power - 1) for T in (8, 16, 32, 64)}  # in sequences
    arm = arm_results("a", LOSSES, cells_of(CRITICAL), measured_of(LOSSES, CRITICAL, contexts))
    found = p10_tokens(arm)
    assert found.value == pytest.approx(power, abs=0.02)
    assert found.passed is passed


def test_branches_are_held_against_the_sweep():
    arm = arm_results("a", LOSSES, cells_of([200.0] * 4), measured_of(LOSSES, [200.0] * 4))
    found = p12_branches([arm])
    assert found.passed
    assert found.value == pytest.approx(16 * CONTEXT * 4**0.01 / 200, rel=0.02)


def test_a_mean_of_ratios_knows_the_widths_and_the_spread():
    exact = Interval(2.0, 2.0, 2.0), Interval(1.0, 1.0, 1.0)
    assert log_mean([exact, exact]) == Interval(2.0, 2.0, 2.0)
    wide = Interval(2.0, 1.0, 4.0), Interval(1.0, 1.0, 1.0)
    found = log_mean([wide])
    assert (found.lo95, found.hi95) == pytest.approx((1.0, 4.0))
    assert log_mean([(Interval(2.0, 1.0, math.inf), exact[1])]).hi95 == math.inf
    assert math.isnan(log_mean([]).value)


# ---------------------------------------------------------------- the script

SMALL = (
    *("--task", "ascending", "--preset", "quick", "--batches", "4", "16", "64", "--goals", "3.0", "2.0"),
    *("--max-tokens", "3e5", "--name", "tiny", "--results-dir", "results"),
)


def start(*arguments: str, folder: Path) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "transformers/noise_scale.py"), *SMALL, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder)


def comparable(folder: Path) -> dict[str, list[dict[str, str]]]:
    """The two tables without what the clock says."""
    found = {}
    for name in ("batch_sweep.csv", "noise.csv"):
        with open(folder / name, newline="") as file:
            rows = list(csv.DictReader(file))
        found[name] = [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
    return found


def test_the_script_ends_with_tables_figures_and_verdicts_and_resumes_after_a_kill(tmp_path):
    whole = start(folder=tmp_path)
    out, err = whole.communicate(timeout=300)
    assert whole.returncode == 0, err
    folder = tmp_path / "results/transformers/tiny"
    assert all((folder / name).exists() for name in ("fits.json", "noise_scale.png", "predictions.png", "summary.json"))
    judged = json.loads((folder / "fits.json").read_text())["predictions"]
    assert {verdict["name"] for verdict in judged} >= {"P1", "P3", "P4", "P5", "P6", "P10", "P12"}
    assert "P1 " in out
    tables = comparable(folder)
    assert {row["batch"] for row in tables["batch_sweep.csv"]} == {"4", "16", "64"}
    # Killed half way in another folder: the finished cells are kept, and the end is the same.
    (tmp_path / "other").mkdir()
    stopped = start(folder=tmp_path / "other")
    cells = tmp_path / "other/results/transformers/tiny/cells"
    deadline = time.monotonic() + 200
    while not list(cells.glob("*.json")) and stopped.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(stopped.pid, signal.SIGKILL)
    stopped.communicate()
    kept = {path.name: path.stat().st_mtime_ns for path in cells.glob("*.json")}
    assert kept
    again = start(folder=tmp_path / "other")
    _, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert comparable(tmp_path / "other/results/transformers/tiny") == tables
    assert all((cells / name).stat().st_mtime_ns == at for name, at in kept.items())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--goals", "2.0", "2.4"), "--goals must be"),
        (("--batches", "4", "8"), "--batches must name"),
        (("--width", "40"), "multiples of 32"),
        (("--sizes", "64"), "--sizes must differ"),
        (("--context", "4"), "--context must be"),
        (("--seed", "-1"), "--seed must be"),
        (("--max-tokens", "0"), "--max-tokens positive"),
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


def test_squares_survive_json(problem):
    kept = measured_of([2.0], [100.0])["goals"][0]["squares"]
    assert read_squares(json.loads(json.dumps(kept, default=lambda array: array.tolist()))).b_simple().value > 0
