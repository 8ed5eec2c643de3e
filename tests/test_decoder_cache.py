"""Causality, the cache of the past, and numbers of fewer bits: what is read together or bit by bit gives the same logits."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from decoder_model.decoder import Cache
from decoder_model.kernels import FAST, PLAIN
from decoder_model.positions_and_mask import Positions
from tiny_decoder import VARIANTS, name_of, random_tokens, tiny_decoder

variants = pytest.mark.parametrize("variant", VARIANTS, ids=name_of)


# ---------------------------------------------------------------- causality

# (vocabulary, predicted positions) of the tasks: repeat with n = 5, ascending, induction, a text
TASK_SHAPES = [(5, 10), (64, 31), (256, 63), (96, 128)]


@pytest.mark.parametrize("shape", TASK_SHAPES, ids=["repeat", "ascending", "induction", "text"])
@variants
def test_later_tokens_never_change_earlier_logits(variant, shape):
    V, T = shape
    model = tiny_decoder(*variant, vocabulary=V, context=T)
    tokens = random_tokens(model, 2)
    with torch.no_grad():
        logits = model(tokens)
        for t in sorted({0, 1, 2, T // 2, T - 2}):
            changed = tokens.clone()
            changed[:, t + 1 :] = (changed[:, t + 1 :] + 1) % V
            again = model(changed)
            assert torch.equal(again[:, : t + 1], logits[:, : t + 1])
            assert not torch.equal(again[:, t + 1], logits[:, t + 1])


@pytest.mark.parametrize("kernels", [FAST, PLAIN], ids=["fast", "plain"])
@variants
def test_the_gradient_of_a_logit_with_respect_to_later_inputs_is_zero(variant, kernels, monkeypatch):
    model = tiny_decoder(*variant, kernels=kernels)
    inputs: list[Tensor] = []
    embed = model.embed

    def leaf(tokens: Tensor, at: Positions, cache: Cache | None) -> Tensor:
        inputs.append(embed(tokens, at, cache).detach().requires_grad_())
        return inputs[-1]

    monkeypatch.setattr(model, "embed", leaf)
    logits = model(random_tokens(model, 1))
    T = logits.size(1)
    for t in range(T):
        for token in (0, 5):
            (gradient,) = torch.autograd.grad(logits[0, t, token], inputs[-1], retain_graph=True)
            assert torch.equal(gradient[0, t + 1 :], torch.zeros(T - t - 1, model.shape.width))
            assert (gradient[0, : t + 1] != 0).any(-1).all()  # and every token so far counts


# ---------------------------------------------------------------- the cache


@pytest.mark.parametrize(
    "chunks", [[12], [1] * 12, [5, *[1] * 7], [1, 2, 3, 6], [11, 1]], ids=lambda chunks: "-".join(map(str, chunks))
)
@variants
def test_reading_in_pieces_equals_reading_at_once(variant, chunks):
    model = tiny_decoder(*variant)
    tokens = random_tokens(model, 3)
    with torch.no_grad():
        whole = model(tokens)
        cache = Cache(model.shape, 3, 12, model.embedding)
        pieces = [model(piece, cache) for piece in tokens.split(chunks, 1)]
    assert cache.length == 12
    assert whole.std() > 0.1
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=0, atol=1e-5)


def test_a_cache_with_room_to_spare_changes_nothing():
    model = tiny_decoder()
    tokens = random_tokens(model, 2, 6)
    with torch.no_grad():
        cache = Cache(model.shape, 2, 40, model.embedding)
        found = torch.cat([model(piece, cache) for piece in tokens.split([4, 2], 1)], 1)
        torch.testing.assert_close(found, model(tokens), rtol=0, atol=1e-5)


def test_more_lengths_than_are_remembered_change_nothing():
    model = tiny_decoder()
    with torch.no_grad():
        first = model(random_tokens(model, 1, 5))
        for start in range(200):  # the constants of each (start, length) are kept, but not of ever so many
            model.positions(start, 1)
        assert len(model._positions) < 100
        assert torch.equal(model(random_tokens(model, 1, 5)), first)


# ---------------------------------------------------------------- numbers of fewer bits


@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
def test_bf16_does_no_harm(variant):
    model = tiny_decoder(*variant, vocabulary=64, context=48, width=64)
    tokens = random_tokens(model, 8)
    losses = {}
    with torch.no_grad():
        for dtype in (torch.float32, torch.bfloat16):
            model.compute = dtype
            logits = model(tokens)
            assert logits.dtype == torch.float32
            losses[dtype] = float(F.cross_entropy(logits.flatten(0, 1), tokens.roll(-1, 1).flatten()))
    assert abs(losses[torch.float32] - losses[torch.bfloat16]) < 0.02
    assert losses[torch.float32] != losses[torch.bfloat16]


@variants
def test_fast_and_plain_decoders_have_the_same_gradients(variant):
    model = tiny_decoder(*variant)
    tokens = random_tokens(model, 4)
    found = []
    for kernels in (FAST, PLAIN):
        model.kernels = kernels
        loss = F.cross_entropy(model(tokens).flatten(0, 1), tokens.roll(-1, 1).flatten())
        found.append([g.to_dense() for g in torch.autograd.grad(loss, list(model.parameters()))])
    for fast, plain in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-6)
