"""Procgen's 16 games (Cobbe et al. 2020): ids, `procgen:coinrun` and `procgen:coinrun-hard`, and ranges of their returns."""

from common.errors import BadInput

PREFIX = "procgen:"
# Returns that count as 0 and 1 in the paper's normalised return (Cobbe et al. 2020, appendix C), easy and hard. The lower
# one is what a policy reaches that sees nothing; a random one is often below it.
RETURN_RANGES: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "bigfish": ((1, 40), (0, 40)),
    "bossfight": ((0.5, 13), (0.5, 13)),
    "caveflyer": ((3.5, 12), (2, 13.4)),
    "chaser": ((0.5, 13), (0.5, 14.2)),
    "climber": ((2, 12.6), (1, 12.6)),
    "coinrun": ((5, 10), (5, 10)),
    "dodgeball": ((1.5, 19), (1.5, 19)),
    "fruitbot": ((-1.5, 32.4), (-0.5, 27.2)),
    "heist": ((3.5, 10), (2, 10)),
    "jumper": ((1, 10), (1, 10)),
    "leaper": ((1.5, 10), (1.5, 10)),
    "maze": ((5, 10), (4, 10)),
    "miner": ((1.5, 13), (1.5, 20)),
    "ninja": ((3.5, 10), (2, 10)),
    "plunder": ((4.5, 30), (3, 30)),
    "starpilot": ((2.5, 64), (1.5, 35)),
}
GAMES = tuple(RETURN_RANGES)
MODES = ("easy", "hard")
TRAIN_LEVELS = {"easy": 200, "hard": 500}  # the paper's
TIME_LIMITS = {"bigfish": 6000, "bossfight": 4000, "plunder": 4000, "maze": 500, "leaper": 500}  # others: 1000 steps


def is_procgen(env_id: str) -> bool:
    """Whether an id names one of these environments."""
    return env_id.startswith(PREFIX)


def game_and_mode(env_id: str) -> tuple[str, str]:
    """`procgen:coinrun-hard` -> ("coinrun", "hard"); BadInput for another game or mode."""
    game, _, mode = env_id.removeprefix(PREFIX).partition("-")
    mode = mode or "easy"
    if game not in GAMES:
        raise BadInput(f"--env {env_id}: Procgen's games are {', '.join(GAMES)}")
    if mode not in MODES:
        raise BadInput(f"--env {env_id}: the mode is easy (nothing appended) or hard (-hard)")
    return game, mode


def normalised_return(env_id: str, value: float) -> float:
    """(R - R_min) / (R_max - R_min), Cobbe et al. 2020, section 2.4."""
    game, mode = game_and_mode(env_id)
    low, high = RETURN_RANGES[game][MODES.index(mode)]
    return (value - low) / (high - low)
