"""Tokenizers: exact inverses of themselves, built from the training text alone, with every character counted once."""

import io
import os
import re
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.errors import BadInput
from texts import vocabulary
from texts.corpora import load_corpus
from texts.vocabulary import KINDS, Vocabulary, build, byte_level_alphabet, from_state, split_words, stretches

TRAINING = "To be, or not to be: that is the question.\n\nWhether 'tis nobler in the mind to be, not to be\n" * 5
ANYTHING = "é漢🎭\ufeff\0"  # in UTF-8: 2, 3, 4, 3 and 1 bytes
# Text that is like the training text in places, so that words, spelled words and bytes meet each other.
texts = st.lists(st.sampled_from(["to be", " question", ".\n\n", "Tob", "é", "🎭", "\r\n"]) | st.text(max_size=8)).map(
    "".join
)


@cache
def trained(kind: str, cover: str = ANYTHING) -> Vocabulary:
    return build(kind, TRAINING, 300, cover)


# ---------------------------------------------------------------- what holds for every kind


@pytest.mark.parametrize("kind", KINDS)
@given(text=texts)
def test_any_text_comes_back_exactly(kind, text):
    ids = trained(kind).encode(text)
    assert ids.dtype == np.int64
    assert ids.ndim == 1
    assert trained(kind).decode(ids) == text


@pytest.mark.parametrize("kind", KINDS)
@given(text=texts, data=st.data())
def test_however_the_tokens_are_cut_every_character_is_counted_once(kind, text, data):
    ids = trained(kind).encode(text)
    cut = data.draw(st.integers(0, len(ids)))
    characters = trained(kind).characters
    assert characters.shape == (trained(kind).size,)
    assert characters[ids[:cut]].sum() + characters[ids[cut:]].sum() == len(text)


@pytest.mark.parametrize("kind", KINDS)
@given(ids=st.lists(st.integers(0, 255)))
def test_whatever_a_model_samples_is_some_text(kind, ids):
    assert isinstance(trained(kind).decode([i % trained(kind).size for i in ids]), str)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_fill_the_vocabulary(kind):
    tokens = trained(kind).tokens
    assert len(tokens) == len(set(tokens)) == trained(kind).size
    assert set(trained(kind).encode(TRAINING).tolist()) <= set(range(trained(kind).size))


@pytest.mark.parametrize("cover", ["", ANYTHING])
@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_survives_a_checkpoint(kind, cover):
    file = io.BytesIO()
    torch.save(trained(kind, cover).state(), file)
    file.seek(0)
    again = from_state(torch.load(file, weights_only=True))
    assert again.tokens == trained(kind, cover).tokens
    text = TRAINING + (ANYTHING if cover else "")
    assert again.encode(text).tolist() == trained(kind, cover).encode(text).tolist()
    assert again.state() == trained(kind, cover).state()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_text_builds_the_same_vocabulary(kind):
    assert build(kind, TRAINING, 300).state() == build(kind, TRAINING, 300).state()


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_to_cover_changes_nothing_where_training_has_its_characters(kind):
    assert build(kind, TRAINING, 300, "to rest: other notes").state() == build(kind, TRAINING, 300).state()


@pytest.mark.parametrize("kind", ["char", "word"])
def test_the_text_to_cover_adds_nothing_but_bytes(kind):
    plain, covering = trained(kind, ""), trained(kind, "é")
    assert covering.tokens[: plain.size] == plain.tokens
    assert all(len(token) == 1 for token in covering.tokens[plain.size :])
    assert {token for token in covering.tokens if len(token) == 1} == {bytes([byte]) for byte in range(256)}
    assert covering.encode(TRAINING).tolist() == plain.encode(TRAINING).tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_text_has_no_tokens(kind):
    assert trained(kind).encode("").shape == (0,)
    assert trained(kind).decode([]) == ""


@pytest.mark.parametrize("kind", KINDS)
def test_half_a_surrogate_pair_is_one_sentence(kind):
    with pytest.raises(BadInput, match="not valid Unicode at character 2"):
        trained(kind).encode("to\udcff")
    with pytest.raises(BadInput, match="not valid Unicode at character 0"):
        build(kind, "\udcff be", 300)


@pytest.mark.parametrize("kind", ["char", "word"])
@pytest.mark.parametrize("strict", [False, True])
def test_characters_that_training_has_not_are_named(kind, strict):
    with pytest.raises(BadInput, match=r"'Z' 'é' '漢'$") as failure:
        # Bytes would code them, but a prompt of them is no prompt for this model.
        trained(kind, ANYTHING if strict else "").encode("Zé be 漢é", strict=strict)
    assert "\n" not in str(failure.value)
    assert trained(kind).encode("to be", strict=True).tolist() == trained(kind).encode("to be").tolist()


def test_only_ten_of_many_characters_are_named():
    with pytest.raises(BadInput, match=r"'\\x00' .*'\\t' …$"):
        trained("char", "").encode("".join(map(chr, range(32))))


def test_byte_level_bpe_takes_any_prompt():
    assert trained("bpe").encode(ANYTHING, strict=True).tolist() == trained("bpe").encode(ANYTHING).tolist()


def test_an_unknown_kind_is_one_sentence():
    with pytest.raises(BadInput, match="no tokenizer called sentence: choose one of char, word, bpe"):
        build("sentence", TRAINING)


# ---------------------------------------------------------------- characters


def test_the_characters_of_the_training_text_in_order_are_the_vocabulary():
    char = build("char", "banana\n", cover="nab")
    assert char.tokens == [b"\n", b"a", b"b", b"n"]
    assert char.encode("ban\n").tolist() == [2, 1, 3, 0]


