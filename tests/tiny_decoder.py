"""Small decoders whose every parameter is away from zero, so that each part of them has something to do."""

import math
from typing import Any

import torch
from torch import Tensor

from decoder_model.decoder import Decoder, Shape
from decoder_model.kernels import FAST, Kernels
from lm_settings.choices import MODERN, Arch, parts_of

# Both settings, and the modern one without each of its parts.
VARIANTS: list[tuple[Arch, tuple[str, ...]]] = [
    ("modern", ()),
    ("vaswani", ()),
    *(("modern", (part,)) for part in MODERN),
]


def name_of(variant: Any) -> str:
    """A test's name for a member of VARIANTS."""
    arch, without = variant
    return "-".join([arch, *without])


def tiny_shape(arch: Arch = "modern", without: tuple[str, ...] = (), **changes: Any) -> Shape:
    """Two layers of two heads; `changes` are fields of Shape."""
    size = {"vocabulary": 13, "context": 12, "layers": 2, "heads": 2, "width": 32, **changes}
    return Shape(parts=parts_of(arch, without), **size)


def fresh_decoder(arch: Arch = "modern", without: tuple[str, ...] = (), seed: int = 0, **changes: Any) -> Decoder:
    """As training starts from it."""
    torch.manual_seed(seed)
    return Decoder(tiny_shape(arch, without, **changes))


def tiny_decoder(
    arch: Arch = "modern", without: tuple[str, ...] = (), seed: int = 0, kernels: Kernels = FAST, **changes: Any
) -> Decoder:
    """In evaluation mode, with random parameters of the size that training gives them."""
    model = fresh_decoder(arch, without, seed, **changes)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 1:  # biases, gains and the shortcut's two numbers
                p.add_(0.3 * torch.randn(p.shape, generator=random))
            elif name != "embedding":
                p.copy_(torch.randn(p.shape, generator=random) * p.size(1) ** -0.5)
    model.kernels = kernels
    return model.eval()


def random_tokens(model: Decoder, batch: int, length: int | None = None, seed: int = 1) -> torch.Tensor:
    """(B, T) ids; T is the context unless given."""
    random = torch.Generator().manual_seed(seed)
    return torch.randint(model.shape.vocabulary, (batch, length or model.shape.context), generator=random)


def naive_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Vaswani et al. 2017, eq. 1, one number at a time, in Python's double precision."""
    (N, T, D), S = q.shape, k.size(1)
    q, k, v = q.detach(), k.detach(), v.detach()
    y = torch.zeros(N, T, D, dtype=torch.float64)
    for n in range(N):
        for t in range(T):
            seen = [s for s in range(S) if mask[t, s] == 0]
            dots = [sum(float(q[n, t, d]) * float(k[n, s, d]) for d in range(D)) for s in seen]
            exps = [math.exp(dot / math.sqrt(D)) for dot in dots]
            for d in range(D):
                y[n, t, d] = sum(e * float(v[n, s, d]) for e, s in zip(exps, seen, strict=True)) / sum(exps)
    return y.float()


def uniform(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return (4 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) - 2).to(dtype)


def causal_mask(T: int, S: int, dtype: torch.dtype) -> Tensor:
    """(T, S): the last T of S tokens look at all S."""
    ahead = torch.arange(S)[None] > torch.arange(S - T, S)[:, None]
    return torch.zeros(T, S, dtype=dtype).masked_fill(ahead, -math.inf)
