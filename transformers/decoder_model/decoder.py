"""A decoder-only transformer after Vaswani et al. 2017, "Attention Is All You Need", with its modern parts as switches.

`--arch vaswani` is the paper's decoder without its encoder: sinusoidal positions (section 3.5), LayerNorm after each
sublayer's residual sum (3.1), ReLU (3.3), embeddings tied with the output and scaled by sqrt(width) (3.4), dropout (5.4).
`--arch modern` is the same skeleton with every part of MODERN (lm_settings/choices.py) switched on; `--without` takes single
ones out again, which is how tests/benchmarks/decoder_recipe.py measures what each is worth.

In this order: what of the past is kept for sampling (Cache), attention and feed-forward net (Block), the whole (Decoder).
The causal mask is made in positions_and_mask.py, eq. 1 is computed in kernels.py, and the n-grams, most of the parameters
of the default model, are looked up in ngram_tables.py.

Axes: B batch, T time, C width, H heads, D head size, V vocabulary.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decoder_model.kernels import FAST, SHIFT, Kernels, dropout, token_shift
from decoder_model.ngram_tables import NGRAM_DROPOUT, NGRAMS, TABLE_WIDTH, ngram_entries, table_sizes
from decoder_model.positions_and_mask import Positions

SOFTCAP = 15.0


@dataclass(frozen=True)
class Shape:
    """Everything that decides a decoder's parameters and function; saved in the checkpoint."""

    vocabulary: int
    context: int
    layers: int
    heads: int
    width: int
    parts: tuple[str, ...]
    """the parts of MODERN that are on; none of them is the paper's decoder"""
    dropout: float = 0.0


