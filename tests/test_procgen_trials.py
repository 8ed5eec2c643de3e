"""What was tried on Procgen, as the page says, against the committed trials."""

import numpy as np

from procgen_results import (
    COUNTS,
    PAGE,
    SMALL_BATCH,
    TEXT,
    last_return_in_training,
    numbers,
    ppo_in_training,
    published_returns,
    rows,
    suite_in_training,
    with_interval,
)
from rl_report.published import ppo_return
from rl_settings.procgen_games import GAMES, normalised_return
from rl_settings.recipes import recipe_for


def test_width_and_passes_are_as_readme_says():
    """Fruitbot: the single pass at both widths, PPO at half the width, published PPO."""
    ppo, vpg, full = (
        next(numbers(row) for row in rows(f"{folder}/runs.csv") if row["env"] == "procgen:fruitbot")
        for folder in ("ppo-1m", "suite-1m", "full-1m")
    )
    shown = [
        f"{run['eval_return_mean']:.2f} [{run['eval_return_lo95']:.2f}, {run['eval_return_hi95']:.2f}]"
        for run in (ppo, vpg, full)
    ]
    curves = [row for row in rows("control.csv") if row["game"] == "fruitbot"]
    ends: dict[str, list[float]] = {}
    for row in curves:
        if 950_000 < int(row["frames"]) <= 1_000_000:
            ends.setdefault(row["method"], []).append(float(row["return"]))
    published = published_returns("fruitbot")
    (three,), (one,), (wide, again) = (
        ends[method] for method in ("PPO, half width", "one epoch, half width", "one epoch, full width")
    )
    assert f"they return {three:.2f} and the single pass {one:.2f}, at" in TEXT
    assert f"at {ppo['steps_per_second']:.0f} and {vpg['steps_per_second']:.0f} frames per second" in TEXT
    assert f"over 100 episodes at the end, {shown[0]} and {shown[1]}" in TEXT
    assert f"returns {wide:.2f}, at {full['steps_per_second']:.0f} frames per second" in TEXT
    assert f"over 100 episodes {shown[2]}, {full['test_return_mean']:.2f} on all levels" in TEXT
    assert len(published) == 3
    assert f"that width are at {min(published):.1f} to {max(published):.1f} after 999,424 frames" in TEXT
    (suite,) = (
        float(row["eval_return_mean"]) for row in rows(f"{SMALL_BATCH}/runs.csv") if row["env"] == "procgen:fruitbot"
    )
    assert f"the same on a GPU, {again:.2f} and {suite:.2f}" in TEXT
    assert min(wide, again) > max(published)
    assert f"a game took {full['train_seconds'] / 60:.0f} minutes" in TEXT
    frames = 50_000 * round(full["steps_per_second"] / vpg["steps_per_second"] * 1e6 / 50_000)
    (then,) = (
        float(row["return"])
        for row in curves
        if row["method"] == "one epoch, full width" and row["seed"] == "0" and row["frames"] == str(frames)
    )
    assert f"it makes about {frames:,}, and is at {then:.2f}" in TEXT
    assert f"(sampled, {full['eval_success']:.0%} are; the run on two cores" in TEXT


