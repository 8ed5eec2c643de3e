"""A page of all runs: `results/index.html`, written again when a run ends, and by

    python -m common.gallery

Newest first, committed ones last, with figures, headline, command and settings; two or more runs that are ticked show their
metrics in one chart.
One file that needs no server and no network. Everything that comes from a run folder is text to it: the template escapes it.
The same command writes `results/reference/README.md`, which shows the committed results on a code host.
"""

import csv
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from common.errors import BadInput
from common.files import remove_stale_temporaries, write_text
from common.provenance import repository_root

POINTS = 60  # of a run's metrics that the page holds
HERE = Path(__file__).resolve().parent
MARKS = ("config.json", "summary.json", "metrics.csv", "error.txt", "runs.csv", "fits.json")  # of a run folder
MAIN_FIGURES = ("optimum", "loss", "learning_curve", "learning_curves", "noise_scale")
# What a summary is told by where it has no headline: the first of these that it holds.
TELLING = ("val_loss", "second_half_loss", "eval_return_mean", "eval_return_greedy_mean", "runs", "cells")


# ---------------------------------------------------------------- what is known of a run


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one where there is none: a damaged folder is shown with what is known of it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def text(value: Any) -> str:
    """`str(value)`, with ? for what UTF-8 cannot hold: bytes of a foreign file name, half a character of damaged JSON."""
    return str(value).encode("utf-8", "replace").decode("utf-8")


def thinned(path: Path, points: int = POINTS) -> dict[str, list[float | None]]:
    """Of a table of numbers at most `points` rows, evenly spaced with the last one, by column; what is no number is None."""
    try:
        header, *rows = path.read_text(encoding="utf-8").splitlines()
        if len(rows) > points:
            rows = [rows[round(i * (len(rows) - 1) / (points - 1))] for i in range(points)]
        table = list(csv.reader(rows))
    except (OSError, ValueError, csv.Error):
        return {}
    columns = {name: [_number(row, i) for row in table] for i, name in enumerate(header.split(","))}
    return {name: values for name, values in columns.items() if any(value is not None for value in values)}


def _number(row: list[str], i: int) -> float | None:
    try:
        value = float(row[i])
    except (ValueError, IndexError):
        return None
    return float(f"{value:.5g}") if math.isfinite(value) else None


@dataclass(frozen=True)
class Figure:
    """A picture of a run: its file's name, its URL relative to the page, and its pixels where its head tells them."""

    name: str
    url: str
    width: int = 0
    height: int = 0

    @property
    def tall(self) -> bool:
        """Too tall for a card: the page shows its upper part."""
        return self.height > 0.8 * self.width


def in_order(path: Path) -> tuple[bool, bool, str]:
    """Figures before moving pictures, the one that says most first."""
    return path.suffix != ".png", path.stem not in MAIN_FIGURES, path.name


@dataclass(frozen=True)
class Card:
    """What the page shows of one run. Texts are as they were found: the template escapes them."""

    name: str
    """its path below the results folder, as text"""
    title: str
    project: str
    task: str
    status: str
    seconds: float = 0.0
    """since 1970, of its beginning; 0 where nothing tells it"""
    headline: str = ""
    command: str = ""
    differs: dict[str, str] = field(default_factory=dict)
    about: list[str] = field(default_factory=list)
    """device, processor, versions, commit"""
    figures: list[Figure] = field(default_factory=list)
    metrics: dict[str, list[float | None]] = field(default_factory=dict)

    @property
    def committed(self) -> bool:
        """In the repository, not made here."""
        return self.name.startswith("reference/")

    @property
    def date(self) -> str:
        return datetime.fromtimestamp(self.seconds, UTC).strftime("%Y-%m-%d %H:%M UTC") if self.seconds else ""


def any_card(folder: Path, results: Path, older: Mapping[str, Any]) -> Card:
    """What a run folder tells; of one that cannot be read, or has just been deleted, only that: the others are shown."""
    try:
        return card_of(folder, results, older)
    except Exception as error:
        parts = _parts(folder, results)
        told = f"failed: cannot be read ({text(error) or type(error).__name__})"
        return Card(text(folder.relative_to(results).as_posix()), "/".join(parts[1:]), parts[0], "", told)


