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
from dataclasses import dataclass

import torch

from common.cli import parse, run_main, shown
from common.device import DeviceName, choose_device, configure_cpu
from common.errors import BadInput
from common.provenance import available_cores
from lm_evaluation.checkpoints import load_text_model, text_checkpoint
from lm_evaluation.generation import generate
from texts.seeds import derived_seed


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


def main() -> int:
    """Read the checkpoint, print the prompt and what follows it."""
    config = parse(Config, {}, description=__doc__ or "")
    check(config)
    device, _ = choose_device(config.device, tiny=True)
    path = text_checkpoint(config.checkpoint, config.results_dir)
    configure_cpu(available_cores())  # to read the training text again, whose places are neighbours
    model, vocabulary = load_text_model(path, device)
    configure_cpu(1)  # a token is too little work to share
    start = "\n" if b"\n" in vocabulary.tokens else vocabulary.tokens[0].decode("utf-8", "replace")
    text = start if config.prompt is None else config.prompt
    prompt = torch.from_numpy(vocabulary.encode(text, strict=True))[None].to(device)
    if prompt.size(1) > model.context:
        told = f"NOTE: the prompt has {prompt.size(1):,} tokens, of which the model reads the last {model.context:,}"
        print(told, file=sys.stderr)
    random = torch.Generator(device).manual_seed(derived_seed(config.seed, 0))
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
