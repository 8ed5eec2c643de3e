"""Sampling: which tokens may be chosen and how often, the cache against reading everything again, the command line."""

import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sample
from common.cli import run_main
from common.files import save_checkpoint
from decoder_model.decoder import Decoder
from lm_evaluation import generation
from lm_evaluation.checkpoints import checkpoint_state, load_text_model
from lm_evaluation.generation import choose, generate
from texts.seeds import derived_seed
from texts.vocabulary import build
from tiny_decoder import VARIANTS, name_of, random_tokens, tiny_decoder

logit_rows = st.lists(st.integers(-40, 40), min_size=2, max_size=12, unique=True).map(
    lambda tenths: torch.tensor([[t / 10 for t in tenths]])
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(derived_seed(seed, 0))


# ---------------------------------------------------------------- which token


def allowed(logits: list[float], temperature: float, top_k: int, top_p: float) -> dict[int, float]:
    """Token -> probability by the definitions: the k likeliest, of them the fewest with `top_p`, made to sum to 1."""
    exps = {i: math.exp(logit / temperature) for i, logit in enumerate(logits)}
    ranked = sorted(exps, key=lambda i: -exps[i])[: top_k or None]
    total = sum(exps[i] for i in ranked)
    nucleus: list[int] = []
    while sum(exps[i] for i in nucleus) < top_p * total and len(nucleus) < len(ranked):
        nucleus.append(ranked[len(nucleus)])
    total = sum(exps[i] for i in nucleus)
    return {i: exps[i] / total for i in nucleus}


def chosen_probabilities(
    monkeypatch: Any, logits: torch.Tensor, temperature: float, top_k: int, top_p: float
) -> torch.Tensor:
    """The weights (B, V) that `choose` hands to the draw."""
    asked: list[torch.Tensor] = []
    with monkeypatch.context() as patch:
        patch.setattr(torch, "multinomial", lambda weights, *_, **__: asked.append(weights) or weights.argmax(-1, True))
        choose(logits, temperature, top_k, top_p, seeded())
    return asked[0] / asked[0].sum(-1, keepdim=True)


@settings(deadline=None)
@given(
    logits=logit_rows,
    temperature=st.sampled_from([0.3, 0.8, 1.0, 2.0]),
    top_k=st.integers(0, 14),
    top_p=st.sampled_from([1.0, 0.97, 0.9, 0.503, 0.1, 1e-6]),
)
def test_the_weights_of_the_draw_are_those_of_the_definition(logits, temperature, top_k, top_p):
    with pytest.MonkeyPatch.context() as patch:
        found = chosen_probabilities(patch, logits, temperature, top_k, top_p)[0]
    expected = allowed(logits[0].tolist(), temperature, top_k, top_p)
    # Where the sum lies within rounding of top_p, one token more or less is right too.
    boundary = np.cumsum(sorted(allowed(logits[0].tolist(), temperature, top_k, 1.0).values(), reverse=True))
    if np.abs(boundary[:-1] - top_p).min(initial=1) > 1e-5 or top_p == 1.0:
        assert set(found.nonzero().flatten().tolist()) == set(expected)
        for token, p in expected.items():
            assert float(found[token]) == pytest.approx(p, rel=1e-3)


def test_draws_come_as_often_as_they_should():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, 0.5]])
    expected = allowed(logits[0].tolist(), 1.5, 4, 0.9)
    assert set(expected) == {0, 1, 4, 2}
    n, random = 20_000, seeded()
    draws = choose(logits.expand(n, -1), 1.5, 4, 0.9, random).flatten()
    counts = torch.bincount(draws, minlength=5).tolist()
    for token in range(5):
        p = expected.get(token, 0.0)
        assert abs(counts[token] - n * p) <= 5 * math.sqrt(n * p * (1 - p))


def test_top_p_by_hand(monkeypatch):
    # probabilities 0.5, 0.3, 0.15, 0.05: the token that crosses the line belongs to the set
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    for top_p, expected in ((0.49, [1.0]), (0.79, [0.625, 0.375]), (0.94, [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95])):
        found = chosen_probabilities(monkeypatch, logits, 1.0, 0, top_p)[0]
        assert found.tolist() == pytest.approx([*expected, *[0.0] * (4 - len(expected))], abs=1e-6)