def test_the_bigger_batch_is_as_readme_says():
    """Trials of a pass over 64 x 256 frames beside published PPO, and what the small batch does in coinrun."""
    trials = {(r["game"], r["variant"], int(r["frames"])): r for r in rows("tuning.csv")}
    big, small, games = "64 x 256 in 64", "64 x 64 in 16", ("fruitbot", "coinrun", "starpilot")
    ends = ", ".join(f"{game} {float(trials[game, big, 1_000_000]['return']):.2f}" for game in games)
    published = ", ".join(f"{ppo_return(f'procgen:{game}', 'train', 1e6):.2f}" for game in games)
    assert f"{ends}; OpenAI's PPO, three passes at twice the width: {published}." in TEXT
    named = [f"{float(trials[game, big, 1_000_000]['return']):.1f}" for game in games]
    theirs = [f"{ppo_return(f'procgen:{game}', 'train', 1e6):.1f}" for game in games]
    short = "fruitbot, coinrun and starpilot return {}, {} and {}, published PPO {}, {} and {}"
    assert short.format(*named, *theirs) in TEXT
    (small_end,) = (
        float(row["return"])
        for row in rows("control.csv")
        if (row["game"], row["method"], row["frames"]) == ("fruitbot", "one epoch, half width", "1000000")
    )
    assert f"In fruitbot the small batch, seed 0, has {small_end:.2f}." in TEXT
    half, wide = (
        {int(r["frames"]): r for r in rows("control.csv") if (r["game"], r["method"]) == ("coinrun", method)}
        for method in ("one epoch, half width", "one epoch, full width")
    )
    at = max(half)
    returns = [float(row["return"]) for row in (half[at], trials["coinrun", big, at])]
    assert f"has {returns[0]:.2f} in coinrun after {at:,} frames, where the big one has {returns[1]:.2f}" in TEXT
    wholly = {
        int(row["frames"]): float(row["return"])
        for row in rows("tuning.csv")
        if row["game"] == "coinrun" and row["variant"] == big
    }
    falls = [(float(half[650_000]["return"]), float(half[800_000]["return"])), (wholly[600_000], wholly[800_000])]
    assert "the small one from {:.2f} after 650,000 frames to {:.2f} after 800,000".format(*falls[0]) in TEXT
    assert "the big one from {:.2f} after 600,000 to {:.2f} after 800,000".format(*falls[1]) in TEXT
    before, after = wide[650_000], wide[850_000]
    returns, entropies = ([float(row[name]) for row in (before, after)] for name in ("return", "entropy"))
    assert "falls from {:.2f} to {:.2f} between 650,000 frames and 850,000".format(*returns) in TEXT
    assert "its entropy rises from {:.2f} to {:.2f} nats and fewer".format(*entropies) in TEXT
    assert f"episodes end in 50,000 frames ({before['episodes']} and {after['episodes']})" in TEXT
    kl = [
        np.mean([float(trials["coinrun", variant, 50_000 * i]["kl"]) for i in range(1, 6)]) for variant in (big, small)
    ]
    assert f"KL divergence {kl[0]:.4f} and {kl[1]:.4f}, coinrun's first 250,000 frames" in TEXT


def test_the_bigger_batch_at_the_papers_width_is_as_readme_says():
    wide = {
        row["game"]: row
        for row in rows("tuning.csv")
        if row["variant"] == "64 x 256 in 64, impala-glorot" and row["frames"] == "1000000"
    }
    returns = [float(wide[game]["return"]) for game in ("fruitbot", "coinrun")]
    rates = [wide[game]["frames_per_second"] for game in ("fruitbot", "coinrun")]
    assert "it returns {:.2f} in fruitbot and {:.2f} in coinrun".format(*returns) in TEXT
    assert "at {} and {} frames per second, one thread each".format(*rates) in TEXT
    assert "Glorot's weights fruitbot and coinrun return {:.1f} and {:.1f}.".format(*returns) in TEXT


def test_the_bigger_batch_on_the_reported_seed_is_as_the_page_says():
    """The table of returns in training, and how ninja is unlearnt."""
    folder, envs = "suite-64-full-1m", [f"procgen:{game}" for game in ("coinrun", "fruitbot", "starpilot", "ninja")]
    assert [row["env"] for row in rows(f"{folder}/runs.csv")] == envs
    assert {(row["status"], row["steps"]) for row in rows(f"{folder}/runs.csv")} == {("ok", "1015808")}
    returns = np.array(
        [
            [last_return_in_training(name, env) for name in (folder, SMALL_BATCH)]
            + [ppo_return(env, "train", 1e6) or 0.0]
            for env in envs
        ]
    )
    for env, row in zip(envs, returns, strict=True):
        assert "| {} | {:.2f} | {:.2f} | {:.2f} |".format(env.partition(":")[2], *row) in PAGE
    means = np.mean([[normalised_return(env, x) for x in row] for env, row in zip(envs, returns, strict=True)], axis=0)
    assert "| normalised, mean of 4 | {:.3f} | {:.3f} | {:.3f} |".format(*means) in PAGE
    assert means[0] < means[1]
    assert returns[0, 0] > returns[0, 1]
    assert returns[1, 0] < returns[1, 1]
    assert "no gain over the small batch in the four games that have run: better in coinrun, worse in fruitbot" in TEXT
    ninja = {int(row["frames"]): row for row in rows(f"{folder}/training.csv") if row["env"] == "procgen:ninja"}
    before, after = ninja[350_000], ninja[900_000]
    fall = [float(row[name]) for name in ("return", "entropy") for row in (before, after)]
    assert "falls from {:.2f} to {:.2f}, the entropy rises from {:.2f} to {:.2f} nats".format(*fall) in TEXT
    assert f"and {after['episodes']} episodes end in 50,000 frames, before {before['episodes']}." in TEXT


