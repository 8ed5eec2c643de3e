"""The three methods: which one flags ask for, and what each is called in headlines, tables, legends and on the pages.

strict       one step of the policy per batch: REINFORCE with a baseline, GAE where no other is named
one-epoch    one pass over the batch in several minibatches, with PPO's clipped ratio
ppo          several such passes
"""

from common.errors import BadInput
from rl_settings.vpg_choices import Algo, Method

# What multiplies grad log pi, where that is not GAE.
MULTIPLIERS = {"none": "whole return", "reward-to-go": "reward-to-go", "value": "reward-to-go minus value"}
OLDER: dict[Algo, tuple[Method, ...]] = {"vpg": ("strict", "one-epoch"), "ppo": ("ppo",)}
PPO_MINIBATCHES = 8  # every recipe's, which PPO's name need not tell


def method_name(
    method: Method,
    minibatches: int = 0,
    baseline: str = "gae",
    encoder: str = "",
    gamma: float = 0.0,
    horizon: int = 0,
) -> str:
    """`strict policy gradient`, `one epoch of PPO's clip, 64 minibatches`, or `PPO`.

    With what stands in GAE's place, and the network, discount and steps of an environment where they are named: empty and 0
    stand for the recipe's. Several minibatches need PPO's clipped ratio: after the first of them the policy is no longer the
    one that collected the batch.
    """
    parts = [{"strict": "strict policy gradient", "one-epoch": "one epoch of PPO's clip", "ppo": "PPO"}[method]]
    if method == "ppo" and minibatches == 1:
        parts.append("whole batches")
    elif minibatches > 1 and (method, minibatches) != ("ppo", PPO_MINIBATCHES):
        parts.append(f"{minibatches} minibatches")
    parts += [] if baseline == "gae" else [MULTIPLIERS[baseline]]
    parts += [f"horizon {horizon}"] if horizon else []
    parts += [f"γ = {gamma:g}"] if gamma else []
    return ", ".join([*parts, *([encoder] if encoder else [])])


def method_of_older(algo: str, minibatches: int, epochs: int | None = None) -> Method:
    """What an older name stood for: `vpg` with so many minibatches, or `ppo`, which with a single epoch is no PPO."""
    if algo == "ppo" and epochs != 1:
        return "ppo"
    return "strict" if minibatches <= 1 else "one-epoch"


def method_asked(method: Method | None, algo: Algo | None, minibatches: int | None, epochs: int | None) -> Method:
    """The method that flags ask for, strict where they name none; BadInput where they contradict each other."""
    parts = minibatches or (PPO_MINIBATCHES if algo == "ppo" else 1)
    found = method or method_of_older(algo or "vpg", parts, epochs)
    if method is None and algo == "ppo":
        return found
    if algo is not None and found not in OLDER[algo]:
        raise BadInput(
            f"--method {found} and --algo {algo}, its older name, contradict each other: give --method alone"
        )
    if found == "strict" and minibatches is not None and minibatches > 1:
        raise BadInput(
            f"--minibatches {minibatches} contradicts --method strict, which takes one step per batch: "
            "several are --method one-epoch"
        )
    if found == "one-epoch" and minibatches is not None and minibatches < 2:
        raise BadInput(f"--minibatches {minibatches} contradicts --method one-epoch: one step is --method strict")
    if found != "ppo" and epochs is not None and epochs > 1:
        raise BadInput(
            f"--epochs {epochs} contradicts --method {found}, which takes one pass over a batch: see --method ppo"
        )
    if found == "ppo" and epochs == 1:
        raise BadInput("--epochs 1 contradicts --method ppo, which takes several passes: see --method one-epoch")
    return found