def test_top_k_comes_before_top_p(monkeypatch):
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    # of the two likeliest, the first has 4/7 > 0.5; of all four it has 0.4 < 0.5
    assert chosen_probabilities(monkeypatch, logits, 1.0, 2, 0.5)[0].tolist() == pytest.approx([1, 0, 0, 0])
    assert chosen_probabilities(monkeypatch, logits, 1.0, 0, 0.5)[0].tolist() == pytest.approx([4 / 7, 3 / 7, 0, 0])


@given(logits=logit_rows, top_k=st.integers(0, 3), top_p=st.sampled_from([0.2, 1.0]))
def test_temperature_0_takes_the_likeliest(logits, top_k, top_p):
    assert int(choose(logits, 0, top_k, top_p, seeded())) == int(logits.argmax())


@given(logits=logit_rows)
def test_one_token_to_choose_from_is_the_likeliest(logits):
    for options in ((1.0, 1, 1.0), (1.0, 0, 1e-6), (1e-3, 0, 1.0)):
        assert int(choose(logits, *options, seeded())) == int(logits.argmax())


@pytest.mark.parametrize("temperature", [1e-6, 1e-38, 1e-45, 1e-300])
def test_a_temperature_of_nearly_0_takes_the_likeliest_too(temperature):
    logits = torch.tensor([[-3.0, 14.0, 2.0]])
    assert int(choose(logits, temperature, 0, 1.0, seeded())) == 1


def test_rows_of_a_batch_are_drawn_each_by_itself():
    logits = torch.tensor([[9.0, 0.0, 0.0], [0.0, 0.0, 9.0]])
    for options in ((0, 0, 1.0), (0.1, 2, 1.0), (0.1, 0, 0.9)):
        assert choose(logits, *options, seeded()).tolist() == [[0], [2]]


def test_the_seed_decides():
    logits = torch.zeros(1, 50)
    draws = [
        [int(choose(logits, 1.0, 0, 1.0, random)) for _ in range(8)] for random in (seeded(1), seeded(1), seeded(2))
    ]
    assert draws[0] == draws[1] != draws[2]


# ---------------------------------------------------------------- many tokens


def slow(model: Decoder, prompt: torch.Tensor, picks: Callable[[torch.Tensor], torch.Tensor], tokens: int) -> None:
    """Ask `picks` for one token after the other, everything read again for each: the context, then its second half."""
    context = model.shape.context
    read = prompt[:, -context:]
    for _ in range(tokens):
        with torch.no_grad():
            read = torch.cat([read, picks(model(read)[:, -1])], 1)
        if read.size(1) > context:
            read = read[:, -max(1, context // 2) :]


class Picks:
    """Random tokens (B, 1), whatever the logits, which are kept: a greedy choice soon runs in circles."""

    def __init__(self, model: Decoder):
        self.vocabulary, self.random, self.logits = model.shape.vocabulary, seeded(9), []

    def __call__(self, logits: torch.Tensor, *_: Any) -> torch.Tensor:
        self.logits.append(logits)
        return torch.randint(self.vocabulary, (len(logits), 1), generator=self.random)


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (2, 5), (2, 11), (2, 12), (1, 30)])
@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
def test_every_token_is_chosen_by_the_logits_of_all_that_is_read(variant, batch, length, monkeypatch):
    model = tiny_decoder(*variant)
    prompt = random_tokens(model, batch, length)
    ours, expected = Picks(model), Picks(model)
    monkeypatch.setattr(generation, "choose", ours)
    found = torch.cat(list(generate(model, prompt, 40)), 1)
    slow(model, prompt, expected, 40)
    assert found.shape == (batch, 40)
    assert len(ours.logits) == 40
    torch.testing.assert_close(torch.stack(ours.logits), torch.stack(expected.logits), rtol=0, atol=2e-5)


def greedy(model: Decoder, prompt: torch.Tensor, tokens: int) -> torch.Tensor:
    taken: list[torch.Tensor] = []
    slow(model, prompt, lambda logits: taken.append(logits.argmax(-1, True)) or taken[-1], tokens)
    return torch.cat(taken, 1)


