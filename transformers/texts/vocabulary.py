"""Tokenizers: characters, words and byte-level BPE. Each gives back exactly the text that it was given.

Every token stands for some bytes of UTF-8, and a text is its tokens' bytes one after another. A vocabulary is built
from the training text alone. So that bits per character stay comparable, no text is coded with losses: there is no
"unknown" token. A word that is not in the word vocabulary is spelled in its characters, and BPE falls back on bytes.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import ArrayLike, NDArray

from common.errors import BadInput

KINDS = ("char", "word", "bpe")
DEFAULT_SIZE = {"word": 8192, "bpe": 1024}
STRETCH = 4000  # characters that BPE takes at a time: one long text costs it a gigabyte and twice the time
MIN_COUNT = 2  # a word seen once in training is spelled there too, so that spelling is learnt


class Vocabulary:
    """What the three kinds share. `tokens[i]` is the bytes that token i stands for, `size` the number of tokens V.

    `characters[i]` is how many characters begin in token i, which is the number of its bytes that do not continue a
    character (10xxxxxx in UTF-8). Bits per character over any tokens `ids` divide by `characters[ids].sum()`: whatever
    is cut where, every character of the text is counted once.
    """

    kind = ""

    def __init__(self, tokens: list[bytes]):
        self.tokens = tokens
        self.size = len(tokens)
        self.characters = np.array([sum(byte >> 6 != 0b10 for byte in token) for token in tokens], dtype=np.int64)

    def encode(self, text: str, strict: bool = False) -> NDArray[np.int64]:
        """Token ids (n,). BadInput for characters that cannot be coded; with `strict`, for all unseen in training."""
        raise NotImplementedError

    def decode(self, ids: ArrayLike) -> str:
        """The text of token ids (n,); bytes that are no UTF-8, as a model may sample them, become U+FFFD."""
        return b"".join([self.tokens[i] for i in np.asarray(ids).tolist()]).decode("utf-8", "replace")

    def state(self) -> dict[str, Any]:
        """Strings, numbers and lists from which `from_state` makes the same vocabulary again."""
        raise NotImplementedError


def build(kind: str, training_text: str, vocab_size: int = 0, cover: str = "") -> Vocabulary:
    """A vocabulary of kind `char`, `word` or `bpe` made from `training_text`.

    `vocab_size` is the greatest number of tokens of `word` and `bpe` (0: DEFAULT_SIZE); `char` needs as many as there are
    characters. `cover` is more text that must be codable, the validation text: where it has a character that the
    training text has not, single bytes are added to `char` and `word`. Nothing else depends on it. BadInput where
    `vocab_size` is too small.
    """
    if kind not in KINDS:
        raise BadInput(f"there is no tokenizer called {kind}: choose one of {', '.join(KINDS)}")
    code_points(training_text)  # or BadInput
    most = vocab_size or DEFAULT_SIZE.get(kind, 0)
    if kind == "bpe":
        return _build_bpe(training_text, most)
    characters = sorted(set(training_text))
    pieces = characters
    if kind == "word":
        if most < len(characters):
            raise BadInput(f"a vocabulary of {most} cannot hold the {len(characters)} characters of the text")
        count = Counter(piece for piece in split_words(training_text) if len(piece) > 1)
        frequent = sorted((piece for piece in count if count[piece] >= MIN_COUNT), key=lambda piece: -count[piece])
        pieces = characters + frequent[: most - len(characters)]
    return PieceVocabulary(kind, pieces, byte_fallback=not set(cover) <= set(characters))


def from_state(state: dict[str, Any]) -> Vocabulary:
    """The vocabulary that wrote `state`; KeyError, TypeError or ValueError for what is no such state."""
    if state["kind"] == "bpe":
        return BpeVocabulary(state["json"])
    if state["kind"] not in KINDS:
        raise ValueError(f"there is no tokenizer called {state['kind']}")
    return PieceVocabulary(state["kind"], state["pieces"], state["byte_fallback"])


# ---------------------------------------------------------------- characters and words


def split_words(text: str) -> list[str]:
    r"""`re.split(r"\b", text)` without empty strings: words, and what stands between them; joined, they are the text.

    The tokenization of Hilton's deep-learning curriculum.
    """
    return [piece for piece in re.split(r"\b", text) if piece]


class PieceVocabulary(Vocabulary):
    """Characters, and for `word` also the words and gaps that are frequent in the training text.

    A piece that is not listed is spelled: its characters' tokens follow one another, with no mark around them. The text
    is the tokens joined, so this loses nothing, and a word of one letter is that letter's token. With `byte_fallback`,
    a character that is not listed is spelled in its UTF-8 bytes (as in SentencePiece); training never shows these.
    """

    def __init__(self, kind: str, pieces: Sequence[str], byte_fallback: bool):
        self.kind, self.pieces, self.byte_fallback = kind, list(pieces), byte_fallback
        tokens = [piece.encode() for piece in pieces]
        known = set(tokens)
        tokens += [bytes([byte]) for byte in range(256) if byte_fallback and bytes([byte]) not in known]
        super().__init__(tokens)
        self.id_of = {piece: i for i, piece in enumerate(pieces)}
        self.id_of_byte = {token[0]: i for i, token in enumerate(tokens) if len(token) == 1}
        # For `char`, a look-up in one step: the id of every code point up to the greatest known one, else -1.
        points = [ord(piece) for piece in pieces if len(piece) == 1]
        self.id_of_point = np.full(max(points, default=0) + 2, -1, dtype=np.int64)
        self.id_of_point[points] = [self.id_of[chr(point)] for point in points]

    def encode(self, text: str, strict: bool = False) -> NDArray[np.int64]:
        points = code_points(text)
        ids = self.id_of_point[np.minimum(points, len(self.id_of_point) - 1)]  # the last entry is -1
        unseen = np.unique(points[ids < 0])
        if len(unseen) and (strict or not self.byte_fallback):
            shown = " ".join(repr(chr(point)) for point in unseen[:10]) + (" …" if len(unseen) > 10 else "")
            raise BadInput(f"the text has characters that the training text has not: {shown}")
        if self.kind == "char" and not len(unseen):
            return ids
        coded: list[int] = []
        for piece in text if self.kind == "char" else split_words(text):
            i = self.id_of.get(piece)
            if i is not None:
                coded.append(i)
            else:
                coded.extend(self._spell(piece))
        return np.array(coded, dtype=np.int64)

    def _spell(self, piece: str) -> Iterable[int]:
        for character in piece:
            if character in self.id_of:
                yield self.id_of[character]
            else:
                yield from (self.id_of_byte[byte] for byte in character.encode())

    def state(self) -> dict[str, Any]:
        return {"kind": self.kind, "pieces": self.pieces, "byte_fallback": self.byte_fallback}


def code_points(text: str) -> NDArray[np.uint32]:
    """The Unicode code points (n,) of a text; BadInput for half a surrogate pair, which no UTF-8 can hold."""
    try:
        return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    except UnicodeEncodeError as error:
        raise BadInput(f"the text is not valid Unicode at character {error.start}") from None


# ---------------------------------------------------------------- byte-level BPE


def _build_bpe(training_text: str, vocab_size: int) -> "BpeVocabulary":
    """Merges of the most frequent pairs (Sennrich et al. 2016) over bytes, within GPT-2's words (Radford et al. 2019)."""
    if vocab_size < 256:
        raise BadInput(f"a BPE vocabulary needs the 256 single bytes, and {vocab_size} tokens were asked for")
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = byte_level
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=byte_level.alphabet(), show_progress=False, special_tokens=[]
    )
    tokenizer.train_from_iterator(stretches(training_text), trainer)
    return BpeVocabulary(tokenizer.to_str())


