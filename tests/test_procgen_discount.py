"""What a discount of 0.99 changes in Procgen: the page's numbers against the committed trials and runs."""

import numpy as np

from procgen_results import (
    COUNTS,
    PAGE,
    SMALL_BATCH,
    SUITE,
    TEXT,
    entropies,
    episode_length,
    last_return_in_training,
    numbers,
    published_mean,
    rows,
    with_interval,
)
from rl_report.published import ppo_return
from rl_settings.procgen_games import GAMES, normalised_return
from rl_settings.recipes import recipe_for
from rl_settings.vpg_settings import Config, resolve


def test_the_discount_is_as_the_page_says():
    """Returns, frames per episode and entropies of the trials; lengths beside published PPO's."""
    base = "64 x 256 in 64"
    trials = {(r["game"], r["seed"], r["variant"], r["frames"]): r for r in rows("tuning.csv")}

    def cell(game: str, seed: str, more: str, frames: str = "500000") -> str:
        row = trials.get((game, seed, base + more, frames))
        if row is None:
            return ""
        return f"{float(row['return']):.2f}, {50_000 / int(row['episodes']):.0f}, {float(row['entropy']):.2f}"

    clipped, less = ", value clip 0.2", ", gamma 0.99"
    for game, seed in (("ninja", "1000"), ("ninja", "1001"), ("leaper", "1000"), ("fruitbot", "1000")):
        cells = [cell(game, seed, more) for more in ("", clipped, less)]
        assert f"| {game}, {seed} | {' | '.join(cells)} |".replace("|  |", "| |") in PAGE
        before, after = (trials[game, seed, base + more, "500000"] for more in ("", less))
        assert float(after["return"]) > float(before["return"])
        assert float(after["entropy"]) < float(before["entropy"])
    ends = [" and ".join(cell("ninja", "1001", more, "1000000").rsplit(", ", 1)) for more in (clipped, less)]
    assert "it is at {}, with γ = 0.99 at {}; ".format(*ends) in TEXT
    assert f"published PPO returns {ppo_return('procgen:ninja', 'train', 1e6):.2f}." in TEXT
    ours = {game: episode_length(SMALL_BATCH, f"procgen:{game}") for game in GAMES}
    theirs = {game: published_mean(game, "length") for game in GAMES}
    assert f"ninja lasts {ours['ninja']:.0f} frames, OpenAI's PPO's {theirs['ninja']:.0f}, one of coinrun " in TEXT
    assert f"one of coinrun {ours['coinrun']:.0f} and {theirs['coinrun']:.0f}; they are longer" in TEXT
    longer = sum(ours[game] > theirs[game] for game in GAMES)
    assert f"longer than PPO's in {COUNTS[longer]} of the 16 games" in TEXT
    assert recipe_for("procgen:ninja", "one-epoch", 64)["gamma"] == 0.99
    assert [recipe_for("procgen:ninja", method)["gamma"] for method in ("strict", "ppo")] == [0.999, 0.999]
    assert recipe_for("procgen:ninja", "ppo")["value_clip"] == 0.2


