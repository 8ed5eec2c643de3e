"""Text from a trained decoder, one token at a time, with the keys and values of what it has read kept (KV cache).

    python transformers/sample.py --prompt "ROMEO:" --tokens 500

takes the latest text run under results/transformers (or `--checkpoint PATH`) and prints the text as it comes.
"""

import os

os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")

import codecs
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from common.cli import parse, run_main, shown
from common.device import DeviceName, choose_device, configure_cpu
from common.errors import BadInput
from common.provenance import latest_run, results_folder
from decoder import Cache, Decoder
from evaluation import load_trained
from tasks import mix
from vocabulary import Vocabulary


@dataclass(frozen=True)
class Config:
    checkpoint: str | None = None
    """checkpoint.pt of a text run; default: the latest"""
    prompt: str | None = None
    """text to continue; default: a new line, or the first character the model knows"""
    tokens: int = 500
    """tokens to add"""
    temperature: float = 0.8
    """divides the logits: 0 takes the likeliest token, 1 samples as trained"""
    top_k: int = 0
    """sample among the k likeliest tokens only; 0: all"""
    top_p: float = 1.0
    """sample among the likeliest tokens that together have this probability"""
    seed: int = 0
    """seed of the sampling"""
    device: DeviceName = "auto"
    """where to run; auto takes the CPU, whose steps are shorter than an accelerator's launches"""
    results_dir: str | None = None
    """where the latest run is looked for; default: results/ in the repository"""


def choose(logits: Tensor, temperature: float, top_k: int, top_p: float, random: torch.Generator) -> Tensor:
    """One token id per row of logits (B, V): (B, 1).

    The order is temperature, the k likeliest, then of these the smallest set with probability `top_p` (Holtzman et al.
    2020); the token that crosses `top_p` belongs to the set.
    """
    if temperature < 1e-6:  # the same, and no division by what fp32 takes for 0
        return logits.argmax(-1, keepdim=True)
    logits = (logits - logits.amax(-1, keepdim=True)) / temperature
    if 0 < top_k < logits.size(-1):
        least = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    probabilities = logits.softmax(-1)
    if top_p < 1:
        ordered, order = probabilities.sort(-1, descending=True)
        before = ordered.cumsum(-1) - ordered
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered.masked_fill(before >= top_p, 0.0))
    return torch.multinomial(probabilities, 1, generator=random)


@torch.no_grad()
def generate(
    model: Decoder,
    prompt: Tensor,
    tokens: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    random: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """`tokens` ids (B, 1), one at a time, that continue `prompt` (B, T).

    The model reads at most its context. When that is full, its second half is read again as a new beginning, so that
    positions stay among those it was trained on.
    """
    random = random or torch.Generator(prompt.device).manual_seed(0)
    context = model.shape.context
    read = prompt[:, -context:]
    empty = model.embedding.new_empty(0, dtype=model.compute)
    cache = Cache(model.shape, len(prompt), context, empty)
    logits = model(read, cache)[:, -1]
    for left in range(tokens, 0, -1):
        token = choose(logits, temperature, top_k, top_p, random)
        yield token
        if left == 1:
            return
        if cache.length < context:
            read = torch.cat([read, token], 1)
            logits = model(token, cache)[:, -1]
        else:
            read = torch.cat([read, token], 1)[:, -max(1, context // 2) :]
            cache = Cache(model.shape, len(prompt), context, empty)
            logits = model(read, cache)[:, -1]


def check(config: Config) -> None:
    """BadInput for what cannot be sampled."""
    if config.tokens < 1:
        raise BadInput(f"--tokens must be at least 1, not {config.tokens}")
    if not (math.isfinite(config.temperature) and config.temperature >= 0):
        raise BadInput(f"--temperature must be 0 or more, not {config.temperature}")
    if config.top_k < 0:
        raise BadInput(f"--top-k must be 0 or more, not {config.top_k}")
    if not 0 < config.top_p <= 1:
        raise BadInput(f"--top-p must be above 0 and at most 1, not {config.top_p}")
    if not 0 <= config.seed < 1 << 63:
        raise BadInput(f"--seed must not be negative or above 2^63 - 1, and it is {config.seed}")
    if config.prompt == "":
        raise BadInput("--prompt is empty: give at least one character to continue")


def text_checkpoint(checkpoint: str | None, results_dir: str | None) -> Path:
    """The named checkpoint, or that of the latest text run."""
    if checkpoint:
        return Path(checkpoint)
    return latest_run(results_folder(results_dir, "transformers"), "checkpoint.pt", "anchors.json") / "checkpoint.pt"


def load_text_model(path: Path, device: torch.device) -> tuple[Decoder, Vocabulary]:
    """The decoder and the vocabulary of a checkpoint; BadInput if it was trained on integers."""
    trained = load_trained(path, device)
    if trained.vocabulary is None:
        raise BadInput(f"{path} was trained on integers ({trained.task}), not on a text")
    return trained.model, trained.vocabulary


def main() -> int:
    """Read the checkpoint, print the prompt and what follows it."""
    config = parse(Config, {}, description=__doc__ or "")
    check(config)
    device, _ = choose_device(config.device, tiny=True)
    configure_cpu(1)  # a token is too little work to share
    path = text_checkpoint(config.checkpoint, config.results_dir)
    model, vocabulary = load_text_model(path, device)
    start = "\n" if b"\n" in vocabulary.tokens else vocabulary.tokens[0].decode("utf-8", "replace")
    text = start if config.prompt is None else config.prompt
    prompt = torch.from_numpy(vocabulary.encode(text, strict=True))[None].to(device)
    random = torch.Generator(device).manual_seed(mix(config.seed, 0))
    print(f"from {shown(path)}", file=sys.stderr)
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode  # a token may end inside a character
    print(text, end="", flush=True)
    started = time.perf_counter()
    for token in generate(model, prompt, config.tokens, config.temperature, config.top_k, config.top_p, random):
        print(decode(vocabulary.tokens[int(token)]), end="", flush=True)
    print(decode(b"", True), flush=True)
    print(f"{config.tokens / (time.perf_counter() - started):.0f} tokens/s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run_main(main)