class BpeVocabulary(Vocabulary):
    """The `tokenizers` library's byte-level BPE, from its own JSON. Any text can be coded: `strict` changes nothing."""

    kind = "bpe"

    def __init__(self, json: str):
        self.json = json
        try:
            self.tokenizer = tokenizers.Tokenizer.from_str(json)
        except Exception as error:  # the library has no narrower one
            raise ValueError(f"not the JSON of a tokenizer: {error}") from None
        byte_of = byte_level_alphabet()
        spelled = sorted(self.tokenizer.get_vocab().items(), key=lambda item: item[1])
        super().__init__([bytes(byte_of[character] for character in token) for token, _ in spelled])

    def encode(self, text: str, strict: bool = False) -> NDArray[np.int64]:
        code_points(text)
        coded = [np.array(self.tokenizer.encode(part).ids, dtype=np.int64) for part in stretches(text)]
        return np.concatenate(coded) if coded else np.empty(0, dtype=np.int64)

    def state(self) -> dict[str, Any]:
        return {"kind": self.kind, "json": self.json}


def stretches(text: str) -> list[str]:
    """The text in parts of STRETCH characters or more, each of which BPE codes as it would within the whole.

    They are cut after a line end that is the only white space between two words: GPT-2's pattern makes it a token.
    """
    return re.findall(rf"(?s).{{{STRETCH}}}.*?\S\n(?=\S)|.+", text)


def byte_level_alphabet() -> dict[str, int]:
    """The printable character that stands for each byte in a byte-level BPE's JSON, as GPT-2 defined it.

    A byte that is a printable Latin-1 character stands for itself; the n-th of the others is U+0100 + n.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}
