"""Vanilla policy gradient: REINFORCE with a value baseline and GAE, as in Spinning Up, on any Gymnasium environment.

    python rl/vpg.py --env CartPole-v1              475 of 500 points after 42,000 steps, 1.7 s (median of 10 seeds)
    python rl/vpg.py --env LunarLander-v3 --algo ppo

An update is `update` in vpg_learner/policy_step_and_value_fit.py, and follows Spinning Up's pseudo-code:

    collect --horizon steps of --num-envs environments                      vpg_learner/rollout.py
    estimate advantages (Schulman et al. 2016)                              vpg_learner/gae_and_truncation.py
    take ONE gradient step on the policy (Sutton et al. 1999)
    fit the value function

`--algo ppo` is the same loop with several epochs in minibatches and the clipped ratio (Schulman et al. 2017): with one epoch
and one minibatch it is VPG exactly. `--minibatches 16` is what lies between the two: one pass over the batch, in several
steps. The loop around the updates is in training_runs/training_run.py; plain_reinforce.py is all of it in one slow file.

The folder that is printed holds metrics.csv, summary.json, checkpoint.pt and learning_curve.png. The same command goes on
where it was stopped; at a constant rate, one with more --total-steps goes on where a shorter run has ended. The flags are in
rl_settings/vpg_settings.py, what each environment gets by default in rl_settings/recipes.py; `evaluate.py` plays a trained
policy, `compare.py` runs seeds and algorithms side by side.

Three one-line changes to try (return on CartPole-v1 after 131,072 steps, mean of 10 seeds; as it is: 494):
  --algo ppo                  500: eighty steps per batch, kept close to the old policy; 2.6 times as slow.
  --baseline reward-to-go     496: without a value baseline the gradient is some 20 times as noisy while it learns.
  --baseline none             327: and here several hundred times.
"""

import os

os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")

from typing import Any

from common.cli import figures, parse, run_main, shown
from rl_report.learning_curve import learning_curve
from rl_settings.vpg_settings import PRESETS, Config, Settings, resolve
from training_runs.training_run import train_or_find


def headline(settings: Settings, summary: dict[str, Any]) -> str:
    """One sentence: what was reached."""
    if summary["status"] != "ok":
        return f"{settings.env}: diverged after {summary['steps']:,} steps; try --lr below {settings.lr:g}"
    return (
        f"{settings.env}, {settings.algo}: return {summary['eval_return_mean']:.1f} "
        f"[{summary['eval_return_lo95']:.1f}, {summary['eval_return_hi95']:.1f}] over {summary['eval_episodes']} episodes, "
        f"greedy {summary['eval_return_greedy_mean']:.1f}, after {summary['steps']:,} steps (n = 1 run)"
    )


def main() -> int:
    """Environments, training, evaluation, figure."""
    given = parse(Config, PRESETS, description=__doc__ or "")
    summary, folder = train_or_find(given, learning_curve)
    print(f"{headline(resolve(given), summary)}\n{summary['train_seconds']:.1f} s of training; {shown(folder)}")
    if pictures := figures(folder, "learning_curve.png"):
        print(pictures)
    return 0 if summary["status"] == "ok" else 1


if __name__ == "__main__":
    run_main(main)
