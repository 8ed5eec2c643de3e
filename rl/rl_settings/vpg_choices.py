"""What there is to choose from, for flags and for the code behind them."""

from typing import Literal

Method = Literal["strict", "one-epoch", "ppo"]
Algo = Literal["vpg", "ppo"]  # the methods' older names: vpg was strict, or with several minibatches one-epoch
Baseline = Literal["none", "reward-to-go", "value", "gae"]
Encoder = Literal["impala", "impala-half", "impala-norm", "impala-half-norm", "impala-glorot", "nature"]
Critic = Literal["separate", "shared", "detached"]

LOG_STD = -0.5  # of Box actions at the start, in units of half the space's range (Spinning Up's value)