class Cache:
    """Keys and values of the tokens read so far, for sampling: `room` positions per layer."""

    def __init__(self, shape: Shape, batch: int, room: int, like: Tensor):
        size = (2, batch, room, shape.heads, shape.width // shape.heads)
        self.layers = [like.new_zeros(size) for _ in range(shape.layers)]
        self.length = 0
        # The last inputs of each feed-forward net, which the token shift needs, and the last tokens, for the n-grams.
        self.shifted = [like.new_zeros(batch, len(SHIFT), shape.width) for _ in range(shape.layers)]
        self.tokens: Tensor | None = None

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k and v (B, T, H, D) behind what is there; all of them so far."""
        end = self.length + k.size(1)
        kept = self.layers[layer]
        kept[0, :, self.length : end], kept[1, :, self.length : end] = k, v
        return kept[0, :, :end], kept[1, :, :end]


class Block(nn.Module):
    """Self-attention and a feed-forward net four times as wide, each with its residual sum."""

    def __init__(self, shape: Shape, layer: int):
        super().__init__()
        self.shape, self.layer, C = shape, layer, shape.width
        paper = "prenorm" not in shape.parts
        self.qkv, self.output = _matrix(shape, 3 * C, C), _matrix(shape, C, C, zero=True)
        self.up, self.down = _matrix(shape, 4 * C, C), _matrix(shape, C, 4 * C, zero=True)
        # The paper's feed-forward net has biases (eq. 2), its attention has none.
        self.up_bias = nn.Parameter(torch.zeros(4 * C)) if paper else None
        self.down_bias = nn.Parameter(torch.zeros(C)) if paper else None
        self.norms = nn.ModuleList(nn.LayerNorm(C) for _ in range(2)) if paper else None
        # a and b of the shortcut. In the first block, where x is x0, only their sum counts; every block has both, so that
        # blocks are alike and checkpoints stay readable.
        self.mix = nn.Parameter(torch.tensor([1.0, 0.0])) if "shortcut" in shape.parts else None

    def forward(self, x: Tensor, x0: Tensor, positions: Positions, kernels: Kernels, cache: Cache | None) -> Tensor:
        if self.mix is not None:
            a, b = self.mix.to(x.dtype)
            x = a * x + b * x0
        for sublayer, part in enumerate((self.attend, self.feed_forward)):
            if self.norms is None:
                y = part(kernels.rms_norm(x), positions, kernels, cache)
                x = x + dropout(y, self.shape.dropout, self.training)
            else:  # the paper: LayerNorm(x + Sublayer(x))
                y = part(x, positions, kernels, cache)
                x = _layer_norm(self.norms[sublayer], x + dropout(y, self.shape.dropout, self.training))
        return x

    def attend(self, x: Tensor, positions: Positions, kernels: Kernels, cache: Cache | None) -> Tensor:
        """Causal multi-head attention: (B, T, C) -> (B, T, C)."""
        B, T, C = x.shape
        H = self.shape.heads
        qkv = F.linear(x, self.qkv.to(x.dtype)).view(B, T, 3 * H, C // H)
        qk, v = qkv.split((2 * H, H), 2)  # (B, T, 2H, D), (B, T, H, D)
        if "qknorm" in self.shape.parts:
            qk = kernels.rms_norm(qk)
        if "rotary" in self.shape.parts:
            qk = kernels.rotate(qk, positions.cos, positions.sin)
        q, k = qk.chunk(2, 2)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)
        q, k, v = (u.transpose(1, 2).reshape(B * H, -1, C // H) for u in (q, k, v))  # (B H, T, D)
        y = kernels.attention(q, k, v, positions.mask).view(B, H, T, C // H)
        return F.linear(y.transpose(1, 2).reshape(B, T, C), self.output.to(x.dtype))

    def feed_forward(self, x: Tensor, positions: Positions, kernels: Kernels, cache: Cache | None) -> Tensor:
        """(B, T, C) -> (B, T, 4C) -> (B, T, C)."""
        if "shift" in self.shape.parts:
            before = x.new_zeros(len(x), len(SHIFT), x.size(2)) if cache is None else cache.shifted[self.layer]
            padded = torch.cat([before, x], 1)  # (B, lags + T, C)
            if cache is not None:
                cache.shifted[self.layer] = padded[:, -len(SHIFT) :]
            x = token_shift(padded)
        x = F.linear(x, self.up.to(x.dtype), None if self.up_bias is None else self.up_bias.to(x.dtype))
        x = kernels.relu_squared(x) if "relu2" in self.shape.parts else F.relu(x)
        return F.linear(x, self.down.to(x.dtype), None if self.down_bias is None else self.down_bias.to(x.dtype))


class Decoder(nn.Module):
    """Token ids (B, T) to logits (B, T, V) in fp32. Inside, activations have the dtype `compute`; parameters are fp32."""

    def __init__(self, shape: Shape, compute: torch.dtype = torch.float32, kernels: Kernels = FAST):
        super().__init__()
        self.shape, self.compute, self.kernels = shape, compute, kernels
        V, C = shape.vocabulary, shape.width
        self.embedding = nn.Parameter(torch.randn(V, C))
        self.head = _matrix(shape, V, C, zero=True) if "untied" in shape.parts else None
        self.blocks = nn.ModuleList(Block(shape, layer) for layer in range(shape.layers))
        if self.head is None:
            nn.init.normal_(self.embedding, std=C**-0.5)  # unit logits from the transposed embedding
        self.ngrams = self.ngram_output = None
        self.ngram_dropout = min(NGRAM_DROPOUT * shape.dropout, 0.9)
        if "ngrams" in shape.parts:
            self.ngrams = nn.Parameter(0.02 * torch.randn(sum(table_sizes(V)), TABLE_WIDTH))
            self.ngram_output = nn.Parameter(0.02 * torch.randn(C, len(NGRAMS) * TABLE_WIDTH))
        self._positions: dict[tuple, Positions] = {}

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """Logits of the next token at each position, (B, T, V) in fp32; later tokens never change earlier logits.

        With `cache`, `tokens` continue those that it has read.
        """
        return self.logits(self.states(tokens, cache))

    def states(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """(B, T) -> (B, T, C), in the dtype `compute`: what the logits are a linear map of."""
        start = cache.length if cache else 0
        positions = self.positions(start, tokens.size(1))
        x = dropout(self.embed(tokens, positions, cache), self.shape.dropout, self.training)
        x0 = x
        for block in self.blocks:
            x = block(x, x0, positions, self.kernels, cache)
        if cache:
            cache.length = start + tokens.size(1)
        return self.kernels.rms_norm(x) if "prenorm" in self.shape.parts else x

    def logits(self, x: Tensor) -> Tensor:
        """(…, C) -> (…, V) in fp32."""
        logits = F.linear(x, (self.embedding if self.head is None else self.head).to(x.dtype)).float()
        return SOFTCAP * torch.tanh(logits / SOFTCAP) if "softcap" in self.shape.parts else logits

    def embed(self, tokens: Tensor, positions: Positions, cache: Cache | None) -> Tensor:
        """(B, T) -> (B, T, C), in the dtype `compute`: what is known of a token and of those just before it.

        The token's embedding; with `ngrams`, plus a projection of the table entries of the n-grams that end at it, after
        a dropout of their own; without `rotary`, plus the sinusoids; with `prenorm`, then normalised. With n-grams,
        `cache` gives the last tokens that it has read and keeps the last of these.
        """
        x = F.embedding(tokens, self.embedding)
        if self.ngrams is not None and self.ngram_output is not None:
            before = tokens.new_full((len(tokens), max(NGRAMS) - 1), self.shape.vocabulary)
            if cache is not None:
                before = before if cache.tokens is None else cache.tokens
                cache.tokens = torch.cat([before, tokens], 1)[:, -before.size(1) :]
            entries = ngram_entries(torch.cat([before, tokens], 1), self.shape.vocabulary)  # (B, T, tables)
            found = dropout(self.kernels.look_up(entries, self.ngrams).flatten(2), self.ngram_dropout, self.training)
            x = x + F.linear(found, self.ngram_output)
        if "rotary" not in self.shape.parts:
            # The scale of section 3.4 brings a tied embedding to the size of the sinusoids.
            x = (x * math.sqrt(self.shape.width) if self.head is None else x) + positions.sinusoids
        x = x.to(self.compute)
        return self.kernels.rms_norm(x) if "prenorm" in self.shape.parts else x

    def positions(self, start: int, length: int) -> Positions:
        """What depends on the position alone, made once per length."""
        key = (start, length, self.embedding.device, self.compute)
        if key not in self._positions:
            if len(self._positions) > 2 * self.shape.context:  # sampling needs one per position
                self._positions.clear()
            D, C = self.shape.width // self.shape.heads, self.shape.width
            self._positions[key] = Positions(start, length, D, C, self.embedding.device, self.compute)
        return self._positions[key]


def _matrix(shape: Shape, outputs: int, inputs: int, zero: bool = False) -> nn.Parameter:
    """A matrix that maps `inputs` channels to `outputs`: uniform with variance 1 / (4 inputs), or Glorot's as in 2017."""
    if zero and "zeroinit" in shape.parts:
        return nn.Parameter(torch.zeros(outputs, inputs))
    fan_out = inputs if outputs == 3 * inputs else outputs  # queries, keys and values are three matrices
    bound = 0.5 * math.sqrt(3 / inputs) if "prenorm" in shape.parts else math.sqrt(6 / (fan_out + inputs))
    return nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))


def _layer_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """LayerNorm with its fp32 gain and bias in the dtype of x."""
    return F.layer_norm(x, norm.normalized_shape, norm.weight.to(x.dtype), norm.bias.to(x.dtype), norm.eps)  # type: ignore
