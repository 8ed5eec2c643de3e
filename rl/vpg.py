"""Vanilla policy gradient: REINFORCE with a value baseline and GAE, as in Spinning Up, on any Gymnasium environment.

    python rl/vpg.py --env CartPole-v1              475 of 500 points after 18,158 steps, 0.9 s (median of 10 seeds)
    python rl/vpg.py --env LunarLander-v3 --method ppo

An update is `update` in vpg_learner/policy_step_and_value_fit.py, and follows Spinning Up's pseudo-code:

    collect --horizon steps of --num-envs environments                      vpg_learner/rollout.py
    estimate advantages (Schulman et al. 2016)                              vpg_learner/gae_and_truncation.py
    take ONE gradient step on the policy (Sutton et al. 1999)
    fit the value function

That is `--method strict`, the default. `--method ppo` is the same loop with several passes in minibatches and the clipped
ratio (Schulman et al. 2017): with one pass of one minibatch it is strict exactly. `--method one-epoch` is what lies between
the two: one pass over the batch, in several steps. `--algo vpg` and `--algo ppo` are older names. The loop around the updates
is in training_runs/training_run.py; plain_reinforce.py is all of it in one slow file.

The folder that is printed holds metrics.csv, summary.json, checkpoint.pt and learning_curve.png. The same command goes on
where it was stopped; at a constant rate, one with more --total-steps goes on where a shorter run has ended. The flags are in
rl_settings/vpg_settings.py, what each environment gets by default in rl_settings/recipes.py; `evaluate.py` plays a trained
policy, `compare.py` runs seeds and algorithms side by side.

Three one-line changes to try (return on CartPole-v1 after 65,536 steps, mean of 10 seeds; as it is: 500):
  --method ppo                500: eighty steps per batch, kept close to the old policy; 3.2 times as slow.
  --baseline reward-to-go     471: without a value baseline the gradient is some 14 times as noisy while it learns.
  --baseline none             468: and here some 63 times.
"""

import os

os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")

import sys
from pathlib import Path

from common.cli import figures, parse, run_main, shown
from common.errors import BadInput
from common.files import read_json
from rl_report.learning_curve import learning_curve
from rl_settings.vpg_settings import PRESETS, Config
from training_runs.training_run import FIGURE, train_or_find
from vector_environments.make_streams import needs_module


def draw_again(folder: Path) -> int:
    """The figure of a run folder from its tables."""
    for name in ("config.json", "metrics.csv"):
        if not (folder / name).exists():
            raise BadInput(f"--redraw {folder}: there is no {name}, which the figure is drawn from")
    config = read_json(folder / "config.json")["config"]
    summary = read_json(folder / "summary.json") if (folder / "summary.json").exists() else None
    learning_curve(folder, config["env"], summary)
    print(figures(folder, FIGURE))
    return 0


def main() -> int:
    """Environments, training, evaluation, figure; or an old figure again."""
    given = parse(Config, PRESETS, description=__doc__ or "")
    if given.redraw:
        return draw_again(Path(given.redraw))
    if given.from_config and needs_module(given.env) and given.env not in " ".join(sys.argv[1:]):
        raise BadInput(f"{given.from_config} names the module of {given.env}: if you trust it, say --env {given.env}")
    summary, folder = train_or_find(given, learning_curve)
    print(f"{summary['headline']}\n{summary['train_seconds']:.1f} s of training; {shown(folder)}")
    if pictures := figures(folder, FIGURE):
        print(pictures)
    return 0 if summary["status"] == "ok" else 1


if __name__ == "__main__":
    run_main(main)
