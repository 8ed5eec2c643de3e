"""What depends on the position alone: the causal mask, the angles of rotary positions, the paper's sinusoids."""

import math

import torch
from torch import Tensor

ROTARY_BASE = 1024.0  # short contexts: the slowest pair of channels turns by T / 1024 radians


def causal_mask(start: int, length: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(length, start + length): 0 where a token may look, -inf ahead of it (Vaswani et al. 2017, section 3.2.3).

    The rows are the tokens start … start + length - 1, the columns all tokens up to there: earlier ones are in the cache.
    """
    ahead = (
        torch.arange(start + length, device=device)[None] > torch.arange(start, start + length, device=device)[:, None]
    )
    return torch.zeros(ahead.shape, device=device, dtype=dtype).masked_fill_(ahead, -math.inf)


def rotary_angles(position: Tensor, D: int) -> Tensor:
    """By how many radians rotary positions turn each pair of channels (Su et al. 2021): (T, 1) -> (T, D/2)."""
    return position * ROTARY_BASE ** -torch.linspace(0, 1, D // 2, device=position.device)


def sinusoids(position: Tensor, C: int) -> Tensor:
    """PE(pos, 2i) = sin(pos / 10000^(2i/C)), PE(pos, 2i+1) = cos(same) (section 3.5): (T, 1) -> (T, C)."""
    wave = position * 10_000.0 ** (-torch.arange(0, C, 2, device=position.device) / C)
    return torch.stack([wave.sin(), wave.cos()], -1).view(len(position), C)


class Positions:
    """Constants of the positions start … start + length - 1, for heads of size D in a decoder of width C."""

    def __init__(self, start: int, length: int, D: int, C: int, device: torch.device, dtype: torch.dtype):
        position = torch.arange(start, start + length, device=device, dtype=torch.float32)[:, None]
        angle = rotary_angles(position, D)
        self.cos, self.sin = angle.cos()[:, None].to(dtype), angle.sin()[:, None].to(dtype)  # (T, 1, D/2)
        self.sinusoids = sinusoids(position, C)  # (T, C)
        self.mask = causal_mask(start, length, device, dtype)  # (T, start + T)