def test_what_three_passes_cost_is_as_readme_says():
    """Frames per second by turns, and published PPO after as long as the suite took for its million frames."""
    said, ratios, medians = {}, {}, {}
    for encoder in ("impala", "impala-half"):
        turns = [numbers(row) for row in rows("passes.csv") if row["encoder"] == encoder]
        assert len(turns) == 5
        rates = np.array([[turn[name] for name in ("one pass in 16", "one pass in 64", "ppo")] for turn in turns])
        ratios[encoder] = np.median(rates[:, :2] / rates[:, 2:], 0)
        medians[encoder] = np.median(rates[:, 1])  # in 64
        said[encoder] = [f"{rate:.0f}" for rate in np.median(rates, 0)], "{:.2f} and {:.2f}".format(*ratios[encoder])
    (small, big, ppo), ratio = said["impala"]
    assert f"makes {small} frames per second in 16 minibatches, {big} in 64, and PPO {ppo}, a ratio of {ratio}" in TEXT
    (small, big, ppo), ratio = said["impala-half"]
    assert f"at half the width {small}, {big} and {ppo}, {ratio}." in TEXT
    faster = medians["impala-half"] / medians["impala"]
    assert f"half the width, {faster:.1f} times as fast" in TEXT
    frames = 1_015_808 / ratios["impala"][1]
    ours = suite_in_training()
    theirs = ppo_in_training(frames)
    then = f"PPO would make about {round(frames, -4):,.0f}. Published PPO is then at {with_interval(theirs)}"
    assert then in TEXT
    above = f"a difference of {with_interval(ours - theirs)}, {int((ours > theirs).sum())} of 16 games above"
    assert f"frames of training, at {with_interval(ours)}: {above}" in TEXT
    short = f"costs PPO's three passes {ratios['impala'][1]:.1f} times as much training on a CPU"
    after = f"about {round(frames, -4):,.0f} frames, published PPO is at {theirs.mean():.3f}"
    assert f"{short}, and after as long, {after}" in TEXT
    assert f"the single pass above it by {with_interval(ours - theirs)} (returns of training)" in TEXT


def test_the_bigger_batch_in_the_suite_is_as_readme_says():
    raw = {
        name: {row["env"]: float(row["eval_return_mean"]) for row in rows(f"{name}/runs.csv")}
        for name in ("suite-64-1m", "suite-1m", "suite-full-1m")
    }
    envs = list(raw["suite-64-1m"])
    assert envs == [f"procgen:{game}" for game in GAMES[: len(envs)]]
    big, small, wide = (np.array([normalised_return(env, each[env]) for env in envs]) for each in raw.values())
    ppo = np.array([normalised_return(env, ppo_return(env, "train", 1_015_808) or 0.0) for env in envs])
    assert f"in the first {COUNTS[len(envs)]} games by alphabet" in TEXT
    assert (
        f"{big.mean():.3f} in the mean normalised return, where the small batch at the same width has {small.mean():.3f}"
        in TEXT
    )
    assert f"a gain of {with_interval(big - small)}, interval over games, {COUNTS[int((big > small).sum())]} of" in TEXT
    ends = [f"{raw[name]['procgen:fruitbot']:.2f}" for name in ("suite-64-1m", "suite-1m")]
    assert f"most of it fruitbot's, {ends[0]} for {ends[1]}" in TEXT
    assert f"PPO is at {ppo.mean():.3f} in these games, the small batch at twice the width at {wide.mean():.3f}" in TEXT


def test_the_first_weights_at_the_papers_width_are_as_readme_says():
    curves: dict[str, list[dict[str, str]]] = {}
    for row in rows("control.csv"):
        if row["game"] == "coinrun":
            curves.setdefault(row["method"], []).append(row)
    ours = curves["PPO, full width, Glorot's weights"][-1]
    published = published_returns("coinrun")
    stopped = curves["PPO, full width, orthogonal weights"]
    seen = [(int(row["episodes"]), float(row["return"])) for row in stopped if int(row["frames"]) > 50_000]
    assert round(sum(n * r for n, r in seen) / 10) == 1  # a level completed returns 10
    assert f"it completes one level in {sum(n for n, _ in seen)} episodes" in TEXT
    assert f"it returns {float(ours['return']):.2f} over the last 50,000 of {int(ours['frames']):,} frames" in TEXT
    assert f"its entropy at {float(ours['entropy']):.2f} nats" in TEXT
    assert f"return {min(published):.1f} to {max(published):.1f} after 999,424" in TEXT


