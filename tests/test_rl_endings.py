"""Evaluations that end, environments whose processes die, and modules that nobody has named."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import vpg
from common.errors import BadInput
from evaluate import load_run
from vector_environments import make_streams as making
from vector_environments.make_streams import make_streams, needs_module, no_time_limit
from vpg_learner.playing import interval, play

ROOT = Path(vpg.__file__).resolve().parents[1]
ENVIRONMENTS = """
import os, sys
import gymnasium, numpy as np
from gymnasium import spaces


class Endless(gymnasium.Env):
    observation_space, action_space = spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 1.0, False, False, {}


gymnasium.register("Endless-v0", Endless)
open(os.environ["MARKER"], "w").close()
"""


@pytest.fixture
def endless(tmp_path, monkeypatch):
    """A module with an environment whose episodes never end; importing it leaves a file."""
    (tmp_path / "endless_env.py").write_text(ENVIRONMENTS)
    monkeypatch.setenv("MARKER", str(tmp_path / "imported"))
    monkeypatch.syspath_prepend(tmp_path)
    yield "endless_env:Endless-v0"
    sys.modules.pop("endless_env", None)


class Uniform:
    """A policy that does nothing but act."""

    def __init__(self, streams):
        from policy_networks.actor_critic import ActorCritic

        self.net = ActorCritic(streams.encoder.shape, streams.action_space, (4,))


def test_an_evaluation_of_endless_episodes_ends(endless, monkeypatch):
    monkeypatch.setattr(making, "EPISODE_LIMIT", 25)
    streams = make_streams(endless, 2, limited=True)
    returns, _ = play(Uniform(streams).net, streams, None, 3, [1, 2])
    assert returns.tolist() == [[25.0] * 3] * 2
    assert no_time_limit(endless) == f"{endless} has no time limit: evaluations cut its episodes after 25 steps"
    trained: Any = make_streams(endless, 1).envs
    assert trained.envs[0].spec.max_episode_steps is None  # training is as it was


@pytest.mark.parametrize("env", ["CartPole-v1", "procgen:coinrun"])
def test_an_environment_with_a_limit_of_its_own_keeps_it(env):
    assert no_time_limit(env) == ""
    if env == "CartPole-v1":
        assert type(make_streams(env, 2, limited=True).envs) is type(make_streams(env, 2).envs)


def test_an_id_without_its_version_is_not_guessed():
    with pytest.raises(BadInput, match=r"--env CartPole is unknown: did you mean CartPole-v1\?"):
        make_streams("CartPole", 1)


def test_a_module_that_only_a_checkpoint_names_is_not_imported(endless, tmp_path):
    command = [sys.executable, ROOT / "rl" / "vpg.py", "--env", endless, "--total-steps", "64", "--num-envs", "2"]
    more = ["--horizon", "32", "--final-episodes", "2", "--eval-every", "0", "--name", "run"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    made = subprocess.run([*command, *more, "--results-dir", tmp_path], env=environment, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert f"NOTE: {endless} has no time limit" in made.stdout
    marker, folder = tmp_path / "imported", tmp_path / "rl" / "run"
    marker.unlink()
    sys.modules.pop("endless_env", None)
    with pytest.raises(BadInput, match=f"whose module would be imported: if you trust it, say --env {endless}"):
        load_run(folder)
    with pytest.raises(BadInput, match=f"this run is of {endless}"):
        load_run(folder, "other:Env-v0")
    assert not marker.exists()
    assert load_run(folder, endless).env == endless
    assert marker.exists()


def test_a_config_alone_names_no_module_either(tmp_path, monkeypatch):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"config": {}, "arguments": {"env": "this:Zen-v0"}}))
    monkeypatch.setattr(sys, "argv", ["vpg.py", "--from-config", str(file)])
    with pytest.raises(BadInput, match="names the module of this:Zen-v0: if you trust it, say --env this:Zen-v0"):
        vpg.main()


def test_only_module_ids_need_a_module():
    assert needs_module("my_module:MyEnv-v0")
    assert not needs_module("procgen:coinrun")
    assert not needs_module("CartPole-v1")


@pytest.mark.parametrize("call", [lambda s: s.step(np.zeros((3, 1), np.float32)), lambda s: s.reset([0, 1, 2])])
def test_a_dead_environment_process_is_one_sentence_and_nothing_hangs(call, capfd):
    envs: Any = making.asynchronous("Pendulum-v1", 3)
    streams = making.Streams(envs)
    streams.reset([0, 1, 2])
    streams.step(np.zeros((3, 1), np.float32))
    os.kill(envs.processes[1].pid, signal.SIGKILL)
    envs.processes[1].join()
    began = time.perf_counter()
    with pytest.raises(BadInput, match=r"an environment's process was killed by signal 9 \(out of memory\?\)"):
        call(streams)
    assert not any(process.is_alive() for process in envs.processes)
    streams.close()
    assert time.perf_counter() - began < 10
    assert "Traceback" not in capfd.readouterr().err


def test_an_environment_process_that_dies_while_it_begins_is_one_sentence(monkeypatch, capfd):
    """The killed one takes a kilobyte of traceback of each of the others with it, if they are left alone."""

    make_whole = gymnasium.make

    def make(env_id: str, **options: Any) -> Any:
        if multiprocessing.current_process().name.endswith("-1"):
            os.kill(os.getpid(), signal.SIGKILL)
        return make_whole(env_id, **options)

    monkeypatch.setattr(making.gymnasium, "make", make)
    with pytest.raises(BadInput, match="an environment's process was killed before it had begun"):
        making.asynchronous("Pendulum-v1", 3)
    time.sleep(0.5)
    assert "Traceback" not in capfd.readouterr().err


def test_one_episode_has_no_interval():
    assert all(np.isnan(interval(np.array([6.3]))))
    low, high = interval(np.array([1.0, 2.0, 3.0]))
    assert 1 <= low < 2 < high <= 3