def card_of(folder: Path, results: Path, older: Mapping[str, Any] | None = None) -> Card:
    """What a run folder tells. `older`, by path below `results/reference`, has what made those without a config.json."""
    config, summary = read_object(folder / "config.json"), read_object(folder / "summary.json")
    identity, differs = _object(config, "config"), _object(config, "differs")
    project, *below = _parts(folder, results)
    name = folder.relative_to(results).as_posix()
    note = _object(older or {}, name.removeprefix("reference/")) if name.startswith("reference/") else {}
    command, made_with = provenance(config, note)
    task = identity.get("task") or identity.get("env") or identity.get("dataset") or folder.name.split("-")[0]
    return Card(
        name=text(name),
        title="/".join(below) or project,
        project=project,
        task=text(task),
        status=text(_status(folder, summary)),
        seconds=_seconds(folder, config, name.startswith("reference/")),
        headline=text(_headline(summary)),
        command=text(command),
        differs={text(flag): text(_plain(value)) for flag, value in differs.items()},
        about=[text(line) for line in made_with],
        figures=[_figure(path, results) for path in pictures(folder)],
        metrics={text(column): values for column, values in thinned(folder / "metrics.csv").items()},
    )


def _parts(folder: Path, results: Path) -> list[str]:
    """The project, then the rest of a run's path; committed results stand one folder deeper."""
    parts = [text(part) for part in folder.relative_to(results).parts]
    return parts[1:] if parts[0] == "reference" and len(parts) > 1 else parts


