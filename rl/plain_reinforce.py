"""Plain policy gradient, from top to bottom as the papers have it: REINFORCE with a value baseline and GAE.

    python rl/plain_reinforce.py          CartPole-v1: 500 of 500 points with each of 5 seeds, 15 s on one core

Sutton et al. 1999, "Policy Gradient Methods for Reinforcement Learning with Function Approximation". Schulman et al. 2016,
"High-Dimensional Continuous Control Using Generalized Advantage Estimation", here GAE. The loop, in `train`, is that of
Spinning Up's VPG; vpg.py runs it faster, and on more: from equal weights and data both get equal advantages and new weights.
Axes: T steps, N environments, O numbers in an observation, A actions to choose from.
To try (means of 3 seeds): LAM = 0 gives 252 points; VALUE_STEPS = 0 gives 455; a clock's end taken for a real one in `gae`
leaves 500 points, but values that stay off by 12.
"""

import argparse
from typing import NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.wrappers import RecordEpisodeStatistics
from torch import Tensor, nn

N, T = 8, 256  # steps of one environment resemble each other, so a batch takes fewer steps of several
GAMMA, LAM = 0.99, 0.97  # a discount cuts the noise of far rewards; LAM = 0 trusts the values, LAM = 1 the returns
POLICY_LR, VALUE_LR, VALUE_STEPS = 5e-3, 3e-3, 40  # the policy's rate is high: it makes one step a batch


class Batch(NamedTuple):
    obs: Tensor  # (T, N, O)
    actions: Tensor  # (T, N)
    rewards: Tensor  # (T, N)
    next_obs: Tensor  # (T, N, O): at the end of an episode its own last observation, not the first of the next one
    terminated: Tensor  # (T, N) bool: the task is over, there is no future
    truncated: Tensor  # (T, N) bool: a clock ran out, there would have been a future


def mlp(inputs: int, outputs: int) -> nn.Sequential:
    """One for the policy and one for the values: in a common one, large errors of the values would drown the policy's."""
    return nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs))


@torch.no_grad()
def collect(envs: list, obs: Tensor, policy: nn.Module, random: torch.Generator, steps: int) -> tuple[Batch, Tensor]:
    """A batch, and the (N, O) to go on from in the next: begun anew in each, no episode would be longer than T."""
    rows = []
    for _ in range(steps):
        actions = torch.multinomial(policy(obs).softmax(-1), 1, generator=random).squeeze(-1)  # (N, A) -> (N,)
        results = [env.step(action)[:4] for env, action in zip(envs, actions.tolist(), strict=True)]
        next_obs, rewards, terminated, truncated = (torch.tensor(np.array(x)) for x in zip(*results, strict=True))
        rows.append((obs, actions, rewards.float(), next_obs.float(), terminated, truncated))
        obs = next_obs.float().clone()  # a copy: next_obs keeps the last observation of an episode that ends
        for i in (terminated | truncated).nonzero().flatten().tolist():
            obs[i] = torch.tensor(envs[i].reset()[0])
    return Batch(*(torch.stack(column) for column in zip(*rows, strict=True))), obs


def gae(batch: Batch, values: Tensor, next_values: Tensor, gamma: float, lam: float) -> Tensor:
    """A_t = sum_l (gamma lam)^l delta_{t+l}, delta_t = r_t + gamma V(s_{t+1}) - V(s_t): GAE eqs. 16 and 11; all (T, N)."""
    # Only where the task is over nothing follows. Where a clock or the batch cut it off, V stands for what would have.
    delta = batch.rewards + gamma * torch.where(batch.terminated, 0.0, next_values) - values
    # But either way the sum ends with the episode: the next row is another's, which these actions have not brought about.
    ended = batch.terminated | batch.truncated
    advantages, following = torch.zeros_like(delta), torch.zeros_like(delta[0])
    for t in reversed(range(len(delta))):  # A_t = delta_t + gamma lam A_{t+1}
        following = advantages[t] = delta[t] + gamma * lam * torch.where(ended[t], 0.0, following)
    return advantages


@torch.no_grad()
def estimate(batch: Batch, value: nn.Module) -> tuple[Tensor, Tensor]:
    """Advantages, and the value function's targets V + A (GAE, footnote 2; Spinning Up takes those of lam = 1): (T, N)."""
    values, next_values = value(batch.obs).squeeze(-1), value(batch.next_obs).squeeze(-1)  # (T, N, 1) -> (T, N)
    advantages = gae(batch, values, next_values, GAMMA, LAM)
    return advantages, values + advantages