def test_twice_the_rate_is_as_readme_says():
    once, twice = (
        {row["env"]: float(row["eval_return_mean"]) for row in rows(f"{folder}/runs.csv")}
        for folder in ("suite-250k", "suite-250k-lr1e-3")
    )
    assert list(twice) == sorted(once)[:8]
    gain = np.array([normalised_return(env, twice[env]) - normalised_return(env, once[env]) for env in twice])
    assert f"lower in {COUNTS[int((gain < 0).sum())]}: a difference of {with_interval(gain)}" in TEXT
    assert "fruitbot at {:.2f} against {:.2f}".format(*(run["procgen:fruitbot"] for run in (twice, once))) in TEXT
    half = {row["frames"]: float(row["return"]) for row in rows("tuning.csv") if row["variant"].endswith("lr 2.5e-4")}
    assert f"in coinrun, to {half['250000']:.2f} after 250,000 frames, and falls back, to {half['450000']:.2f}" in TEXT


def test_what_was_tried_is_as_readme_says():
    """The last 50,000 of 250,000 frames, per variant: return, entropy, KL divergence, explained variance."""
    last, games = [row for row in rows("tuning.csv") if row["frames"] == "250000"], ("fruitbot", "starpilot")
    for variant in {row["variant"] for row in last if row["game"] in games}:
        found = {row["game"]: row for row in last if row["variant"] == variant}
        cells = [variant]
        for name, how in (("return", ".2f"), ("entropy", ".2f"), ("kl", ".1g"), ("explained_variance", ".2f")):
            cells += [format(float(found[game][name]), how) if game in found else "" for game in games]
        assert f"| {' | '.join(cells)} |".replace("|  |", "| |") in PAGE.replace("|  |", "| |")
    strict, several = (
        [
            f"{float(row['return']):.1f}"
            for game in games
            for row in last
            if (row["game"], row["variant"]) == (game, variant)
        ]
        for variant in ("32 x 8", "64 x 64 in 16")
    )
    assert "fruitbot and starpilot returned {} and {} in the trials".format(*strict) in TEXT
    assert "where 16 minibatches returned {} and {}.".format(*several) in TEXT
    longer = {
        (row["game"], row["variant"]): float(row["return"]) for row in rows("tuning.csv") if row["frames"] == "500000"
    }
    twice = (longer[game, "64 x 64 in 16, lr 1e-3"] for game in games)
    same = longer["fruitbot", "64 x 64 in 16"]
    assert (
        "fruitbot {:.2f} and starpilot {:.2f}".format(*twice)
        + f" after 500,000 frames, where 5e-4 has {same:.2f} in fruit"
        in TEXT
    )
    normed = (longer[game, "64 x 64 in 16, normalised features"] for game in ("coinrun", "fruitbot"))
    after = "After 500,000 they are at {:.2f} in coinrun and {:.2f} in fruitbot, where the net without is at {:.2f}"
    assert after.format(*normed, same) in TEXT
    found = {(r["game"], r["variant"], r["frames"]): float(r["return"]) for r in rows("tuning.csv")}
    glorot = "64 x 64 in 16, Glorot"
    half, whole = (found["fruitbot", glorot, frames] for frames in ("500000", "1000000"))
    coinrun = " and ".join(f"{found['coinrun', variant, '250000']:.2f}" for variant in (glorot, "64 x 64 in 16"))
    assert (
        f"fruitbot returns {half:.2f} after 500,000 frames of seed 1000 from Glorot's weights, {same:.2f} from" in TEXT
    )
    assert f"and coinrun {coinrun} after 250,000. After a million Glorot's fruitbot is at {whole:.2f}" in TEXT