@pytest.mark.parametrize("variant", VARIANTS[:2], ids=name_of)
def test_greedy_text_equals_reading_everything_again(variant):
    model = tiny_decoder(*variant)
    for prompt in (random_tokens(model, 2, 5), random_tokens(model, 1, 30)):
        found = torch.cat(list(generate(model, prompt, 40, temperature=0)), 1)
        assert torch.equal(found, greedy(model, prompt, 40))


@pytest.mark.parametrize("context", [1, 2, 3])
def test_the_shortest_contexts(context):
    model = tiny_decoder(context=context)
    prompt = random_tokens(model, 2, 4)
    assert torch.equal(torch.cat(list(generate(model, prompt, 9, temperature=0)), 1), greedy(model, prompt, 9))


def test_positions_stay_among_those_of_training(monkeypatch):
    model = tiny_decoder()
    asked: list[tuple[int, int]] = []
    places = model.positions
    monkeypatch.setattr(
        model, "positions", lambda start, length: asked.append((start, length)) or places(start, length)
    )
    list(generate(model, random_tokens(model, 1, 3), 50, temperature=0))
    assert max(start + length for start, length in asked) == model.shape.context
    assert sum(length > 1 for _, length in asked) < 10  # most tokens are read once


def test_sampling_needs_no_generator_and_follows_one():
    model = tiny_decoder()
    prompt = random_tokens(model, 1, 3)

    def text(random: torch.Generator | None) -> list[int]:
        return [int(token) for token in generate(model, prompt, 20, random=random)]

    assert text(None) == text(None)
    assert text(seeded(5)) == text(seeded(5)) != text(seeded(6))


# ---------------------------------------------------------------- the script

TEXT = "To be, or not to be: thät is the question.\n" * 9


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A working folder with a text run of each tokenizer and an integer run under results/, the `char` one the latest."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sample, "configure_cpu", lambda threads: None)
    for age, kind in enumerate(("char", "word", "bpe", None)):
        folder = tmp_path / "results/transformers" / (kind or "repeat")
        vocabulary = build(kind, TEXT, 300) if kind else None
        model = tiny_decoder(vocabulary=vocabulary.size if vocabulary else 13)
        save_checkpoint(folder / "checkpoint.pt", {"step": 1, **checkpoint_state(model, vocabulary, kind or "repeat")})
        if kind:
            (folder / "anchors.json").write_text("{}")
        os.utime(folder / "checkpoint.pt", (1e9 - age, 1e9 - age))
    return tmp_path


def inline(monkeypatch: Any, *arguments: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["transformers/sample.py", "--results-dir", "results", *arguments])
    with pytest.raises(SystemExit) as stop:
        run_main(sample.main)
    return stop.value.code


def one_sentence(err: str) -> str:
    assert err.startswith("error: "), err
    assert len(err.splitlines()) == 1, err
    return err


def checkpoint_of(kind: str) -> str:
    return f"results/transformers/{kind}/checkpoint.pt"


def test_a_prompt_longer_than_the_context_is_told(place, monkeypatch, capsys):
    path = checkpoint_of("char")
    context = load_text_model(Path(path), torch.device("cpu"))[0].context
    for length, told in ((context, False), (context + 1, True)):
        prompt = "to be " * 99
        assert inline(monkeypatch, "--checkpoint", path, "--prompt", prompt[:length], "--tokens", "3") == 0
        assert (
            f"NOTE: the prompt has {length} tokens, of which the model reads the last {context}"
            in capsys.readouterr().err
        ) is told


@pytest.mark.parametrize("kind", ["char", "word", "bpe"])
@pytest.mark.parametrize("options", [(), ("--temperature", "0"), ("--top-k", "3"), ("--top-p", "0.5")])
def test_what_is_printed_is_the_prompt_and_the_text(place, monkeypatch, capsys, kind, options):
    assert (
        inline(monkeypatch, "--checkpoint", checkpoint_of(kind), "--prompt", "to be", "--tokens", "40", *options) == 0
    )
    out, err = capsys.readouterr()
    model, vocabulary = load_text_model(Path(checkpoint_of(kind)), torch.device("cpu"))
    chosen: dict[str, Any] = {"temperature": 0.8}
    if options:
        name = options[0][2:].replace("-", "_")
        chosen[name] = int(options[1]) if name == "top_k" else float(options[1])
    prompt = torch.from_numpy(vocabulary.encode("to be"))[None]
    ids = [int(token) for token in generate(model, prompt, 40, random=seeded(), **chosen)]
    assert out == "to be" + vocabulary.decode(ids) + "\n"
    assert err.strip().endswith("tokens/s")