def _object(holder: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = holder.get(key)
    return value if isinstance(value, dict) else {}


def pictures(folder: Path) -> list[Path]:
    """The figures of a folder, then its moving pictures."""
    found = [path for path in folder.iterdir() if path.suffix in (".png", ".gif")]
    return sorted(found, key=in_order)


def _figure(path: Path, results: Path) -> Figure:
    """With its pixels, so that the page keeps the room before the picture is there. A PNG and a GIF begin with them."""
    try:
        with open(path, "rb") as file:
            head = file.read(24)
        size = struct.unpack(">II", head[16:]) if path.suffix == ".png" else struct.unpack("<HH", head[6:10])
    except (OSError, struct.error):
        size = (0, 0)
    return Figure(text(path.name), "./" + quote(bytes(path.relative_to(results))), *size)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def provenance(config: dict[str, Any], older: dict[str, Any]) -> tuple[str, list[str]]:
    """The command, and the machine, versions and commit, of a config.json, or of an entry of older.json."""
    if not older:
        return config.get("command") or "", about(config)
    known = [
        f"commit {older.get('commit')}",
        older.get("machine"),
        older.get("versions"),
        f"older: {older.get('note')}",
    ]
    return older.get("command") or "", [str(part) for part in known if part]


def about(config: dict[str, Any]) -> list[str]:
    """Device, processor and cores, versions, commit, of a config.json."""
    found = [str(config[name]) for name in ("device", "processor") if config.get(name)]
    if config.get("cores"):
        found.append(f"{config['cores']} cores")
    if versions := _object(config, "versions"):
        found.append(", ".join(f"{name} {version}" for name, version in versions.items()))
    if config.get("git_commit"):
        dirty = config.get("git_dirty")
        state = ", changed files" if dirty is True else ", clean" if dirty is False else ""
        found.append(f"commit {str(config['git_commit'])[:12]}{state}")
    return found


def _seconds(folder: Path, config: dict[str, Any], committed: bool) -> float:
    """When the run began, by its own record, else by its files, but for those that a checkout wrote."""
    try:
        seconds = datetime.fromisoformat(config["date"]).timestamp()
        datetime.fromtimestamp(seconds, UTC)  # which can lie outside the calendar
        return seconds
    except (KeyError, TypeError, ValueError, OverflowError):
        if committed:
            return 0.0
        return max((path.stat().st_mtime for name in MARKS if (path := folder / name).exists()), default=0.0)


def _status(folder: Path, summary: dict[str, Any]) -> str:
    if summary:
        return str(summary.get("status") or "ok")
    try:
        lines = (folder / "error.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return "unfinished" if (folder / "config.json").exists() else "tables"
    return f"failed: {lines[-1] if lines else ''}"


def _headline(summary: dict[str, Any]) -> str:
    if summary.get("headline"):
        return str(summary["headline"])
    found = [
        f"{name} {value:g}"
        for name in TELLING
        if isinstance(value := summary.get(name), int | float) and abs(value) < 1e300
    ]
    return ", ".join(found[:2])


def run_folders(results: Path, committed: bool = False) -> list[Path]:
    """All folders below `results` that hold a run; no symbolic links, no folders within a run.

    Of `committed` results, and below `results/reference`, also those of tables and figures alone, and folders in folders.
    """
    found: list[Path] = []
    waiting = (
        [path for path in results.iterdir() if path.is_dir() and not path.is_symlink()] if results.is_dir() else []
    )
    while waiting:
        folder = waiting.pop()
        try:
            inside = list(folder.iterdir())
        except OSError:
            continue
        held = {path.name for path in inside}
        reference = committed or "reference" in folder.relative_to(results).parts
        is_run = bool(held & set(MARKS)) or (reference and any(path.suffix in (".csv", ".png") for path in inside))
        if is_run:
            found.append(folder)
        if reference or not is_run:
            waiting += [path for path in inside if path.is_dir() and not path.is_symlink()]
    return found


# ---------------------------------------------------------------- the pages


def gallery_page(results: Path) -> str:
    """HTML of all runs below `results`, newest first, the committed ones last."""
    import jinja2  # only when a page is written

    older = read_object(results / "reference" / "older.json")
    cards = [any_card(folder, results, older) for folder in run_folders(results)]
    cards.sort(key=lambda card: (card.committed, -card.seconds, card.name))
    loader = jinja2.FileSystemLoader(HERE)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.policies["json.dumps_kwargs"] = {}  # columns in the order of their tables, not of the alphabet
    return environment.get_template("gallery.html.j2").render(
        cards=cards,
        metrics=[card.metrics for card in cards],
        projects=sorted({card.project for card in cards}),
        tasks=sorted({card.task for card in cards}),
        points=POINTS,
    )


def refresh(results: Path) -> Path:
    """Write `results/index.html` and return it."""
    remove_stale_temporaries(results)
    write_text(results / "index.html", gallery_page(results))
    return results / "index.html"


def reference_page(reference: Path) -> str:
    """Markdown of the committed results: of each folder what made it, its numbers and its figures."""
    older = read_object(reference / "older.json")
    lines = [
        "# Committed results",
        "",
        "Written by `python -m common.gallery`. Every folder says which command made it, at which",
    ]
    lines += [
        "commit, on which machine; *older*: today's code would give it another name, or it was made beside edited files.",
        "",
    ]
    folders = sorted(run_folders(reference, committed=True), key=lambda path: path.relative_to(reference).as_posix())
    project = ""
    for folder in folders:
        name = folder.relative_to(reference).as_posix()
        if name.split("/")[0] != project:
            project = name.split("/")[0]
            lines += [f"## {project}", ""]
        lines += _section(folder, name, _object(older, name))
    return "\n".join(lines).rstrip() + "\n"


def _section(folder: Path, name: str, older: dict[str, Any]) -> list[str]:
    config, summary = read_object(folder / "config.json"), read_object(folder / "summary.json")
    command, made_with = provenance(config, older)
    made = [f"`{command}`", *(f"*{part}*" if part.startswith("older: ") else part for part in made_with)]
    tables = [path.name for path in sorted(folder.iterdir()) if path.suffix in (".csv", ".md", ".json", ".txt")]
    lines = [f"### {name}", ""]
    if headline := _headline(summary):
        lines += [headline.replace("|", "\\|").replace("<", "&lt;"), ""]
    lines += ["; ".join(part for part in made if part), ""]
    lines += [", ".join(f"[{table}]({quote(f'{name}/{table}')})" for table in tables), ""] if tables else []
    for path in pictures(folder):
        lines += [f"![{path.stem} of {name}]({quote(f'{name}/{path.name}')})", ""]
    return lines


@dataclass(frozen=True)
class CommandLine:
    results_dir: str | None = None
    """folder whose runs are shown; default: results/ in the repository"""


def main() -> int:
    """Write the pages and say where they are."""
    from common.cli import parse, shown

    given = parse(CommandLine, {}, description=__doc__ or "")
    results = Path(given.results_dir) if given.results_dir else repository_root() / "results"
    if not results.is_dir():
        raise BadInput(f"{results} is no folder: start a run first")
    print(f"{len(run_folders(results))} runs; open {shown(refresh(results))}")
    if (results / "reference").is_dir():
        write_text(results / "reference" / "README.md", reference_page(results / "reference"))
        print(f"committed results: {shown(results / 'reference' / 'README.md')}")
    return 0


if __name__ == "__main__":
    from common.cli import run_main

    run_main(main)