def test_a_character_unseen_in_training_is_its_bytes():
    char = build("char", "banana", cover="né")
    coded = char.encode("né")
    assert [char.tokens[i] for i in coded] == [b"n", b"\xc3", b"\xa9"]
    assert char.characters[coded].tolist() == [1, 1, 0]
    assert char.size == 3 + 253


def test_cut_characters_are_shown_as_such():
    char = trained("char")
    assert char.decode(char.encode("to 漢")[:-1]) == "to \ufffd"


def test_tinyshakespeare_has_65_characters():
    root = Path(os.environ.get("REPLICATIONS_DATA", "absent"))
    if not (root / "tinyshakespeare" / "input.txt").is_file():
        pytest.skip("$REPLICATIONS_DATA has no tinyshakespeare")
    corpus = load_corpus("tinyshakespeare", root)
    char = build("char", corpus.train, cover=corpus.validation)
    assert char.size == 65
    assert char.decode(char.encode(corpus.validation)) == corpus.validation


# ---------------------------------------------------------------- words


@given(st.text())
def test_words_are_those_of_re_split(text):
    assert split_words(text) == [piece for piece in re.split(r"\b", text) if piece != ""]
    assert "".join(split_words(text)) == text


def test_frequent_words_have_tokens_and_others_are_spelled():
    word = build("word", "the cat, the dog, a cat; the end", 30)
    assert word.tokens[12:] == [b"the", b"cat", b", "], "seen twice or more, the most frequent first"
    spelled = [word.tokens[i].decode() for i in word.encode("the cat, a dog; the tea")]
    assert spelled == ["the", " ", "cat", ", ", "a", " ", "d", "o", "g", ";", " ", "the", " ", "t", "e", "a"]


def test_the_most_frequent_words_get_what_room_there_is():
    text = "aa aa aa aa bb bb bb cc cc"
    assert build("word", text, 5).tokens == [b" ", b"a", b"b", b"c", b"aa"]
    assert build("word", text, 4).tokens == [b" ", b"a", b"b", b"c"]
    assert build("word", text).tokens == [b" ", b"a", b"b", b"c", b"aa", b"bb", b"cc"]
    with pytest.raises(BadInput, match="a vocabulary of 3 cannot hold the 4 characters"):
        build("word", text, 3)


# ---------------------------------------------------------------- BPE


def test_bpe_merges_the_most_frequent_pairs_of_the_training_text():
    tokens = build("bpe", "abab abab abab cd", 258).tokens
    assert tokens[256:] == [b"ab", b"abab"]


def test_bpe_keeps_to_the_size_asked_for_and_needs_all_bytes():
    assert build("bpe", TRAINING, 256).size == 256
    assert build("bpe", TRAINING, 270).size == 270
    with pytest.raises(BadInput, match="256 single bytes, and 255"):
        build("bpe", TRAINING, 255)


def test_the_default_size_is_1024_for_bpe():
    text = "".join(f"{word} " * 2 for word in map(hex, range(40_000, 44_000)))
    assert build("bpe", text).size == 1024


def test_the_bytes_of_bpe_tokens_are_those_the_library_decodes():
    bpe = vocabulary.BpeVocabulary(trained("bpe").state()["json"])
    bpe.tokenizer.decoder = tokenizers.decoders.ByteLevel()
    assert set(byte_level_alphabet()) == set(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_level_alphabet().values()) == list(range(256))
    whole = [i for i, token in enumerate(bpe.tokens) if token.isascii()]
    assert len(whole) == bpe.size - 128 > 128, "all but the bytes from 80 to FF, and the training text's pieces"
    assert [bpe.tokenizer.decode([i]) for i in whole] == [bpe.tokens[i].decode() for i in whole]


@given(text=st.text("ab 'l\n\r\t\x1c\u00a0", max_size=60), stretch=st.integers(1, 5))
def test_a_text_in_stretches_is_coded_as_in_one(text, stretch):
    bpe = trained("bpe")
    assert isinstance(bpe, vocabulary.BpeVocabulary)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary, "STRETCH", stretch)
        assert "".join(stretches(text)) == text
        assert bpe.encode(text).tolist() == bpe.tokenizer.encode(text).ids


def test_stretches_are_short_where_the_text_has_lines():
    parts = stretches("To be, or not to be\n" * 1000)
    assert {len(part) for part in parts[:-1]} == {4000 + 20}


def test_training_in_stretches_gives_the_same_merges(monkeypatch):
    whole = build("bpe", TRAINING, 400).state()
    monkeypatch.setattr(vocabulary, "STRETCH", 10)
    assert len(stretches(TRAINING)) == 5
    assert build("bpe", TRAINING, 400).state() == whole


# ---------------------------------------------------------------- a whole corpus


@pytest.mark.parametrize("kind", KINDS)
def test_a_corpus_is_coded_without_loss(kind):
    corpus = load_corpus("kjv", Path("absent"))
    vocab = build(kind, corpus.train[:500_000], cover=corpus.validation)
    ids = vocab.encode(corpus.validation)
    assert vocab.decode(ids) == corpus.validation
    assert vocab.characters[ids].sum() == len(corpus.validation)
    per_token = {"char": 1.0, "word": 2.0, "bpe": 2.5}
    assert len(corpus.validation) / len(ids) >= per_token[kind]


def test_a_word_vocabulary_counts_words_as_a_counter_does():
    text = load_corpus("kjv", Path("absent")).train[:200_000]
    word = build("word", text, 500)
    count = Counter(split_words(text))
    listed = [token.decode() for token in word.tokens if len(token.decode()) > 1]
    rarest = min(count[piece] for piece in listed)
    assert word.size == 500
    assert all(piece in listed for piece in count if len(piece) > 1 and count[piece] > rarest)