def test_the_discount_on_the_reported_seed_is_as_the_page_says():
    """Returns in training and frames per episode at the end, the normalised means, and the games that stand out."""
    runs = [numbers(row) for row in rows(f"{SUITE}/runs.csv")]
    assert {(run["status"], run["steps"]) for run in runs} == {("ok", 1_015_808)}
    games = [run["env"].partition(":")[2] for run in runs]
    assert games == list(GAMES)
    normed = []
    for game in games:
        env = f"procgen:{game}"
        returns = [last_return_in_training(name, env) for name in (SUITE, SMALL_BATCH)]
        returns.append(ppo_return(env, "train", 1e6) or 0.0)
        lengths = [*(episode_length(name, env) for name in (SUITE, SMALL_BATCH)), published_mean(game, "length")]
        cells = [f"{value:.2f}, {length:.0f}" for value, length in zip(returns, lengths, strict=True)]
        assert f"| {game} | {' | '.join(cells)} |" in PAGE
        normed.append([normalised_return(env, value) for value in returns])
    ours, small, ppo = np.array(normed).T
    means = [f"{each.mean():.3f}" for each in (ours, small, ppo)]
    assert f"| normalised, mean of {len(games)} | {' | '.join(means)} |" in PAGE
    above = [COUNTS[int((ours > other).sum())] for other in (ppo, small)]
    assert f"It is above PPO in {above[0]} of the 16 games and above the small batch in {above[1]}, " in TEXT
    assert f"by {with_interval(ours - small)} in the mean, interval over games" in TEXT
    worst = GAMES[int(np.argmin(ours - ppo))]
    values = f"{ours[GAMES.index(worst)]:.2f} and {ppo[GAMES.index(worst)]:.2f}"
    assert f"Where it trails PPO most, in {worst} ({values} of the normalised return), " in TEXT
    nats = f"its entropy {entropies(SUITE)[worst]:.2f} of {np.log(15):.2f} nats, published PPO's "
    assert f"{nats}{published_mean(worst, 'entropy'):.2f}." in TEXT
    most = [GAMES[i] for i in np.argsort(small - ours)[:3]]
    assert "it gains most in {}, {} and {}, and loses".format(*most) in TEXT
    behind = [game for game, less in zip(GAMES, ours < small - 0.02, strict=True) if less]
    assert f"and loses by more than 0.02 in {' and '.join(behind)}" in TEXT
    readme = "the mean over the games is {:.2f} where the small batch with 0.999 has {:.2f} (returns of training)"
    assert readme.format(ours.mean(), small.mean()) in TEXT


def test_the_scale_of_rewards_is_as_the_page_says():
    """By which factor a scaling at 0.999 makes them smaller than one at 0.99, and the values' error by its square."""
    factor = {
        row["game"]: float(row["deviation_at_0.999"]) / float(row["deviation_at_0.99"])
        for row in rows("reward_scale.csv")
    }
    assert set(factor) == set(GAMES)
    assert {row["frames"] for row in rows("reward_scale.csv")} == {"128000"}
    changed = sorted((game for game in GAMES if factor[game] != 1), key=lambda game: -factor[game])
    same = [game for game in GAMES if factor[game] == 1]
    assert f"| {' | '.join(changed)} | the other {COUNTS[len(same)]} |" in PAGE
    assert f"| {' | '.join(f'{factor[game]:.2f}' for game in changed)} | 1.00 |" in PAGE
    assert f"the other seven, {', '.join(same[:-1])} and {same[-1]}, rewards come at an episode's end only" in TEXT
    fruitbot = f"in fruitbot they are {factor['fruitbot']:.2f} times smaller"
    assert f"{fruitbot} and the values' error counts {factor['fruitbot'] ** 2:.2f} times less" in TEXT


def test_what_differs_between_the_methods_is_as_the_page_says():
    """The settings of the suite's runs, of OpenAI's PPO, and of our PPO as it ran, whose rewards were scaled with gamma."""
    one, ppo = (resolve(Config(env="procgen:maze", method=method)) for method in ("one-epoch", "ppo"))
    assert (one.num_envs, one.horizon) == (ppo.num_envs, ppo.horizon) == (64, 256)
    assert f"| passes over 64 games × 256 steps | {one.epochs} | {ppo.epochs} | {ppo.epochs} |" in PAGE
    steps = [f"{s.epochs * s.minibatches}, {s.num_envs * s.horizon // s.minibatches:,}" for s in (one, ppo)]
    assert f"| steps of Adam per batch, frames each | {steps[0]} | {steps[1]} | {steps[1]} |" in PAGE
    assert f"| γ | {one.gamma} | {ppo.gamma} | {ppo.gamma} |" in PAGE
    assert f"| discount of the rewards' scale | {one.reward_gamma} | {ppo.reward_gamma} | {ppo.gamma} |" in PAGE
    assert one.value_clip == 0
    assert f"| values' clip | none | {ppo.value_clip} | {ppo.value_clip}, in `ppo-1m` none |" in PAGE
    assert steps[1].startswith("24, ")


def test_what_others_found_of_one_pass_is_told_with_their_numbers():
    assert "0.208 of the mean normalised return after 10 million frames of the hard mode, 0.045 with six passes" in TEXT
    assert "six passes, PPO 0.123 (its published runs); DAAC (Raileanu & Fergus 2021)" in TEXT
