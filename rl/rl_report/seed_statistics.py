"""Statistics over seeds and over games, with bootstrap intervals."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np

Games = Sequence[np.ndarray]  # the scores (runs,) of every game; games may have different numbers of runs

BOOTSTRAP = 2000


def interquartile_mean(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Mean of the middle half (Agarwal et al. 2021): the lowest and the highest floor(n / 4) values are left out."""
    n = values.shape[axis]
    cut = n // 4
    return np.sort(values, axis).take(range(cut, n - cut), axis).mean(axis)


def curve_interval(returns: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """IQM over seeds and its 95% percentile-bootstrap interval: (seeds, points) -> three (points,)."""
    random = np.random.default_rng(seed)
    draws = returns[random.integers(len(returns), size=(BOOTSTRAP, len(returns)))]  # (draws, seeds, points)
    low, high = np.quantile(interquartile_mean(draws, 1), (0.025, 0.975), axis=0)
    return interquartile_mean(returns), low, high


def solved_at(curve: list[dict[str, float]], threshold: float) -> dict[str, float] | None:
    """The first of two consecutive evaluations above the threshold; None where there is none."""
    for now, then in itertools.pairwise(curve):
        if now["eval_return"] >= threshold and then["eval_return"] >= threshold:
            return now
    return None


def mean_interval(values: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Mean and its 95% percentile-bootstrap interval over games."""
    random = np.random.default_rng(seed)
    means = values[random.integers(len(values), size=(BOOTSTRAP, len(values)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(values.mean()), float(low), float(high)


def iqm_over_games(games: Games) -> float:
    """The interquartile mean over the runs of all games together (Agarwal et al. 2021, section 4.3)."""
    return float(interquartile_mean(np.concatenate(games)))


def probability_of_improvement(ours: Games, theirs: Games) -> float:
    """That a run of ours is above one of theirs in the same game, a draw counting half, in the mean over games.

    Agarwal et al. 2021, section 4.3: the Mann-Whitney statistic of every game.
    """
    return float(np.mean([_share_above(*both) for both in zip(ours, theirs, strict=True)]))


def _share_above(ours: np.ndarray, theirs: np.ndarray) -> float:
    difference = ours[:, None] - theirs
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def stratified_interval(
    statistic: Callable[..., float], *methods: Games, over_games: bool = False, seed: int = 0
) -> tuple[float, float, float]:
    """A statistic of one method's or of several methods' scores, and its 95% percentile-bootstrap interval.

    Stratified: runs are drawn anew within every game (Agarwal et al. 2021, section 4.2), so that the games are those that
    were played. With `over_games` they are drawn anew first, the same for all methods: of other games such as these.
    """
    random = np.random.default_rng(seed)
    count, found = len(methods[0]), []
    for _ in range(BOOTSTRAP):
        chosen = random.integers(count, size=count) if over_games else range(count)
        drawn = [
            [game[random.integers(len(game), size=len(game))] for game in (games[i] for i in chosen)]
            for games in methods
        ]
        found.append(statistic(*drawn))
    low, high = np.quantile(found, (0.025, 0.975))
    return float(statistic(*methods)), float(low), float(high)