def normalised(advantages: Tensor) -> Tensor:
    """(A - mean) / std, in neither paper: where the values lag behind the returns, every action would look good."""
    return (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8)


def policy_loss(logits: Tensor, actions: Tensor, advantages: Tensor) -> Tensor:
    """-mean log pi(a|s) A: its gradient is that of Sutton et al., eq. 2, by GAE eq. 9; the number itself says nothing."""
    log_probs = logits.log_softmax(-1).gather(-1, actions[..., None]).squeeze(-1)  # (T, N, A) -> (T, N)
    return -(log_probs * advantages).mean()


def value_loss(values: Tensor, targets: Tensor) -> Tensor:
    """mean (V(s) - target)^2 / 2, GAE eq. 28."""
    return 0.5 * (values - targets).square().mean()


def descend(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def train(envs: list, obs: Tensor, policy: nn.Module, value: nn.Module, batches: int, random: torch.Generator) -> None:
    """Collect, estimate advantages, step, fit the values, log."""
    # Adam divides a gradient by its size. With a smaller eps, one that is all rounding error would make a full step, too.
    policy_optimizer = torch.optim.Adam(policy.parameters(), POLICY_LR, eps=1e-5)
    value_optimizer = torch.optim.Adam(value.parameters(), VALUE_LR, eps=1e-5)
    for k in range(1, batches + 1):
        batch, obs = collect(envs, obs, policy, random, T)
        advantages, targets = estimate(batch, value)
        descend(policy_loss(policy(batch.obs), batch.actions, normalised(advantages)), policy_optimizer)
        # That was the only step: the new policy's gradient needs the new policy's actions. PPO is a way around that.
        # Not before `estimate`: values that knew these returns already would leave no advantages (GAE, section 6.1).
        for _ in range(VALUE_STEPS):
            descend(value_loss(value(batch.obs).squeeze(-1), targets), value_optimizer)
        if k % 10 == 0:
            # Each environment's latest episode: among all that ended lately, the short ones are too many.
            latest = [env.return_queue[-1] for env in envs if env.return_queue]
            error = advantages.square().mean().sqrt()  # target - V, before the fit
            print(f"step {k * N * T:9,}   return {np.mean(latest or np.nan):8.1f}   values off by {error:6.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="REINFORCE with a value baseline and GAE, as plain as it gets")
    parser.add_argument("--env", default="CartPole-v1", help="a Gymnasium id; vector observations, discrete actions")
    parser.add_argument("--steps", type=int, default=200_000, help="environment steps, rounded up to whole batches")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, the environments and the actions")
    args = parser.parse_args()
    if args.steps < 1 or args.seed < 0:
        parser.exit(2, "error: --steps must be positive, and --seed must not be negative\n")
    try:
        envs = [RecordEpisodeStatistics(gymnasium.make(args.env, disable_env_checker=True)) for _ in range(N + 1)]
    except (gymnasium.error.Error, ImportError) as error:
        parser.exit(2, f"error: --env {args.env} cannot be made: {error}\n")
    seen, choice = envs[0].observation_space, envs[0].action_space
    if not (isinstance(seen, Box) and len(seen.shape) == 1 and isinstance(choice, Discrete) and choice.start == 0):
        parser.exit(2, f"error: --env {args.env} is for vpg.py: here observations are vectors and actions discrete\n")
    torch.set_num_threads(1)  # a second thread would mostly wait for the first: the matrices are small
    seed, *seeds = (
        np.random.SeedSequence(args.seed).generate_state(N + 2).tolist()
    )  # --seed 1 shares none with --seed 0
    random = torch.manual_seed(seed)
    policy, value = mlp(seen.shape[0], int(choice.n)), mlp(seen.shape[0], 1)
    obs = torch.tensor(np.array([env.reset(seed=s)[0] for env, s in zip(envs, seeds, strict=True)])).float()
    batches = -(-args.steps // (N * T))
    train(envs[:N], obs[:N], policy, value, batches, random)
    while envs[N].episode_count < 20:  # one after the other: the first 20 to end in several would be the shorter ones
        _, obs[N:] = collect(envs[N:], obs[N:], policy, random, 1)
    mean, error = np.mean(envs[N].return_queue), np.std(envs[N].return_queue, ddof=1) / 20**0.5
    print(f"{args.env}: return {mean:.1f} +- {error:.1f} (20 episodes, standard error) after {batches * N * T:,} steps")


if __name__ == "__main__":
    main()
