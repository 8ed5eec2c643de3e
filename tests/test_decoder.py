"""The decoder against slow references: positions, both settings, dropout, and what each part is for."""

import cmath
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decoder_model import ngram_tables
from decoder_model.decoder import Decoder
from decoder_model.kernels import FAST, PLAIN, SHIFT, dropout, token_shift
from decoder_model.ngram_tables import NGRAMS, table_sizes
from decoder_model.positions_and_mask import ROTARY_BASE, Positions
from lm_settings.choices import MODERN, parts_of
from tiny_decoder import (
    VARIANTS,
    causal_mask,
    fresh_decoder,
    naive_attention,
    random_tokens,
    tiny_decoder,
    tiny_shape,
    uniform,
)

ROOT = Path(__file__).resolve().parent.parent


# ---------------------------------------------------------------- positions


def positions(start: int, length: int, width: int = 32, heads: int = 2) -> Positions:
    return Positions(start, length, width // heads, width, torch.device("cpu"), torch.float32)


def test_the_mask_of_a_later_stretch_reaches_back_to_the_beginning():
    assert positions(2, 3).mask.tolist() == [
        [0, 0, 0, -math.inf, -math.inf],
        [0, 0, 0, 0, -math.inf],
        [0, 0, 0, 0, 0],
    ]


@pytest.mark.parametrize("kernels", [FAST, PLAIN], ids=["fast", "plain"])
def test_rotated_dot_products_depend_on_the_distance_alone(kernels):
    T, D = 6, 16
    q, k = uniform(1, 1, 1, D, seed=0).expand(1, T, 1, D), uniform(1, 1, 1, D, seed=1).expand(1, T, 1, D)
    dots = {}
    for start in (0, 1, 50):
        at = positions(start, T, width=32, heads=2)
        rq, rk = (kernels.rotate(x, at.cos, at.sin)[0, :, 0] for x in (q, k))
        torch.testing.assert_close(rq.norm(dim=-1), q[0, :, 0].norm(dim=-1))
        dots[start] = rq @ rk.T  # (T, T)
    for start in (0, 1, 50):
        torch.testing.assert_close(dots[start], dots[0], rtol=1e-4, atol=1e-4)
        for distance in range(-T + 1, T):
            line = dots[start].diagonal(distance)
            torch.testing.assert_close(line, line[:1].expand_as(line), rtol=1e-4, atol=1e-4)
    assert float(dots[0][:, 0].std()) > 0.1  # the distance does matter


def test_the_first_pair_of_channels_turns_by_one_radian_per_token():
    at = positions(0, 4)
    x = torch.zeros(1, 4, 1, 16)
    x[..., 0] = 1.0
    turned = FAST.rotate(x, at.cos, at.sin)[0, :, 0]
    for t in range(4):
        assert turned[t, 0] == pytest.approx(math.cos(t), abs=1e-6)
        assert turned[t, 8] == pytest.approx(math.sin(t), abs=1e-6)


def test_sinusoids_are_the_papers():
    C, start = 32, 5
    found = positions(start, 7, width=C).sinusoids
    assert found.shape == (7, C)
    for row in range(7):
        for i in range(C // 2):
            angle = (start + row) / 10_000 ** (2 * i / C)  # section 3.5
            assert found[row, 2 * i] == pytest.approx(math.sin(angle), abs=1e-5)
            assert found[row, 2 * i + 1] == pytest.approx(math.cos(angle), abs=1e-5)


# ---------------------------------------------------------------- the paper's setting


def papers_decoder(model: Decoder, tokens: Tensor) -> Tensor:
    """The 2017 decoder out of PyTorch's own layers, with the parameters of `model`."""
    shape = model.shape
    C = shape.width
    position = torch.arange(tokens.size(1)).float()[:, None]
    angle = position / 10_000 ** (torch.arange(0, C, 2) / C)
    sinusoids = torch.zeros(tokens.size(1), C)
    sinusoids[:, 0::2], sinusoids[:, 1::2] = angle.sin(), angle.cos()
    x = math.sqrt(C) * model.embedding[tokens] + sinusoids
    blocks: Any = model.blocks
    for block in blocks:
        layer = nn.TransformerEncoderLayer(C, shape.heads, 4 * C, dropout=0.0, batch_first=True, norm_first=False)
        attention = layer.self_attn
        pairs: list[tuple[Any, Any]] = [
            (attention.in_proj_weight, block.qkv),
            (attention.out_proj.weight, block.output),
            (layer.linear1.weight, block.up),
            (layer.linear1.bias, block.up_bias),
            (layer.linear2.weight, block.down),
            (layer.linear2.bias, block.down_bias),
            (layer.norm1.weight, block.norms[0].weight),
            (layer.norm1.bias, block.norms[0].bias),
            (layer.norm2.weight, block.norms[1].weight),
            (layer.norm2.bias, block.norms[1].bias),
        ]
        with torch.no_grad():
            attention.in_proj_bias.zero_()
            attention.out_proj.bias.zero_()
            for theirs, ours in pairs:
                theirs.copy_(ours)
        T = tokens.size(1)
        x = layer(x, src_mask=nn.Transformer.generate_square_subsequent_mask(T), is_causal=True)
    return x @ model.embedding.T


@pytest.mark.parametrize("kernels", [FAST, PLAIN], ids=["fast", "plain"])
def test_the_papers_setting_is_pytorchs_post_norm_layers_on_scaled_embeddings(kernels):
    model = tiny_decoder("vaswani", kernels=kernels, layers=3, heads=4)
    tokens = random_tokens(model, 3)
    torch.testing.assert_close(model(tokens), papers_decoder(model, tokens), rtol=1e-4, atol=1e-5)


def test_embedding_and_head_of_the_paper_are_one_matrix():
    V, C, L = 13, 32, 2
    model = fresh_decoder("vaswani")
    assert model.head is None
    shapes = [tuple(p.shape) for p in model.parameters()]
    assert shapes.count((V, C)) == 1
    # per layer: 4 C^2 of attention, 8 C^2 + 5 C of the feed-forward net, 2 x 2 C of LayerNorm
    assert sum(p.numel() for p in model.parameters()) == V * C + L * (12 * C**2 + 9 * C)
    logits = model(torch.tensor([[1, 2]]))
    with torch.no_grad():
        model.embedding[7].add_(1.0)  # a token that was not read: the head alone sees the change
    assert (model(torch.tensor([[1, 2]])) != logits)[0, 0].tolist() == [token == 7 for token in range(V)]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_papers_logits_start_at_the_size_of_one(seed):
    model = fresh_decoder("vaswani", width=128, vocabulary=500, seed=seed)
    assert 0.8 < float(model(random_tokens(model, 4)).detach().std()) < 1.25


# ---------------------------------------------------------------- the modern setting


def slow_shift(x: Tensor) -> Tensor:
    """(T, C): sixteenths of the channels from one token before, from two before and so on; 0 before the beginning."""
    T, C = x.shape
    y = torch.zeros(T, C)
    for t in range(T):
        for c in range(C):
            lag = next((i for i in range(len(SHIFT)) if 16 * c < sum(SHIFT[: i + 1]) * C), None)
            source = t if lag is None else t - lag - 1
            y[t, c] = x[source, c] if source >= 0 else 0.0
    return y


@pytest.mark.parametrize("width", [16, 48, 64])
def test_the_shift_takes_each_channel_from_its_own_earlier_token(width):
    x = uniform(3, 7, width, seed=0)
    padded = torch.cat([x.new_zeros(3, len(SHIFT), width), x], 1)
    found = token_shift(padded)
    assert torch.equal(found, torch.stack([slow_shift(row) for row in x]))
    assert not torch.equal(found, x)
    assert torch.equal(found[:, :, -1], x[:, :, -1])  # not all of it is moved


def rms(x: Tensor) -> Tensor:
    return torch.stack([row / (math.sqrt(sum(float(c) ** 2 for c in row) / len(row)) + 1e-6) for row in x])


def turn(x: Tensor) -> Tensor:
    """(T, D): channels i and i + D/2 as one complex number, turned by position times its own speed."""
    T, D = x.shape
    y = torch.zeros(T, D)
    for t in range(T):
        for i in range(D // 2):
            speed = ROTARY_BASE ** (-i / (D // 2 - 1))
            z = complex(float(x[t, i]), float(x[t, i + D // 2])) * cmath.exp(1j * t * speed)
            y[t, i], y[t, i + D // 2] = z.real, z.imag
    return y


def slow_row(gram: list[int], vocabulary: int) -> int:
    """The row of an n-gram, its latest token first, in a table of its own."""
    key = sum(token * (vocabulary + 1) ** i for i, token in enumerate(gram))
    if (vocabulary + 1) ** len(gram) <= ngram_tables.TABLE_ENTRIES:
        return key
    product = key * 0x9E3779B1 % (1 << 64)  # as int64 wraps round
    return ((product - (1 << 64) if product >> 63 else product) >> 15) % ngram_tables.TABLE_ENTRIES


def slow_ngrams(model: Decoder, tokens: list[int]) -> Tensor:
    """What the tables of n-grams add, (T, C)."""
    V = model.shape.vocabulary
    assert model.ngrams is not None
    assert model.ngram_output is not None
    added = []
    for t in range(len(tokens)):
        rows, above = [], 0
        for n, size in zip(NGRAMS, table_sizes(V), strict=True):
            gram = [tokens[i] if i >= 0 else V for i in range(t, t - n, -1)]
            rows.append(model.ngrams[above + slow_row(gram, V)])
            above += size
        added.append(model.ngram_output @ torch.cat(rows))
    return torch.stack(added)


def modern_decoder(model: Decoder, tokens: Tensor) -> Tensor:
    """All modern parts, one sequence (T,) and one head at a time: logits (T, V)."""
    shape, T = model.shape, len(tokens)
    C, H = shape.width, shape.heads
    D = C // H
    mask = causal_mask(T, T, torch.float32)
    x0 = x = rms(model.embedding[tokens] + slow_ngrams(model, tokens.tolist()))
    blocks: Any = model.blocks
    for block in blocks:
        x = block.mix[0] * x + block.mix[1] * x0
        q, k, v = (rms(x) @ part.T for part in block.qkv.split(C))
        heads = []
        for h in range(H):
            mine = slice(h * D, (h + 1) * D)
            heads.append(
                naive_attention(turn(rms(q[:, mine]))[None], turn(rms(k[:, mine]))[None], v[None, :, mine], mask)
            )
        x = x + torch.cat(heads, -1)[0] @ block.output.T
        x = x + (slow_shift(rms(x)) @ block.up.T).clamp(min=0) ** 2 @ block.down.T
    assert model.head is not None
    return 15 * torch.tanh(rms(x) @ model.head.T / 15)


@pytest.mark.parametrize("kernels", [FAST, PLAIN], ids=["fast", "plain"])
def test_the_modern_setting_is_the_slow_one(kernels):
    model = tiny_decoder(kernels=kernels)
    tokens = random_tokens(model, 2, 7)
    with torch.no_grad():
        slow = torch.stack([modern_decoder(model, row) for row in tokens])
        torch.testing.assert_close(model(tokens), slow, rtol=1e-4, atol=1e-4)


def test_number_of_modern_parameters():
    V, C, L = 13, 32, 2
    # embedding and head; per layer 12 C^2 of matrices and the shortcut's two numbers; 32 columns for every n-gram
    # that has a row, and a matrix that takes those of all n to the width
    ngrams = 32 * (14**2 + (len(NGRAMS) - 1) * 512) + len(NGRAMS) * 32 * C
    assert sum(p.numel() for p in fresh_decoder().parameters()) == 2 * V * C + L * (12 * C**2 + 2) + ngrams


# ---------------------------------------------------------------- dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_right_part_and_its_mean(p, dtype):
    x = torch.ones(101, 333, dtype=dtype, requires_grad=True)  # not a multiple of 8 elements
    torch.manual_seed(0)
    y = dropout(x, p, True)
    kept = y.detach() != 0
    assert float(kept.float().mean()) == pytest.approx(1 - round(256 * p) / 256, abs=4 * 0.5 / math.sqrt(x.numel()))
    assert float(y.detach().float().mean()) == pytest.approx(1, abs=0.03 / (1 - p))
    y.backward(torch.ones_like(y))
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())  # the gradient goes where the values went, and nowhere else
    # neighbours, also those of one random word, are dropped independently
    for lag in (1, 2, 3, 4, 8, 333):
        a, b = kept.flatten()[:-lag].float(), kept.flatten()[lag:].float()
        assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 4 / math.sqrt(len(a))
    torch.manual_seed(0)
    assert torch.equal(dropout(x, p, True), y)


def test_dropout_does_nothing_outside_training_and_leaves_odd_rates_to_pytorch():
    x = torch.randn(50, 60)
    assert torch.equal(dropout(x, 0.5, False), x)
    assert torch.equal(dropout(x, 0.0, True), x)
    for p in (0.001, 0.999):
        torch.manual_seed(0)
        ours = dropout(x, p, True)
        torch.manual_seed(0)
        assert torch.equal(ours, F.dropout(x, p))


# ---------------------------------------------------------------- the parts


@pytest.mark.parametrize("part", [part for part in MODERN if part not in ("zeroinit", "untied")])
def test_a_new_modern_decoder_knows_exactly_nothing(part):
    for without in ((), (part,)):
        model = fresh_decoder(without=without)
        tokens = random_tokens(model, 4)
        logits = model(tokens)
        assert torch.equal(logits, torch.zeros_like(logits))
        loss = F.cross_entropy(logits.detach().flatten(0, 1), tokens.flatten())
        assert float(loss) == pytest.approx(math.log(13), abs=1e-6)


@pytest.mark.parametrize("part", ["zeroinit", "untied"])
def test_without_a_zero_head_there_are_logits_from_the_beginning(part):
    assert float(fresh_decoder(without=(part,))(torch.tensor([[3, 4]])).detach().std()) > 0.1


def test_every_part_makes_a_difference_and_none_is_in_the_paper():
    # `zeroinit` is about the beginning alone, and these decoders are past it.
    kinds = [variant for variant in VARIANTS if variant[1] != ("zeroinit",)]
    logits = [tiny_decoder(arch, without)(torch.arange(12)[None]) for arch, without in kinds]
    for i, one in enumerate(logits):
        for other in logits[:i]:
            assert float((one - other).abs().max()) > 1e-3
    assert parts_of("vaswani") == ()
    assert parts_of("modern") == tuple(MODERN)
    assert parts_of("modern", ("shift", "muon")) == tuple(part for part in MODERN if part != "shift")


def test_logits_are_capped_smoothly():
    model, without = tiny_decoder(), tiny_decoder(without=("softcap",))
    with torch.no_grad():
        assert model.head is not None
        assert without.head is not None
        for one in (model, without):
            one.head.mul_(20)  # type: ignore[union-attr]
        tokens = random_tokens(model, 2)
        capped, raw = model(tokens), without(tokens)
    assert float(raw.abs().max()) > 30
    assert float(capped.abs().max()) <= 15
    assert torch.equal(capped.argmax(-1), raw.argmax(-1))
    small = raw.abs() < 0.5  # hardly changed: tanh x = x - x^3 / 3
    assert small.any()
    torch.testing.assert_close(capped[small], raw[small], rtol=1e-3, atol=1e-5)


def test_dropout_acts_in_training_alone():
    for arch in ("modern", "vaswani"):
        model = tiny_decoder(arch, dropout=0.5)
        tokens = random_tokens(model, 1)
        assert torch.equal(model(tokens), tiny_decoder(arch)(tokens))
        model.train()
        assert not torch.equal(model(tokens), model(tokens))


# ---------------------------------------------------------------- the whole


def test_a_shape_is_all_that_decides_a_decoder():
    shape = tiny_shape()
    torch.manual_seed(3)
    one = Decoder(shape)
    torch.manual_seed(3)
    other = Decoder(replace(shape))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_the_decoder_can_be_read_in_one_sitting():
    assert len((ROOT / "transformers/decoder_model/decoder.py").read_text().splitlines()) <= 250
