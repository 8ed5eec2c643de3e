"""Steps from minutes: measured, decided twice, kept, and never too late for the learning rate."""

import json
import re
import sys
import time
from typing import Any

import pytest
import torch

import train
from common.cli import run_main
from lm_commands import (
    INTEGERS,
    RUNS,
    SIZE,
    TINY,
    inline,
    learner_of,
    one_sentence,
    same_weights,
    settings_of,
    summary_of,
)
from lm_evaluation import step_budget
from lm_evaluation.step_budget import EPOCHS, MOST_MEMBERS, Plan, calibrate, members_for, revise, steps_of_use
from lm_settings.choices import INTEGER_TASKS
from optimisation.learning_rates import FLAT
from optimisation.lm_learner import Learner


def test_a_step_and_an_evaluation_are_timed(lm_folder, monkeypatch):
    monkeypatch.setattr(step_budget, "CALIBRATION_SECONDS", 0.05)
    for arguments in (TINY, ("--task", "repeat", *INTEGERS)):
        step, token = calibrate(learner_of(*arguments), train.update)
        assert 1e-5 < step < 1
        assert 1e-9 < token < 1e-2


def test_minutes_become_steps_once_and_for_all(plain_lm_folder, monkeypatch, capsys):
    asked = []

    def timed(*_: Any) -> tuple[float, float]:
        asked.append(time.perf_counter() - train.STARTED)
        return 0.03, 1e-6

    monkeypatch.setattr(step_budget, "calibrate", timed)
    monkeypatch.setattr(train, "STARTED", time.perf_counter())
    arguments = (*TINY[:-2], "--minutes", "0.12")
    update = train.update

    def breaking(learner: Learner, number: int, steps: int) -> torch.Tensor:
        if number == 40:  # after the number of steps has been decided for good, and before any checkpoint
            raise RuntimeError("a power cut")
        return update(learner, number, steps)

    with monkeypatch.context() as patch:
        patch.setattr(train, "update", breaking)
        patch.setattr(sys, "argv", ["transformers/train.py", "--results-dir", "results", *arguments, "--name", "a"])
        with pytest.raises(RuntimeError, match="a power cut"):
            run_main(train.main)
    plan = json.loads((RUNS / "a/plan.json").read_text())
    assert plan["first_steps"] == pytest.approx((60 * plan["deadline_minutes"] - asked[0]) / 0.03, abs=3)
    assert f"about {plan['first_steps']:,} steps" in capsys.readouterr().out
    assert plan["revised_at"] == int(0.3 * plan["first_steps"]) < 40
    assert plan["final"]
    # the same command goes on with the same plan
    assert inline(monkeypatch, *arguments, "--name", "a") == 0
    steps = summary_of("a")["steps"]
    assert steps == plan["steps"]
    # and its config.json repeats it elsewhere
    assert inline(monkeypatch, "--from-config", str(RUNS / "a/config.json"), "--name", "b") == 0
    assert summary_of("b")["steps"] == steps
    assert same_weights("a", "b")
    assert len(asked) == 1
    # with other settings it makes as many steps
    capsys.readouterr()
    assert inline(monkeypatch, "--from-config", str(RUNS / "a/config.json"), "--seed", "1", "--name", "c") == 0
    assert summary_of("c")["steps"] == steps
    assert f"NOTE: {steps:,} steps, as in {RUNS / 'a/plan.json'}, though not all is" in capsys.readouterr().out
    assert len(asked) == 1
    # unless another time is asked for
    monkeypatch.setattr(train, "STARTED", time.perf_counter())
    more = ("--seed", "1", "--minutes", "0.11", "--name", "d")
    assert inline(monkeypatch, "--from-config", str(RUNS / "a/config.json"), *more) == 0
    assert len(asked) == 2


def test_a_plan_is_revised_from_the_runs_own_speed():
    plan = Plan(100, 100, 30, False, 1.0)
    # half a minute is left, at a tenth of a second a step
    assert revise(plan, 30, 0.5, 0.1) == Plan(330, 100, 30, True, 1.0)
    # with no time left, the learning rate still has to be flat up to here: 30 < 0.4 x steps
    late = revise(plan, 30, 1.5, 0.1).steps
    assert 30 < FLAT * late < 32
    for steps in (late, 330):
        rows = revise(plan, 30, 1.0 - (steps - 30) / 600, 0.1).rows
        assert [row for row in rows if row <= 30] == [row for row in plan.rows if row <= 30]
        assert rows[-1] == pytest.approx(max(steps, late), abs=1)


