"""What a method is called: in headlines, tables, legends and on the pages."""

# What multiplies grad log pi, where that is not GAE.
MULTIPLIERS = {"none": "whole return", "reward-to-go": "reward-to-go", "value": "reward-to-go minus value"}


def method_name(algo: str, minibatches: int = 1, baseline: str = "gae", encoder: str = "") -> str:
    """`strict policy gradient` (one step per batch), `one epoch of PPO's clip, 64 minibatches`, or `PPO`.

    With what stands in GAE's place, and the network for images where one is named. Several minibatches need PPO's clipped
    ratio: after the first of them the policy is no longer the one that collected the batch.
    """
    if algo == "ppo":
        parts = ["PPO"]
    elif minibatches > 1:
        parts = ["one epoch of PPO's clip", f"{minibatches} minibatches"]
    else:
        parts = ["strict policy gradient"]
    return ", ".join([*parts, *([] if baseline == "gae" else [MULTIPLIERS[baseline]]), *([encoder] if encoder else [])])
