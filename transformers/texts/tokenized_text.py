"""A corpus in the tokens of its own vocabulary, on the device."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.data import cache_root, data_root, sha256_of
from common.errors import BadInput
from common.files import read_record, write_record
from common.provenance import short_hash, source_hash
from lm_settings.choices import mixes
from lm_settings.train_settings import Settings
from texts.anchors import Pieces, anchors, has_ppmd
from texts.corpora import Corpus, load_corpus
from texts.vocabulary import Vocabulary, build
from texts.word_ngram import REACH

HELD_SHARE, HELD_CHARACTERS, HELD_MOST = 0.02, 3000, 0.1  # of the training text, what is held back: at least, at most
ANCHORS_SOURCES = [Path(__file__).resolve().with_name(name) for name in ("anchors.py", "kneser_ney.py")]
ANCHORS_COMMITTED = Path(__file__).resolve().parents[2] / "results" / "reference" / "transformers" / "anchors"


@dataclass(frozen=True)
class Text:
    """A corpus in tokens: `train` (N,) and `validation` (n,) on the device, in the smallest integers that hold them.

    Of `train`, nets learn `learnt`, and on `held`, the middle of each of its parts, a mixture's trust is learnt. `blocks`
    are the pieces of `held`, each (n,) with the tokens before it in the text and their number. Where nothing is mixed,
    nothing is held back.
    """

    corpus: Corpus
    vocabulary: Vocabulary
    train: Tensor
    validation: Tensor
    learnt: Tensor
    held: Tensor
    blocks: list[tuple[Tensor, int]]

    @property
    def notices(self) -> list[str]:
        """What a reader of the losses should know of the text."""
        found = [self.corpus.notice] if self.corpus.notice else []
        unseen = sorted(set(self.corpus.validation) - set(self.corpus.train))
        if unseen:
            shown = " ".join(map(repr, unseen[:5])) + (" …" if len(unseen) > 5 else "")
            found.append(f"{len(unseen)} characters of the held-out text are not in the training text: {shown}")
        return found

    @property
    def characters(self) -> int:
        """Characters in the predicted tokens 1 … n - 1 of the validation text."""
        return int(self.vocabulary.characters[self.validation[1:].cpu().numpy()].sum())

    def anchors(self) -> dict[str, Any]:
        """What the n-gram and the compressors reach on the same text and tokens."""
        corpus, inner = self.corpus, self.corpus.again()
        known = Pieces(corpus.train, corpus.validation, self.train.cpu().numpy(), self.validation.cpu().numpy())
        chosen_on = Pieces(*inner, *(self.vocabulary.encode(text) for text in inner))
        return anchors(known, chosen_on, self.vocabulary.size, self.vocabulary.characters)

    def anchors_key(self) -> str:
        """Of the texts, the tokens and the code: with the same key the anchors are the same."""
        both = f"{self.corpus.train}\0{self.corpus.validation}".encode()
        of_tokens = sha256_of(self.validation.cpu().numpy().tobytes())  # another tokenizer, another n-gram
        return short_hash(sha256_of(both), of_tokens, source_hash(*ANCHORS_SOURCES))

    def known_anchors(self) -> dict[str, Any]:
        """The same from the committed ones or the cache, where these tokens were looked at before by the same code."""
        key = self.anchors_key()
        if (committed := ANCHORS_COMMITTED / f"{self.corpus.name}.json").exists():
            record = read_record(committed)
            if record.pop("key") == key:
                return record
        file = cache_root() / "anchors" / f"{key}{'' if has_ppmd() else '-xz'}.json"
        if not file.exists():
            print(
                "counting n-grams and compressing the text, to know what there is to beat; once for each text …",
                flush=True,
            )
            write_record(file, self.anchors())
        return read_record(file)


def load_text(settings: Settings, device: torch.device) -> Text:
    """The task's text in the tokens of its own vocabulary; BadInput where it is shorter than the context."""
    needs_root = settings.task == "tinyshakespeare" or settings.data_dir  # the other texts need no data folder
    root = data_root(settings.data_dir) if needs_root else Path()
    corpus = load_corpus(settings.task, root, settings.text, settings.development)
    vocabulary = build(settings.tokenizer, corpus.train, settings.vocab, cover=corpus.validation)
    dtype = torch.uint8 if vocabulary.size <= 256 else torch.int32
    train, validation = (
        torch.from_numpy(vocabulary.encode(text)).to(dtype) for text in (corpus.train, corpus.validation)
    )
    if len(validation) < 2:
        raise BadInput("the held-out tenth of the text has fewer than 2 tokens: give a longer text")
    if len(train) < 3 * settings.context:
        raise BadInput(
            f"the training text has {len(train):,} tokens: with --context {settings.context} at least "
            f"{3 * settings.context:,} are needed; --context {max(1, len(train) // 3)} would do"
        )
    learnt, held, blocks, tokens = train, train[:0], [], []
    if mixes(settings.arch, settings.without):
        pieces = hold_back(corpus.parts)
        tokens = [[torch.from_numpy(vocabulary.encode(text)).to(dtype) for text in piece] for piece in pieces]
        held = torch.cat([block for _, block, _ in tokens])
    if len(held) < 2:  # nothing to predict
        held = train[:0]
    else:
        learnt = torch.cat([ids for before, _, after in tokens for ids in (before, after)])
        blocks = [(torch.cat([before[-REACH:], block]), len(before[-REACH:])) for before, block, _ in tokens]
    on_device = [ids.to(device) for ids in (train, validation, learnt, held)]
    return Text(corpus, vocabulary, on_device[0], on_device[1], on_device[2], on_device[3], blocks)


def hold_back(parts: Sequence[str]) -> list[tuple[str, str, str]]:
    """Each part of a training text in three: its middle, HELD_SHARE of it or HELD_CHARACTERS in all, is held back.

    The middle, because a text that is held out at the end is best predicted by what stands just before it.
    """
    share = min(HELD_MOST, max(HELD_SHARE, HELD_CHARACTERS / max(1, sum(map(len, parts)))))
    cuts = [(round((1 - share) / 2 * len(part)), round((1 + share) / 2 * len(part))) for part in parts]
    return [(part[:a], part[a:b], part[b:]) for part, (a, b) in zip(parts, cuts, strict=True)]
