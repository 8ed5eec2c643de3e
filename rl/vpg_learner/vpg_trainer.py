"""What a training run consists of, as its checkpoint holds it, with one update and one evaluation at a time."""

import math
import time
from typing import Any

import numpy as np
import torch

from common.device import compute_dtype
from common.errors import BadInput
from policy_networks.actor_critic import ActorCritic
from rl_settings.procgen_games import is_procgen
from rl_settings.seed_purposes import RESUME, TRAIN, WEIGHTS, seeds
from rl_settings.vpg_settings import Settings
from vector_environments.make_streams import make_streams
from vector_environments.streams import Streams
from vpg_learner.playing import AT_ONCE, play
from vpg_learner.policy_step_and_value_fit import Optimizers, update
from vpg_learner.rollout import Collector
from vpg_learner.running_statistics import ObservationScaler, RewardScaler


def new_networks(settings: Settings, streams: Streams) -> ActorCritic:
    """Networks for these environments; BadInput for images that are too small for theirs."""
    encoder = streams.encoder
    kind: dict[str, Any] = {"encoder": settings.encoder, "critic": settings.critic} if encoder.image else {}
    try:
        return ActorCritic(encoder.shape, streams.action_space, settings.hidden, log_std=settings.log_std, **kind)
    except ValueError as error:
        raise BadInput(f"--env {settings.env}: {error}") from None


class Trainer:
    """Environments, networks, optimisers and running statistics: everything that a checkpoint holds. `close()` it."""

    def __init__(self, settings: Settings, device: torch.device):
        self.settings, self.device = settings, device
        self.streams = make_streams(settings.env, settings.num_envs, levels=settings.levels)
        encoder = self.streams.encoder
        weights, actions = seeds(settings.seed, 2, WEIGHTS)
        torch.manual_seed(weights)
        self.model = new_networks(settings, self.streams).to(device)
        self.model.bf16 = settings.bf16 and compute_dtype(device)[0] is torch.bfloat16
        adam: dict[str, Any] = {"eps": 1e-5, "fused": device.type in ("cpu", "cuda")}
        own = self.model.critic_parameters() or [torch.nn.Parameter(torch.zeros(0, device=device))]
        self.optimizers = Optimizers(
            torch.optim.Adam(self.model.actor_parameters(), settings.lr, **adam),
            torch.optim.Adam(own, settings.value_lr, **adam),
        )
        scaler = ObservationScaler(encoder.shape) if settings.normalise_observations and not encoder.image else None
        rewards = RewardScaler(self.streams.n, settings.reward_gamma) if settings.normalise_rewards else None
        self.collector = Collector(self.streams, settings.horizon, scaler, rewards)
        self.random = torch.Generator().manual_seed(actions)
        self.step = self.updates = 0
        self.begun_anew = 0  # times that episodes were broken off, since their environments could not be saved
        self.seconds = 0.0
        self._eval_streams: dict[tuple[int, int], Streams] = {}  # by number and levels
        self.collector.reset(seeds(settings.seed, self.streams.n, TRAIN))

    def update(self) -> dict[str, float]:
        """One update; what metrics.csv says of it."""
        start = time.perf_counter()
        made, known = update(self.settings, self.model, self.collector, self.optimizers, self.random, self.step)
        self.step += made
        self.updates += 1
        elapsed = time.perf_counter() - start
        self.seconds += elapsed
        ended = self.collector.log.take()
        latest = self.collector.log.latest
        return {
            "step": self.step,
            "seconds": self.seconds,
            "episodes": len(ended),
            "episode_return": latest[0],
            "episode_length": latest[1],
            "ended_return": float(np.mean([one[0] for one in ended])) if ended else math.nan,
            "timeouts": float(np.mean([one[2] for one in ended])) if ended else math.nan,
            **({"success": latest[2]} if is_procgen(self.settings.env) else {}),
            **known,
            "steps_per_second": made / elapsed,
        }

    def evaluate(
        self, episodes: int, greedy: bool, *purpose: int, test_levels: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Raw returns and successes of `episodes` episodes or a few more, as many of each environment, on own seeds.

        `test_levels`: of Procgen, all levels instead of those of training.
        """
        n, levels = min(AT_ONCE, episodes), 0 if test_levels else self.settings.levels
        if (n, levels) not in self._eval_streams:
            self._eval_streams[n, levels] = make_streams(self.settings.env, n, levels=levels, limited=True)
        streams, own = self._eval_streams[n, levels], seeds(self.settings.seed, n, *purpose)
        returns, successes = play(self.model, streams, self.collector.scaler, -(-episodes // n), own, greedy)
        return returns.ravel(), successes.ravel()

    def close(self) -> None:
        """End the environments."""
        self.streams.close()
        for streams in self._eval_streams.values():
            streams.close()

    def state(self) -> dict[str, Any]:
        """The checkpoint: tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizers.policy.state_dict(),
            "value_optimizer": self.optimizers.values.state_dict(),
            "collector": self.collector.state(),
            "random": self.random.get_state(),
            "environments": self.streams.state(),
            "obs": torch.from_numpy(self.collector.obs),
            "updates": self.updates,
            "begun_anew": self.begun_anew,
            "seconds": self.seconds,
        }

    def load(self, state: dict[str, Any]) -> bool:
        """Go on from a checkpoint. False where the environments cannot, and new episodes begin."""
        self.model.load_state_dict(state["model"])
        self.optimizers.policy.load_state_dict(state["optimizer"])
        self.optimizers.values.load_state_dict(state["value_optimizer"])
        self.collector.load(state["collector"])
        self.random.set_state(state["random"])
        self.step, self.updates, self.seconds = state["step"], state["updates"], state["seconds"]
        self.begun_anew = state["begun_anew"]
        if state["environments"] is not None and self.streams.simple:
            self.streams.load(state["environments"])
            self.collector.obs = state["obs"].numpy()
            return True
        self.collector.reset(seeds(self.settings.seed, self.streams.n, RESUME, self.updates))
        self.begun_anew += self.step < self.settings.total_steps  # of a run that only lacks its report nothing was lost
        return False