def test_a_damaged_or_missing_plan_is_one_sentence(plain_lm_folder, monkeypatch, capsys):
    monkeypatch.setattr(step_budget, "calibrate", lambda *_: (0.03, 1e-6))
    monkeypatch.setattr(train, "STARTED", time.perf_counter())
    arguments = (*TINY[:-2], "--minutes", "0.12", "--name", "a")
    assert inline(monkeypatch, *arguments) == 0
    (RUNS / "a/summary.json").unlink()
    file = RUNS / "a/plan.json"
    plan = json.loads(file.read_text())
    file.write_text(json.dumps({**plan, "more": 1}))
    assert inline(monkeypatch, *arguments) == 2
    assert "is damaged" in one_sentence(capsys.readouterr().err)
    file.unlink()  # as that sentence says; the checkpoint has the plan too
    assert inline(monkeypatch, *arguments) == 0
    assert json.loads(file.read_text()) == plan


def test_a_budget_too_small_for_one_step(plain_lm_folder, monkeypatch, capsys):
    monkeypatch.setattr(step_budget, "calibrate", lambda *_: (0.01, 1e-6))
    assert inline(monkeypatch, *TINY[:-2], "--minutes", "0.01", "--name", "a") == 2
    told = one_sentence(capsys.readouterr().err)
    assert "--minutes 0.01 is too short" in told
    named = float(told.partition("from --minutes ")[2].split()[0])
    assert 0.1 <= named <= 0.3
    assert not (RUNS / "a/summary.json").exists()
    # the name is still free for a larger budget
    monkeypatch.setattr(train, "STARTED", time.perf_counter())
    assert inline(monkeypatch, *TINY[:-2], "--minutes", str(named), "--name", "a") == 0


def test_a_plan_far_below_the_usual_says_so(plain_lm_folder, monkeypatch, capsys):
    """3 steps where 2,523 are usual ended at chance, with status ok and not a word."""
    monkeypatch.setattr(step_budget, "calibrate", lambda *_: (2.0, 1e-6))
    monkeypatch.setattr(train, "STARTED", time.perf_counter())
    arguments = ("--task", "repeat", *SIZE, "--length", "5", "--vocab", "5", "--minutes", "0.15", "--name", "a")
    assert inline(monkeypatch, *arguments) == 0
    out = capsys.readouterr().out
    assert re.search(
        r"NOTE: about 1 steps fit into 0.15 minutes here, where 510 are usual: this machine is slow or busy", out
    )
    assert out.count("NOTE") == 1


def test_presets_and_explicit_flags():
    quick, default, full = (settings_of("--preset", name).minutes for name in ("quick", "default", "full"))
    assert quick <= 1 < default < full
    assert settings_of("--preset", "quick", "--minutes", "2").minutes == 2
    config = settings_of("--preset", "quick", "--steps", "7")
    assert (config.steps, config.minutes) == (7, 0)


def test_minutes_given_win_over_the_steps_of_a_config_file(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"arguments": {"steps": 40, "minutes": None}}))
    config = settings_of("--from-config", str(tmp_path / "config.json"), "--minutes", "2")
    assert (config.steps, config.minutes) == (0, 2)


@pytest.mark.parametrize("task", INTEGER_TASKS)
def test_quick_is_not_slower_than_the_default(task):
    quick, default = (settings_of("--task", task, "--preset", preset).minutes for preset in ("quick", "default"))
    assert quick <= default


def test_a_text_gives_a_net_so_many_steps_and_the_rest_goes_to_further_nets(lm_folder):
    learner = learner_of(*TINY)
    assert learner.text is not None
    enough = steps_of_use(learner)
    assert enough == round(EPOCHS * len(learner.text.learnt) / (4 * 16))
    for steps, members in ((1, 1), (enough, 1), (3 * enough, 3), (99 * enough, MOST_MEMBERS)):
        assert members_for(learner, steps) == members
    assert members_for(learner_of(*TINY, "--arch", "vaswani"), 99 * enough) == 1
    assert members_for(learner_of("--task", "repeat", "--steps", "3"), 10_000) == 1


def test_several_nets_share_the_steps_and_none_gets_more_than_it_can_use():
    plan = Plan(900, 900, revised_at=90, final=False, deadline_minutes=10.0, members=3, most_each=250)
    assert plan.steps_each == 300
    assert {300, 600, 900} <= set(plan.rows)
    assert plan.rows == sorted(set(plan.rows))
    slower = revise(plan, 90, 1.0, 60 * 9 / (690 - 90 + 2))  # as long as 690 steps take
    assert slower.steps == 3 * slower.steps_each == 690
    faster = revise(plan, 90, 1.0, 0.001)
    assert faster.steps == 3 * 250
    late = revise(plan, 90, 99.0, 1.0)  # the first net is in the flat part of its schedule, which may not have ended
    assert late.steps_each == round(90 / FLAT) + 1
