"""Convolutional nets for images, and how layers begin."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rl_settings.vpg_choices import Encoder


def orthogonal(layer: nn.Conv2d | nn.Linear, gain: float) -> None:
    """Orthogonal weights of that gain, no bias."""
    nn.init.orthogonal_(layer.weight, gain)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)


def glorot(layer: nn.Conv2d | nn.Linear, gain: float) -> None:
    """Uniform weights of variance 2 / (fan in + fan out) (Glorot & Bengio 2010), whatever the gain for others; no bias."""
    nn.init.xavier_uniform_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)


Beginning = Callable[[nn.Conv2d | nn.Linear, float], None]


class NatureEncoder(nn.Module):
    """The convolutional net of Mnih et al. 2015: (B, channels, height, width) from 0 to 1 -> (B, 512)."""

    features = 512

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        height, width, channels = shape
        if min(height, width) < 36:
            raise ValueError(f"images of {height} x {width} are too small for the convolutional net: at least 36 x 36")
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, 32, 8, 4),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, 2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3),
            nn.ReLU(),
        )
        with torch.no_grad():
            flat = self.convolutions(torch.zeros(1, channels, height, width)).numel()
        self.linear = nn.Linear(flat, self.features)
        for layer in (*self.convolutions, self.linear):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                orthogonal(layer, math.sqrt(2))

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(self.linear(self.convolutions(images).flatten(1)))


class Residual(nn.Module):
    """x + conv(relu(conv(relu(x)))), He et al. 2016."""

    def __init__(self, channels: int, gain: float, begin: Beginning):
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        begin(self.first, math.sqrt(2))
        begin(self.second, gain)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(F.relu(x))))


class ImpalaEncoder(nn.Module):
    """The residual net of Espeholt et al. 2018 that Procgen's paper uses: (B, channels, height, width) in [0, 1] -> (B, 256).

    Three blocks of a convolution, a max-pool that halves the picture, and two residual units. `norm`, which the papers do not
    have, normalises the features of each picture before the last ReLU (Ba et al. 2016): a drift of all cannot kill them.
    `begin` gives the first weights; with Glorot's, those of OpenAI's code, features begin smaller.
    """

    features = 256

    def __init__(
        self,
        shape: tuple[int, ...],
        widths: tuple[int, ...] = (16, 32, 32),
        norm: bool = False,
        begin: Beginning = orthogonal,
    ):
        super().__init__()
        height, width, channels = shape
        if min(height, width) < 8:
            raise ValueError(f"images of {height} x {width} are too small for the convolutional net: at least 8 x 8")
        layers: list[nn.Module] = []
        gain = 1 / math.sqrt(2 * len(widths))  # so that all residual units together add about the variance of one
        for out in widths:
            convolution = nn.Conv2d(channels, out, 3, padding=1)
            begin(convolution, math.sqrt(2))
            units = [Residual(out, gain, begin) for _ in range(2)]
            layers += [convolution, nn.MaxPool2d(3, 2, padding=1), *units]
            channels, height, width = out, (height + 1) // 2, (width + 1) // 2
        self.blocks = nn.Sequential(*layers)
        self.linear = nn.Linear(channels * height * width, self.features)
        begin(self.linear, math.sqrt(2))
        self.norm = nn.LayerNorm(self.features) if norm else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(self.norm(self.linear(F.relu(self.blocks(images)).flatten(1))))


def image_encoder(kind: Encoder, shape: tuple[int, ...]) -> NatureEncoder | ImpalaEncoder:
    """A new convolutional net; ValueError for images that are too small for it."""
    if kind == "nature":
        return NatureEncoder(shape)
    widths, begin = (8, 16, 16) if "half" in kind else (16, 32, 32), glorot if kind.endswith("glorot") else orthogonal
    return ImpalaEncoder(shape, widths, kind.endswith("norm"), begin)
