"""The actor and the critic: one network each for vectors, and encoders of images that the two may share.

Shapes: B observations, A outputs of the actor (logits, or means).
"""

import itertools
import math

import torch
from gymnasium import spaces
from torch import Tensor, nn

from policy_networks.action_distributions import policy_for
from policy_networks.cuda_graphs import Replays
from policy_networks.image_encoders import image_encoder, orthogonal
from rl_settings.vpg_choices import LOG_STD, Critic, Encoder

IMAGES_AT_ONCE = 256  # through a convolutional net, forwards and backwards


def mlp(sizes: tuple[int, ...], last_gain: float) -> nn.Sequential:
    """Linear layers with tanh between them, orthogonal with gain sqrt(2), the last one with `last_gain`."""
    layers: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        layer = nn.Linear(fan_in, fan_out)
        orthogonal(layer, last_gain if i == len(sizes) - 2 else math.sqrt(2))
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class ActorCritic(nn.Module):
    """The policy's network, whose head gives what the policy needs, and the value function's.

    Vectors go through two separate networks. Images go through an encoder, which the two may share:
    - separate  the value function has an encoder of its own, and is fitted in its own passes
    - shared    one encoder, which the gradients of both train in one step
    - detached  one encoder, trained by the policy alone
    """

    def __init__(
        self,
        observation_shape: tuple[int, ...],
        action_space: spaces.Space,
        hidden: tuple[int, ...],
        encoder: Encoder = "nature",
        critic: Critic = "separate",
        log_std: float = LOG_STD,
    ):
        super().__init__()
        self.policy = policy_for(action_space)
        self.image = len(observation_shape) == 3
        self.bf16 = False  # whether convolutions multiply bfloat16; parameters are float32 in any case
        self.joint, self.detached = critic != "separate", critic == "detached"
        trunks = (
            [image_encoder(encoder, observation_shape) for _ in range(1 if self.joint else 2)] if self.image else []
        )
        features = trunks[0].features if trunks else observation_shape[0]
        self.trunk = trunks[0] if trunks else nn.Identity()
        self.value_trunk = self.trunk if self.joint or not trunks else trunks[1]
        if self.image:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.actor = mlp((features, *hidden, self.policy.outputs), 0.01)  # nearly uniform (Andrychowicz et al. 2021)
        self.critic = mlp((features, *hidden, 1), 1.0)
        self.log_std = nn.Parameter(torch.full((self.policy.outputs,), log_std)) if self.policy.gaussian else None
        self.replays = Replays()

    def features(self, trunk: nn.Module, obs: Tensor) -> Tensor:
        """(B, features) float32."""
        if not self.image:
            return obs
        if torch.is_grad_enabled():
            return self._encoded(trunk, obs)
        return self.replays(("features", trunk), lambda images: [self._encoded(trunk, images)], obs)[0]

    def _encoded(self, trunk: nn.Module, obs: Tensor) -> Tensor:
        # (B, height, width, channels) as it lies in memory is channels_last, what convolutions like best.
        images = obs.permute(0, 3, 1, 2)
        if not self.bf16:
            return trunk(images.float() / 255)
        with torch.autocast(obs.device.type, torch.bfloat16):
            return trunk(images.bfloat16() / 255).float()

    def _head(self, features: Tensor) -> Tensor:
        out = self.actor(features)
        return out if self.log_std is None else torch.cat([out, self.log_std.expand_as(out)], -1)

    def head(self, obs: Tensor) -> Tensor:
        """The actor's output (B, A), for a Gaussian with the log standard deviations appended: (B, 2 A)."""
        return self._head(self.features(self.trunk, obs))

    def value(self, obs: Tensor) -> Tensor:
        """(B,)"""
        return self.critic(self.features(self.value_trunk, obs)).squeeze(-1)

    def head_and_value(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """`head` and `value` from one pass of a shared encoder."""
        features = self.features(self.trunk, obs)
        return self._head(features), self.critic(features.detach() if self.detached else features).squeeze(-1)

    def actor_parameters(self) -> list[nn.Parameter]:
        """What the policy gradient moves, and with it the value function where the two share an encoder."""
        log_std = [] if self.log_std is None else [self.log_std]
        joint = list(self.critic.parameters()) if self.joint else []
        return [*self.trunk.parameters(), *self.actor.parameters(), *log_std, *joint]

    def critic_parameters(self) -> list[nn.Parameter]:
        """What passes of the value function's own move; none where it shares an encoder."""
        return [] if self.joint else [*self.value_trunk.parameters(), *self.critic.parameters()]
