"""Training and sampling speed of the default decoder beside the machine's limit. Run by hand, about a minute:

    python tests/benchmarks/decoder_speed.py

Everything in one process. Medians of REPEATS on all cores: tokens per second of forward and backward with the fast kernels,
the plain formulas and PyTorch's attention, in bf16 and fp32; the optimiser with all matrices of a shape at once beside
`torch.optim.Muon`. Then sampling with and without the KV cache on one core (medians of 5 and 2).
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "transformers"))

from common.device import compute_dtype, configure_cpu, keep_freed_memory
from common.provenance import available_cores
from decoder_model.decoder import Decoder, Shape
from decoder_model.kernels import FAST, PLAIN
from lm_evaluation.generation import generate
from lm_settings.choices import parts_of
from optimisation.muon import Muon
from optimisation.optimizer import kind_of

REPEATS = 15
BATCH, CONTEXT = 8, 256
SHAPE = Shape(65, CONTEXT, 4, 2, 128, parts_of("modern"))


def median_seconds(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """The median of `repeats` runs after three."""
    times = []
    for _ in range(repeats + 3):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times[3:])


def pytorch_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], is_causal=True)[:, 0]


def training_step(model: Decoder, tokens: Tensor) -> None:
    model.zero_grad()
    F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()


def main() -> None:
    configure_cpu(available_cores())
    keep_freed_memory()
    best, why = compute_dtype(torch.device("cpu"))
    print(f"{available_cores()} cores, {str(best)[6:]} is the default ({why}); medians of {REPEATS}")
    a = torch.randn(1024, 1024)
    for dtype in {torch.float32, best}:
        x = a.to(dtype)
        print(f"matrix multiply, {str(dtype)[6:]}: {2 * 1024**3 / median_seconds(lambda x=x: x @ x) / 1e9:.0f} GFLOP/s")

    tokens = torch.randint(65, (BATCH, CONTEXT + 1))
    tables = ("embedding", "ngrams")  # of which a token reads a few rows
    n_params = sum(p.numel() for name, p in Decoder(SHAPE).named_parameters() if name not in tables)
    flops = 6 * n_params + 12 * SHAPE.layers * SHAPE.width * CONTEXT / 2  # per token, causal half of attention
    kinds = {
        "fast kernels": FAST,
        "fast, PyTorch's attention": replace(FAST, attention=pytorch_attention),
        "plain formulas": PLAIN,
    }
    for dtype in (best, torch.float32):
        for name, kernels in kinds.items():
            model = Decoder(SHAPE, dtype, kernels)
            seconds = median_seconds(lambda model=model: training_step(model, tokens))
            rate = BATCH * CONTEXT / seconds
            print(f"gradient, {str(dtype)[6:]}, {name}: {rate:,.0f} tokens/s, {rate * flops / 1e9:.0f} GFLOP/s")

    model = Decoder(SHAPE, best)
    training_step(model, tokens)
    matrices = [p for name, p in model.named_parameters() if kind_of(name, p) == "matrix"]
    ours = Muon(matrices, best)
    print(f"Muon, one batch per shape: {1e3 * median_seconds(lambda: ours.step(1e-4, 0.95, 0.0)):.1f} ms a step")
    if hasattr(torch.optim, "Muon"):
        theirs = torch.optim.Muon(matrices, lr=1e-4, weight_decay=0.0)
        print(f"torch.optim.Muon: {1e3 * median_seconds(theirs.step):.1f} ms a step")

    torch.set_num_threads(1)  # as sample.py does
    model = Decoder(SHAPE).eval()
    prompt = tokens[:1, :1]
    seconds = median_seconds(lambda: list(generate(model, prompt, CONTEXT)), 5)
    print(f"sampling with the KV cache, fp32, 1 thread: {CONTEXT / seconds:.0f} tokens/s")
    with torch.no_grad():
        seconds = median_seconds(lambda: [model(tokens[:1, : n + 1]) for n in range(CONTEXT)], 2)
    print(f"sampling without it: {CONTEXT / seconds:.0f} tokens/s")


if __name__ == "__main__":
    main()
