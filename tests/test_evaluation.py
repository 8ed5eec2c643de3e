"""Losses one prediction at a time, what a model can at best know, and checkpoints that are not what they should be."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common.errors import BadInput
from common.files import load_checkpoint, save_checkpoint
from decoder_model.decoder import Decoder
from lm_evaluation.checkpoints import checkpoint_state, load_trained
from lm_evaluation.lm_losses import (
    bits_per_character,
    evaluating,
    score_integers,
    token_losses,
    window_losses,
)
from optimisation.optimizer import Optimizer
from texts.integer_tasks import EVALUATION, IntegerTask
from texts.vocabulary import Vocabulary, build
from tiny_decoder import VARIANTS, fresh_decoder, name_of, random_tokens, tiny_decoder

CPU = torch.device("cpu")
CONTEXT = 12  # of the tiny decoder


def ids_of(n: int, vocabulary: int = 13, seed: int = 0) -> torch.Tensor:
    return torch.randint(vocabulary, (n,), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def loss_of_one(model: Decoder, ids: torch.Tensor, start: int, i: int) -> float:
    """-log p(ids[i] | ids[start : i]) in nats."""
    return float(-model(ids[None, start:i].long())[0, -1].log_softmax(-1)[ids[i]])


# ---------------------------------------------------------------- texts

# shorter than the context, exactly one window, exactly three, and odd lengths
LENGTHS = (2, 7, CONTEXT, CONTEXT + 1, CONTEXT + 2, 3 * CONTEXT + 1, 3 * CONTEXT + 8)


@pytest.mark.parametrize("n", LENGTHS)
def test_cold_losses_one_prediction_at_a_time(n):
    model, ids = tiny_decoder(), ids_of(n)
    expected = [loss_of_one(model, ids, (i - 1) // CONTEXT * CONTEXT, i) for i in range(1, n)]
    found, _ = token_losses(model, ids, CONTEXT)
    assert found.shape == (n - 1,)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("context", [1, 2, 7, CONTEXT - 1, CONTEXT])
@pytest.mark.parametrize("n", LENGTHS)
def test_sliding_losses_one_prediction_at_a_time(n, context):
    model, ids, stride = tiny_decoder(), ids_of(n), max(1, context // 2)
    # the first window of 0, stride, 2 stride, … that reaches token i
    starts = [max(0, -(-(i - context) // stride) * stride) for i in range(1, n)]
    expected = [loss_of_one(model, ids, start, i) for i, start in zip(range(1, n), starts, strict=True)]
    cold, sliding = token_losses(model, ids, context)
    np.testing.assert_allclose(sliding, expected, rtol=1e-4, atol=1e-5)
    first = [loss_of_one(model, ids, (i - 1) // context * context, i) for i in range(1, n)]
    np.testing.assert_allclose(cold, first, rtol=1e-4, atol=1e-5)
    seen = [i - start for i, start in zip(range(1, n), starts, strict=True)]
    assert all(context - stride < count <= context for count in seen[context:])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_batches_and_small_integers_change_nothing(dtype, monkeypatch):
    model, ids = tiny_decoder(), ids_of(100)
    expected = token_losses(model, ids, CONTEXT)
    monkeypatch.setattr("lm_evaluation.lm_losses.TOKENS_AT_ONCE", 40)
    np.testing.assert_allclose(token_losses(model, ids.to(dtype), CONTEXT), expected, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr("lm_evaluation.lm_losses.TOKENS_AT_ONCE", 1)  # less than a window is still a window
    np.testing.assert_allclose(token_losses(model, ids.to(dtype), CONTEXT), expected, rtol=1e-5, atol=1e-6)


def test_a_model_that_knows_nothing_scores_log_v():
    losses, _ = token_losses(fresh_decoder(), ids_of(100), CONTEXT)
    np.testing.assert_allclose(losses, math.log(13), rtol=1e-6)
    score = score_integers(fresh_decoder(vocabulary=9, context=10), IntegerTask("repeat", 5, 9, 0, CPU), 64)
    assert score.loss == pytest.approx(math.log(9), rel=1e-6)
    assert score.second_half_loss == pytest.approx(math.log(9), rel=1e-6)
    np.testing.assert_allclose(score.by_position, math.log(9), rtol=1e-6)


def test_evaluation_is_in_fp32_without_dropout_and_leaves_the_model_as_it_was():
    ids = ids_of(40)
    exact, _ = token_losses(tiny_decoder(), ids, CONTEXT)
    model = tiny_decoder(dropout=0.5)
    model.compute = torch.bfloat16
    for training in (True, False):
        model.train(training)
        np.testing.assert_array_equal(token_losses(model, ids, CONTEXT)[0], exact)
        assert model.training == training
        assert model.compute == torch.bfloat16
    model.train()
    with evaluating(model):
        assert not model.training
        assert not torch.is_grad_enabled()
    with pytest.raises(ZeroDivisionError), evaluating(model):
        _ = 1 / 0
    assert model.training
    rounded = window_losses(model, ids[None, : CONTEXT + 1], torch.bfloat16)[0].numpy()
    assert 0 < np.abs(rounded - exact[:CONTEXT]).max() < 0.2


def test_bits_per_character_by_hand():
    assert bits_per_character(math.log(2) * 30, 10) == pytest.approx(3.0)
    # a uniform guess among 16 characters takes 4 bits, whether a token is one of them or two
    assert bits_per_character(50 * math.log(16), 50) == bits_per_character(25 * math.log(256), 50) == pytest.approx(4)


# ---------------------------------------------------------------- integers


@pytest.mark.parametrize(("kind", "n", "V"), [("ascending", 8, 13), ("repeat", 5, 13), ("induction", 9, 36)])
def test_integers_one_prediction_at_a_time(kind, n, V, monkeypatch):
    monkeypatch.setattr("lm_evaluation.lm_losses.TOKENS_AT_ONCE", 30)
    task = IntegerTask(kind, n, V, 3, CPU)
    model = tiny_decoder(vocabulary=V, context=task.context)
    score = score_integers(model, task, 11)
    at_once = 30 // task.context
    losses, marked, right = [], [], []
    for done in range(0, 11, at_once):
        sequences = task.draw(min(at_once, 11 - done), EVALUATION + done)
        for row, scored in zip(sequences.tokens, task.scored(sequences).tolist(), strict=True):
            losses.append([loss_of_one(model, row, 0, i) for i in range(1, len(row))])
            marked.append(scored)
            with torch.no_grad():
                right.append((model(row[None, :-1])[0].argmax(-1) == row[1:]).tolist())
    table, mask = np.array(losses), np.array(marked)
    assert len(table) == 11
    assert score.loss == pytest.approx(table.mean(), rel=1e-4)
    assert score.second_half_loss == pytest.approx(table[mask].mean(), rel=1e-4)
    assert score.accuracy == pytest.approx(np.array(right)[mask].mean())
    np.testing.assert_allclose(score.by_position, table.mean(0), rtol=1e-4)


class Oracle(Decoder):
    """Knows what follows in `repeat`: a uniform guess in the first half, certainty afterwards."""

    def forward(self, tokens: torch.Tensor, cache: Any = None) -> torch.Tensor:
        n, V = tokens.size(1) // 2, self.shape.vocabulary
        logits = torch.zeros(*tokens.shape, V)
        logits[:, : n - 1, 0] = -torch.inf  # no separator among the first n
        certain = torch.cat([torch.zeros_like(tokens[:, :1]), tokens[:, :n]], 1)
        logits[:, n - 1 :] = 100 * F.one_hot(certain, V)[:, : n + 1]
        return logits


@pytest.mark.parametrize(("n", "V"), [(5, 5), (32, 64)])
def test_a_model_that_knows_all_reaches_the_floor(n, V):
    task = IntegerTask("repeat", n, V, 0, CPU)
    score = score_integers(Oracle(tiny_decoder(vocabulary=V, context=2 * n).shape), task, 200)
    assert score.loss == pytest.approx(task.floors.mean(), abs=1e-6)
    assert score.second_half_loss == pytest.approx(0, abs=1e-6)
    assert score.accuracy == 1.0
    np.testing.assert_allclose(score.by_position, task.floors, atol=1e-6)


# ---------------------------------------------------------------- nothing can be known about random tokens


@pytest.fixture(scope="module")
def learned() -> Decoder:
    """Thirty steps on ascending integers, which leave it sure of things that are wrong elsewhere."""
    task = IntegerTask("ascending", 13, 26, 0, CPU)
    model = tiny_decoder(vocabulary=26)
    model.train()
    optimizer = Optimizer(
        model,
        {"matrix": 0.02, "embedding": 0.03, "ngrams": 0.01, "head": 0.004, "scalar": 0.03},
        0.0,
        True,
        torch.float32,
    )
    losses = []
    for step in range(30):
        sequences = task.draw(16, step)
        loss = F.cross_entropy(model(sequences.inputs).flatten(0, 1), sequences.targets.flatten())
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step(step, 1.0)
    assert losses[-1] < 0.6 * math.log(26)  # it has learned something
    return model.eval()


@pytest.mark.parametrize("which", [0, 1])
def test_the_loss_on_random_tokens_is_never_below_log_v(learned, which):
    losses = token_losses(learned, ids_of(6001, 26, seed=5), CONTEXT)[which]
    assert losses.mean() > math.log(26) - 4 * losses.std() / math.sqrt(len(losses))


@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
def test_no_untrained_variant_beats_chance_on_random_tokens(variant):
    losses, _ = token_losses(tiny_decoder(*variant), ids_of(3001, seed=6), CONTEXT)
    assert losses.mean() > math.log(13) - 4 * losses.std() / math.sqrt(len(losses))


# ---------------------------------------------------------------- checkpoints

TEXT = "To be, or not to be: that is the question.\n" * 8


def saved(path: Path, kind: str | None = "char", arch: Any = "modern", without: tuple[str, ...] = ()) -> Decoder:
    vocabulary = build(kind, TEXT, 300) if kind else None
    model = tiny_decoder(arch, without, vocabulary=vocabulary.size if vocabulary else 13)
    save_checkpoint(path, {"step": 3, **checkpoint_state(model, vocabulary, "text" if kind else "repeat")})
    return model


@pytest.mark.parametrize("kind", [None, "char", "word", "bpe"])
@pytest.mark.parametrize("variant", [*VARIANTS[:2], ("modern", ("rotary", "shift"))], ids=name_of)
def test_a_checkpoint_gives_the_same_model_back(tmp_path, kind, variant):
    model = saved(tmp_path / "checkpoint.pt", kind, *variant)
    trained = load_trained(tmp_path / "checkpoint.pt", CPU)
    assert trained.model.shape == model.shape
    assert not trained.model.training
    tokens = random_tokens(model, 2)
    assert torch.equal(trained.model(tokens), model(tokens))
    assert trained.task == ("text" if kind else "repeat")
    vocabulary = trained.vocabulary
    assert isinstance(vocabulary, Vocabulary) == (kind is not None)
    if vocabulary:
        assert vocabulary.encode("to be").tolist() == build(str(kind), TEXT, 300).encode("to be").tolist()


def test_a_checkpoint_of_the_first_hash_is_read_where_that_was_the_same(tmp_path):
    for vocabulary, same in ((13, True), (65, True), (127, False), (255, False)):
        state = checkpoint_state(fresh_decoder(vocabulary=vocabulary), None, "repeat")
        save_checkpoint(tmp_path / "new.pt", state)
        load_trained(tmp_path / "new.pt", CPU)
        del state["hashing"]  # as older ones are
        save_checkpoint(tmp_path / "old.pt", state)
        if same:
            load_trained(tmp_path / "old.pt", CPU)
        else:
            with pytest.raises(BadInput, match="lost the oldest tokens: train again"):
                load_trained(tmp_path / "old.pt", CPU)


def refusal(path: Path) -> str:
    with pytest.raises(BadInput) as error:
        load_trained(path, CPU)
    sentence = str(error.value)
    assert path.name in sentence
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04" + b"\0" * 60, b"\x80\x02}q\x00."])
def test_a_foreign_file_is_one_sentence(tmp_path, content):
    (tmp_path / "checkpoint.pt").write_bytes(content)
    refusal(tmp_path / "checkpoint.pt")


def test_a_missing_file_is_one_sentence(tmp_path):
    assert "does not exist" in refusal(tmp_path / "checkpoint.pt")


def test_a_folder_is_one_sentence(tmp_path):
    (tmp_path / "checkpoint.pt").mkdir()
    refusal(tmp_path / "checkpoint.pt")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_is_one_sentence(tmp_path, part):
    saved(tmp_path / "checkpoint.pt")
    data = (tmp_path / "checkpoint.pt").read_bytes()
    (tmp_path / "checkpoint.pt").write_bytes(data[: int(part * len(data))])
    refusal(tmp_path / "checkpoint.pt")


@pytest.mark.parametrize(
    "foreign", [{"state": {}, "step": 3}, {"model": {}, "optimizer": {}}, {}, {"shape": None}, [1]]
)
def test_a_checkpoint_of_another_script_is_one_sentence(tmp_path, foreign):
    save_checkpoint(tmp_path / "checkpoint.pt", foreign)
    assert "not a checkpoint" in refusal(tmp_path / "checkpoint.pt")


def changes() -> dict[str, Any]:
    """Name -> what to do to a good checkpoint of a text model."""

    def shape(**values: Any) -> Any:
        return lambda state: state["shape"].update(values)

    def vocabulary(**values: Any) -> Any:
        return lambda state: state["vocabulary"].update(values)

    return {
        **{f"no {key}": (lambda state, key=key: state.pop(key)) for key in ("shape", "model", "vocabulary", "task")},
        "no width": lambda state: state["shape"].pop("width"),
        "other width": shape(width=64),
        "width of no number": shape(width="wide"),
        "negative width": shape(width=-32),
        "more layers": shape(layers=3),
        "fewer layers": shape(layers=1),
        "other vocabulary": shape(vocabulary=99),
        "no heads": shape(heads=0),
        "heads that do not divide": shape(heads=3),
        "context of nothing": shape(context=0),
        "context of no number": shape(context="long"),
        "the paper's parts": shape(parts=[]),
        "unknown part": lambda state: state["shape"]["parts"].append("telepathy"),
        "parts of no name": shape(parts=7),
        "unknown size": shape(depth=7),
        "no tensors": lambda state: state.update(model={}),
        "one tensor less": lambda state: state["model"].pop("head"),
        "one tensor more": lambda state: state["model"].update(extra=torch.zeros(2)),
        "weights of no tensor": lambda state: state["model"].update(head=3),
        "vocabulary of no name": vocabulary(kind="runes"),
        "vocabulary without pieces": lambda state: state["vocabulary"].pop("pieces"),
        "pieces of no text": vocabulary(pieces=[1, 2]),
        "fewer pieces than the model has": lambda state: state["vocabulary"]["pieces"].pop(),
        "vocabulary of no dict": lambda state: state.update(vocabulary="abc"),
        "broken tokenizer": lambda state: state.update(vocabulary={"kind": "bpe", "json": "{broken"}),
        "tokenizer of no text": lambda state: state.update(vocabulary={"kind": "bpe", "json": 3}),
    }


@pytest.mark.parametrize("change", changes())
def test_a_changed_checkpoint_is_one_sentence(tmp_path, change):
    path = tmp_path / "checkpoint.pt"
    saved(path)
    state = load_checkpoint(path)
    changes()[change](state)
    save_checkpoint(path, state)
    assert "is not a checkpoint of this version" in refusal(path)


def test_a_checkpoint_holds_no_code(tmp_path):
    saved(tmp_path / "checkpoint.pt", "bpe")
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state.keys() == {"step", "shape", "model", "finished", "vocabulary", "task", "hashing"}
