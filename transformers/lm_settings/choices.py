"""The names that the flags choose from: tasks, parts of the modern decoder, optimisers."""

from typing import Literal

Task = Literal["ascending", "repeat", "induction", "shakespeare", "tinyshakespeare", "kjv", "text"]
INTEGER_TASKS = ("ascending", "repeat", "induction")
Arch = Literal["modern", "vaswani"]
Schedule = Literal["paper", "linear"]
OptimizerName = Literal["adamw", "sgd", "muon"]

# What `modern` adds to the paper, each with its source; `--without` takes single ones away, and Muon, the optimiser, too.
MODERN = {
    "rotary": "rotary positions (Su et al. 2021) instead of sinusoids added to the embedding",
    "prenorm": "RMSNorm without gains before each sublayer (Zhang & Sennrich 2019) instead of LayerNorm after it; "
    "with it go the paper's biases and Glorot's first weights",
    "qknorm": "queries and keys normalised per head (Henry et al. 2020)",
    "relu2": "squared ReLU (So et al. 2021)",
    "zeroinit": "output projections and head start at zero, so that a new block is the identity",
    "untied": "a head of its own instead of the transposed embedding",
    "softcap": "logits capped smoothly at +-15 (Gemma 2, 2024)",
    "shortcut": "each block sees the embedding again: x <- a x + b x0, a and b learned (Jordan et al. 2024)",
    "shift": "the feed-forward net reads some channels of the last two tokens (token shift, Peng et al. 2023, RWKV)",
    "ngrams": "tables of hashed 2- to 5-grams added to the embedding (Huang et al. 2025, over-encoding)",
}

# Parts of `modern` outside the net, which `--without` takes away too.
BESIDE = {
    "muon": "Muon for the blocks' matrices (Jordan et al. 2024) instead of Adam for all",
    "mixture": "the nets' predictions mixed with an n-gram's of letters and words (texts/word_ngram.py) and neighbours'",
    "neighbours": "mixed in too: what followed the places where a net's state was nearly the present one (kNN-LM)",
}


def parts_of(arch: Arch, without: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The parts of MODERN that are on."""
    return tuple(part for part in MODERN if arch == "modern" and part not in without)


def mixes(arch: Arch, without: tuple[str, ...] = ()) -> bool:
    """Whether a text run mixes its nets' predictions with an n-gram's."""
    return arch == "modern" and "mixture" not in without