def test_the_features_are_as_readme_says():
    runs = [numbers(row) for row in rows("features.csv")]
    assert len(runs) == len(GAMES)
    column = {name: np.array([run[name] for run in runs]) for name in ("rank_before", "rank", "dead_before", "dead")}
    fallen = column["rank"] < column["rank_before"]
    middle = {name: float(np.median(values)) for name, values in column.items()}
    assert f"in {COUNTS[int(fallen.sum())]} of the 16 games (median {middle['rank_before']:.0f} before" in TEXT
    least = min(runs, key=lambda run: run["rank"])
    assert (
        f", {middle['rank']:.0f} after; least {least['game']}, {least['rank_before']:.0f} and {least['rank']:.0f})"
        in TEXT
    )
    assert (
        f"a median of {middle['dead']:.0%} of them are 0 on all of 4,096 observations ({middle['dead_before']:.0%}"
        in TEXT
    )


def test_the_trials_of_features_and_values_are_as_readme_says():
    last = {(r["game"], r["variant"]): float(r["return"]) for r in rows("tuning.csv") if r["frames"] == "250000"}
    plain, normed, light = (
        {game: value for (game, variant), value in last.items() if variant == f"64 x 64 in 16{more}"}
        for more in ("", ", normalised features", ", value weight 0.05")
    )
    ends = ", ".join(f"{game} {normed[game]:.2f} ({plain[game]:.2f})" for game in ("coinrun", "climber", "starpilot"))
    assert f"{ends}, fruitbot {normed['fruitbot']:.2f} ({plain['fruitbot']:.2f})" in TEXT
    ends = " and ".join(f"{plain[game]:.2f}" for game in ("coinrun", "climber"))
    assert (
        f"coinrun ends at {light['coinrun']:.2f} and climber at {light['climber']:.2f}, with its usual weight" in TEXT
    )
    assert f"with its usual weight at {ends}, after 250,000" in TEXT
    games = ("ninja", "climber", "leaper")
    ends = {(r["game"], r["variant"], r["seed"]): r for r in rows("tuning.csv") if r["frames"] == "500000"}
    variants = [f"64 x 256 in 64{more}" for more in (", value weight 0.05", "")]
    light, plain = ({game: ends[game, variant, "1000"] for game in games} for variant in variants)
    less, usual = ([float(found[game]["return"]) for game in games] for found in (light, plain))
    said = "ninja at {:.2f}, climber at {:.2f}, leaper at {:.2f}, with the usual weight at {:.2f}, {:.2f}, {:.2f}."
    assert said.format(*less, *usual) in TEXT
    entropies = (float(found["ninja"]["entropy"]) for found in (light, plain))
    assert "takes the entropy to {:.2f} nats, the usual one to {:.2f}, but not so".format(*entropies) in TEXT
    second = (float(ends["ninja", variant, "1001"][name]) for variant in variants for name in ("return", "entropy"))
    assert "second seed, 1001: {:.2f} at {:.2f} nats, and {:.2f} at {:.2f}.".format(*second) in TEXT
    explained = (float(found["climber"]["explained_variance"]) for found in (light, plain))
    assert "leaves an explained variance of {:.2f}, the usual one {:.2f}.".format(*explained) in TEXT


def test_the_noise_of_the_values_is_as_readme_says():
    """Standard deviations: the value function's error counts half in the loss."""
    more = {
        row["game"]: recipe_for("procgen:coinrun", "one-epoch", 16)["value_weight"]
        * float(np.sqrt(float(row["value_trace"]) / float(row["policy_trace"])))
        for row in rows("noise.csv")
    }
    coinrun, climber, caveflyer = (round(more.pop(game)) for game in ("coinrun", "climber", "caveflyer"))
    assert f"{coinrun} times the policy's in coinrun, {climber} in climber, {caveflyer} in caveflyer and " in TEXT
    assert f" in caveflyer and {min(more.values()):.1f} to {max(more.values()):.1f} in the other five" in TEXT
    assert len(more) == 5


def test_the_noise_is_as_readme_says():
    def two_digits(cell: str) -> str:
        return f"{float(f'{float(cell):.2g}'):,.0f}"

    games = rows("noise.csv")
    known = sorted((row for row in games if row["policy_scale"]), key=lambda row: float(row["policy_scale"]))
    lost = [row for row in games if not row["policy_scale"]]
    assert len(known) + len(lost) >= 8
    low = {row["game"]: two_digits(row["policy_scale_lo95"]) for row in games}
    cells = [f"{row['game']} {two_digits(row['policy_scale'])} [{low[row['game']]}]" for row in known]
    assert ", ".join(cells) in TEXT
    assert f"{' and '.join(r['game'] for r in lost)} above {' and '.join(low[r['game']] for r in lost)}" in TEXT
