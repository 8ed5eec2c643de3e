"""A page of all runs: `results/index.html`, written again when a run ends, and by

    python -m common.gallery

Newest first, with figures, headline, command and settings; two or more runs that are ticked show their metrics in one chart.
One file that needs no server and no network. Everything that comes from a run folder is text to it: the template escapes it.
The same command writes `results/reference/README.md`, which shows the committed results on a code host.
"""

import csv
import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from common.errors import BadInput
from common.files import write_text
from common.provenance import repository_root

POINTS = 60  # of a run's metrics that the page holds
HERE = Path(__file__).resolve().parent
MARKS = ("config.json", "summary.json", "metrics.csv", "error.txt", "runs.csv", "fits.json")  # of a run folder
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


def thinned(path: Path, points: int = POINTS) -> dict[str, list[float | None]]:
    """Of a table of numbers at most `points` rows, evenly spaced with the last one, by column; what is no number is None."""
    try:
        header, *rows = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return {}
    if len(rows) > points:
        rows = [rows[round(i * (len(rows) - 1) / (points - 1))] for i in range(points)]
    table = list(csv.reader(rows))
    columns = {name: [_number(row, i) for row in table] for i, name in enumerate(header.split(","))}
    return {name: values for name, values in columns.items() if any(value is not None for value in values)}


def _number(row: list[str], i: int) -> float | None:
    try:
        value = float(row[i])
    except (ValueError, IndexError):
        return None
    return float(f"{value:.5g}") if math.isfinite(value) else None


@dataclass(frozen=True)
class Card:
    """What the page shows of one run. Texts are as they were found: the template escapes them."""

    name: str
    """its path below the results folder"""
    title: str
    project: str
    task: str
    date: str
    status: str
    headline: str
    command: str
    differs: dict[str, str]
    about: list[str]
    """device, processor, versions, commit"""
    figures: list[tuple[str, str]]
    """name and URL relative to the page"""
    metrics: dict[str, list[float | None]]
    seconds: float
    """since 1970, of `date`"""


def card_of(folder: Path, results: Path) -> Card:
    """What a run folder tells."""
    config, summary = read_object(folder / "config.json"), read_object(folder / "summary.json")
    identity = config.get("config") if isinstance(config.get("config"), dict) else {}
    assert isinstance(identity, dict)
    project, *_ = folder.relative_to(results).parts
    if project == "reference" and len(folder.relative_to(results).parts) > 1:
        project = folder.relative_to(results).parts[1]
    seconds = _seconds(folder, config)
    differs = config.get("differs") if isinstance(config.get("differs"), dict) else {}
    assert isinstance(differs, dict)
    return Card(
        name=folder.relative_to(results).as_posix(),
        title="/".join(
            folder.relative_to(results).parts[2 if folder.relative_to(results).parts[0] == "reference" else 1 :]
        )
        or folder.name,
        project=project,
        task=str(identity.get("task") or identity.get("env") or identity.get("dataset") or folder.name.split("-")[0]),
        date=datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        status=_status(folder, summary),
        headline=_headline(summary),
        command=str(config.get("command") or ""),
        differs={str(name): _plain(value) for name, value in differs.items()},
        about=about(config),
        figures=[
            (path.name, "./" + quote(path.relative_to(results).as_posix()))
            for path in sorted(folder.iterdir(), key=lambda path: (path.suffix != ".png", path.name))
            if path.suffix in (".png", ".gif")
        ],
        metrics=thinned(folder / "metrics.csv"),
        seconds=seconds,
    )


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def about(config: dict[str, Any]) -> list[str]:
    """Device, processor and cores, versions, commit, of a config.json."""
    found = [str(config[name]) for name in ("device", "processor") if config.get(name)]
    if config.get("cores"):
        found.append(f"{config['cores']} cores")
    versions = config.get("versions")
    if isinstance(versions, dict):
        found.append(", ".join(f"{name} {version}" for name, version in versions.items()))
    if config.get("git_commit"):
        state = {True: ", changed files", False: ", clean"}.get(config.get("git_dirty"), "")  # type: ignore[arg-type]
        found.append(f"commit {str(config['git_commit'])[:12]}{state}")
    return found


def _seconds(folder: Path, config: dict[str, Any]) -> float:
    """When the run began, by its own record, else by its files."""
    try:
        return datetime.fromisoformat(config["date"]).timestamp()
    except (KeyError, TypeError, ValueError):
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
    found = [f"{name} {value:g}" for name in TELLING if isinstance(value := summary.get(name), int | float)]
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
    """HTML of all runs below `results`, newest first."""
    import jinja2  # only when a page is written

    cards = [card_of(folder, results) for folder in run_folders(results)]
    cards.sort(key=lambda card: (-card.seconds, card.name))
    loader = jinja2.FileSystemLoader(HERE)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    metrics = {card.name: card.metrics for card in cards if card.metrics}
    return environment.get_template("gallery.html.j2").render(
        cards=cards,
        metrics=metrics,
        projects=sorted({card.project for card in cards}),
        tasks=sorted({card.task for card in cards}),
        points=POINTS,
    )


def refresh(results: Path) -> Path:
    """Write `results/index.html` and return it."""
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
        lines += _section(folder, name, older.get(name))
    return "\n".join(lines).rstrip() + "\n"


def _section(folder: Path, name: str, older: dict[str, str] | None) -> list[str]:
    config, summary = read_object(folder / "config.json"), read_object(folder / "summary.json")
    if older:
        made = [
            f"`{older['command']}`",
            f"commit {older['commit']}",
            older["machine"],
            older["versions"],
            f"*older: {older['note']}*",
        ]
    else:
        made = [f"`{config.get('command', '')}`", *about(config)]
    tables = [path.name for path in sorted(folder.iterdir()) if path.suffix in (".csv", ".md", ".json", ".txt")]
    lines = [f"### {name}", ""]
    if headline := _headline(summary):
        lines += [headline.replace("|", "\\|").replace("<", "&lt;"), ""]
    lines += ["; ".join(part for part in made if part), ""]
    lines += [", ".join(f"[{table}]({quote(f'{name}/{table}')})" for table in tables), ""] if tables else []
    for path in sorted(folder.iterdir(), key=lambda path: (path.suffix != ".png", path.name)):
        if path.suffix in (".png", ".gif"):
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