def test_text_comes_as_soon_as_it_is_made(place, monkeypatch, capsys):
    seen: list[str] = []

    def watched(*arguments: Any, **options: Any) -> Any:
        for token in generate(*arguments, **options):
            seen.append(capsys.readouterr().out)
            yield token

    monkeypatch.setattr(sample, "generate", watched)
    assert inline(monkeypatch, "--prompt", "to", "--tokens", "10") == 0
    assert seen[0] == "to"
    assert all(len(piece) == 1 for piece in seen[1:])


def test_a_character_of_several_tokens_is_put_together(place, monkeypatch, capsys):
    _, vocabulary = load_text_model(Path(checkpoint_of("bpe")), torch.device("cpu"))
    ids = [vocabulary.tokens.index(bytes([byte])) for byte in "ä→".encode()]
    monkeypatch.setattr(sample, "generate", lambda *_, **__: (torch.tensor([[i]]) for i in ids))
    assert inline(monkeypatch, "--checkpoint", checkpoint_of("bpe"), "--prompt", "to") == 0
    assert capsys.readouterr().out == "toä→\n"
    monkeypatch.setattr(sample, "generate", lambda *_, **__: (torch.tensor([[i]]) for i in ids[:1]))
    assert inline(monkeypatch, "--checkpoint", checkpoint_of("bpe"), "--prompt", "to") == 0
    assert capsys.readouterr().out == "to\ufffd\n"  # half a character


def test_the_latest_text_run_is_taken_and_the_seed_decides(place, monkeypatch, capsys):
    texts = []
    for arguments in ((), ("--checkpoint", checkpoint_of("char")), ("--seed", "1")):
        assert inline(monkeypatch, "--prompt", "to be", "--tokens", "30", *arguments) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--tokens", "0"), "--tokens must be at least 1"),
        (("--tokens", "-5"), "--tokens must be at least 1"),
        (("--tokens", "many"), "--tokens"),
        (("--temperature", "-1"), "--temperature must be 0 or more"),
        (("--temperature", "nan"), "--temperature must be 0 or more"),
        (("--temperature", "inf"), "--temperature must be 0 or more"),
        (("--top-k", "-1"), "--top-k must be 0 or more"),
        (("--top-p", "0"), "--top-p must be above 0"),
        (("--top-p", "1.5"), "--top-p must be above 0"),
        (("--top-p", "nan"), "--top-p must be above 0"),
        (("--prompt", ""), "--prompt is empty"),
        (("--prompt", "漢字"), "characters that the training text has not: '字' '漢'"),
        (("--prompt", "to\udce4"), "not valid Unicode"),
        (("--device", "mps"), "no MPS device"),
        (("--checkpoint", "absent.pt"), "absent.pt does not exist"),
        (("--checkpoint", checkpoint_of("repeat")), "was trained on integers (repeat), not on a text"),
        (("--checkpoint", "results/transformers/char"), "results/transformers/char"),
        (("--results-dir", "nowhere"), "no run with a checkpoint.pt below nowhere/transformers"),
        (("--seed", str(2**64)), "--seed"),
    ],
)
def test_bad_input_is_one_sentence(place, monkeypatch, capsys, arguments, sentence):
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    assert inline(monkeypatch, *arguments) == 2
    out, err = capsys.readouterr()
    assert sentence in one_sentence(err)
    assert out == ""


def test_only_integer_runs_are_no_text_run(place, monkeypatch, capsys):
    for kind in ("char", "word", "bpe"):
        (place / checkpoint_of(kind)).unlink()
    assert inline(monkeypatch) == 2
    assert "no run with a checkpoint.pt" in one_sentence(capsys.readouterr().err)
