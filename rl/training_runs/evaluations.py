"""What evaluations say of a trainer's policy, while it trains and at the end, on episodes that training never sees."""

import math
from typing import Any

from common.files import finite
from rl_settings.procgen_games import is_procgen, normalised_return
from rl_settings.seed_purposes import DURING, FINAL, GREEDY
from vpg_learner.playing import interval
from vpg_learner.vpg_trainer import Trainer


def on_the_way(trainer: Trainer, due: bool) -> dict[str, float]:
    """Columns of metrics.csv: mean return, in Procgen success too and both on all levels; nan where no evaluation is due."""

    def measured(test_levels: bool) -> tuple[float, float]:
        if not due:
            return math.nan, math.nan
        purpose = (DURING, trainer.updates)
        found = trainer.evaluate(trainer.settings.eval_episodes, False, *purpose, test_levels=test_levels)
        return float(found[0].mean()), float(found[1].mean())

    value, success = measured(False)
    if not is_procgen(trainer.settings.env):
        return {"eval_return": value}
    test_value, test_success = measured(True)
    more = {"eval_return_test": test_value, "eval_success_test": test_success}
    return {"eval_return": value, "eval_success": success, **more}


def final_numbers(trainer: Trainer) -> dict[str, Any]:
    """The evaluations at the end: the policy as it is, and greedy; in Procgen also on levels that were not trained on.

    None for the interval of a single episode.
    """
    episodes, env = trainer.settings.final_episodes, trainer.settings.env
    (sampled, success), (greedy, _) = trainer.evaluate(episodes, False, FINAL), trainer.evaluate(episodes, True, GREEDY)
    low, high = interval(sampled)
    found = {
        "eval_return_mean": float(sampled.mean()),
        "eval_return_lo95": low,
        "eval_return_hi95": high,
        "eval_return_greedy_mean": float(greedy.mean()),
        "eval_episodes": len(sampled),
    }
    if not is_procgen(env):
        return finite(found)
    test, test_success = trainer.evaluate(episodes, False, FINAL, test_levels=True)
    low, high = interval(test)
    more = {
        "eval_success": float(success.mean()),
        "eval_return_normalised": normalised_return(env, float(sampled.mean())),
        "test_return_mean": float(test.mean()),
        "test_return_lo95": low,
        "test_return_hi95": high,
        "test_success": float(test_success.mean()),
        "test_return_normalised": normalised_return(env, float(test.mean())),
    }
    return finite(found | more)


def crossed(before: int, after: int, every: int) -> bool:
    """Whether a multiple of `every` lies in (before, after]; never where `every` is 0."""
    return every > 0 and after // every > before // every
