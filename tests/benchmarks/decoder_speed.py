"""Training and sampling speed of the default decoders beside the machine's limit. Run by hand, about a minute:

    python tests/benchmarks/decoder_speed.py

Everything in one process. Medians of REPEATS on all cores, for both widths that texts get: tokens per second of forward and
backward with the fast kernels, and beside the machine's matrix multiply; the optimiser's step. Of the narrower, also with
the plain formulas, PyTorch's attention and a dense gradient of the tables, in bf16 and fp32, and `torch.optim.Muon`. Then
sampling with and without the KV cache on one core (medians of 5 and 2).
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
from optimisation.learning_rates import MUON_RATES
from optimisation.muon import Muon
from optimisation.optimizer import Optimizer, kind_of

REPEATS = 15
BATCH, CONTEXT = 8, 256
SHAPE, WIDER = (Shape(65, CONTEXT, 4, heads, width, parts_of("modern")) for heads, width in ((2, 128), (3, 192)))


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


def step_seconds(model: Decoder, optimizer: Optimizer, gradients: list[Tensor | None]) -> float:
    """The median of steps with these gradients, which a step clears."""

    def step() -> None:
        for p, g in zip(model.parameters(), gradients, strict=True):
            p.grad = g
        optimizer.step(200, 1e-4)

    return median_seconds(step)


def flops_per_token(shape: Shape) -> float:
    """Of a gradient: six for each parameter but those of tables, of which a token reads a few rows, and attention's."""
    tables = ("embedding", "ngrams")
    n_params = sum(p.numel() for name, p in Decoder(shape).named_parameters() if name not in tables)
    return 6 * n_params + 12 * shape.layers * shape.width * CONTEXT / 2  # causal half of attention


def main() -> None:
    configure_cpu(available_cores())
    keep_freed_memory()
    best, why = compute_dtype(torch.device("cpu"))
    print(f"{available_cores()} cores, {str(best)[6:]} is the default ({why}); medians of {REPEATS}")
    a = torch.randn(1024, 1024)
    limit = {}
    for dtype in (best, torch.float32):
        x = a.to(dtype)
        limit[dtype] = 2 * 1024**3 / median_seconds(lambda x=x: x @ x) / 1e9
        print(f"matrix multiply, {str(dtype)[6:]}: {limit[dtype]:.0f} GFLOP/s")

    tokens = torch.randint(65, (BATCH, CONTEXT + 1))
    kinds = {
        "fast kernels": FAST,
        "fast, PyTorch's attention": replace(FAST, attention=pytorch_attention),
        "fast, dense gradient of the tables": replace(FAST, look_up=PLAIN.look_up),
        "plain formulas": PLAIN,
    }
    cases = [(SHAPE, dtype, name) for dtype in (best, torch.float32) for name in kinds]
    for shape, dtype, name in [*cases[:1], (WIDER, best, "fast kernels"), *cases[1:]]:
        model = Decoder(shape, dtype, kinds[name])
        seconds = median_seconds(lambda model=model: training_step(model, tokens))
        speed = flops_per_token(shape) * BATCH * CONTEXT / seconds / 1e9
        print(
            f"gradient, width {shape.width}, {str(dtype)[6:]}, {name}: {BATCH * CONTEXT / seconds:,.0f} tokens/s, "
            f"{speed:.0f} GFLOP/s, {speed / limit[dtype]:.0%} of the multiply"
        )
        if name == "fast kernels" and dtype == best:
            optimizer = Optimizer(model, MUON_RATES, 0.0, True, best)
            training_step(model, tokens)
            kept = [p.grad for p in model.parameters()]
            print(f"the optimiser's step, width {shape.width}: {1e3 * step_seconds(model, optimizer, kept):.1f} ms")

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
