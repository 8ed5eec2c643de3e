"""What a result came from: names and folders of runs, the source files behind its numbers, the machine."""

import ast
import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from common.errors import BadInput
from common.files import plain

ROOT = Path(__file__).resolve().parent.parent
NAME_LIMIT = 100
RUN_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{NAME_LIMIT - 1}}}")
# Settings that change no number.
NOT_IN_IDENTITY = frozenset({"preset", "device", "results_dir", "data_dir", "name", "from_config", "redraw", "workers"})
# The files of common/ that keep, tell and draw: whatever they do, the numbers are the same.
BOOKKEEPING = frozenset(
    {"cli.py", "clock.py", "errors.py", "events.py", "files.py", "gallery.py", "keeping.py", "live.py", "overlay.py"}
    | {"plots.py", "pool.py", "progress.py", "provenance.py", "record_keys.py", "run.py", "stopping.py"}
)


def repository_root() -> Path:
    """The folder of the checkout; BadInput where `common` was installed away from it (a non-editable install)."""
    if not (ROOT / "pyproject.toml").is_file():
        raise BadInput("the repository is not beside the installed package: install it with `pip install -e .`")
    return ROOT


# ---------------------------------------------------------------- names


def source_hash(*files: str | Path) -> str:
    """One hash of the text of the files that produce the numbers, so that edited code never returns an old result."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()


def source_hashes(*roots: str | Path) -> dict[str, str]:
    """A hash of each file that `roots` consist of: themselves and all of the repository that they import, by path.

    Found from the imports, those inside functions too, so that no list has to be kept by hand; BOOKKEEPING is left out.
    BadInput where `roots` are not of the checkout that `common` was installed from, or it was installed away from any.
    """
    checkout, found = repository_root(), {}
    waiting = [Path(root).resolve() for root in roots]
    if not all(file.is_relative_to(checkout) for file in waiting):
        raise BadInput("`common` is installed from another checkout: install this one with `pip install -e .`")
    while waiting:
        file = waiting.pop()
        if file not in found:
            found[file] = source_hash(file)[:12]
            waiting += imported_files(file)
    return {file.relative_to(ROOT).as_posix(): digest for file, digest in sorted(found.items())}


def imported_files(file: Path) -> list[Path]:
    """The files of the repository that `file` imports: of its own project, and of common/."""
    project = ROOT / file.relative_to(ROOT).parts[0]
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    places = [(project if name.split(".")[0] != "common" else ROOT).joinpath(*name.split(".")) for name in names]
    found = [place.with_suffix(".py") for place in dict.fromkeys(places)]
    return [
        file for file in found if file.is_file() and not (file.parent.name == "common" and file.name in BOOKKEEPING)
    ]


def short_hash(*parts: Any) -> str:
    """Eight hexadecimal digits of the JSON of `parts` (configuration values, source hashes)."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=plain).encode()).hexdigest()[:8]


def check_name(name: str) -> str:
    """`name` if it is one plain folder name, else BadInput: a run never leaves its project's results folder."""
    if not RUN_NAME.fullmatch(name):
        raise BadInput(f"--name {name!r} must be letters, digits, '.', '_' or '-', and start with a letter or digit")
    return name


def differing(given: Any, presets: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What a parsed command line says that is not the default: another `preset`, and what differs from the preset's values.

    The seed, and what changes no number, are left out. `given` is a dataclass, `presets` as in `cli.parse`.
    """
    preset = getattr(given, "preset", None)
    usual = {field.name: field.default for field in dataclasses.fields(given)} | dict(presets.get(preset or "", {}))
    default_preset = type(given).preset if hasattr(type(given), "preset") else None
    found = {"preset": preset} if preset != default_preset else {}
    names = [name for name in usual if name not in NOT_IN_IDENTITY | {"seed"}]
    return found | {name: getattr(given, name) for name in names if getattr(given, name) != usual[name]}


def run_name(task: str, differs: Mapping[str, Any], tail: str) -> str:
    """`<task>-<setting>-<value>-…-<tail>`: what is run, how it differs from the default, hash and seed; NAME_LIMIT at most.

    A setting that finds no room is left out, with those after it; `tail` tells such runs apart.
    """

    def plain_words(value: Any) -> str:
        if isinstance(value, list | tuple):
            return "_".join(map(plain_words, value))
        text = f"{value:g}".replace("e+", "e") if isinstance(value, float) else str(value)
        return re.sub(r"[^A-Za-z0-9._-]", "-", Path(text).stem if "/" in text or os.sep in text else text)

    name = plain_words(task.replace("/", "-")).lstrip("._-")[: NAME_LIMIT - len(tail) - 1] or "run"
    for setting, value in differs.items():
        if value is None or value == task:
            continue
        part = (
            plain_words(value)
            if setting == "preset"
            else setting
            if value is True
            else f"{setting}-{plain_words(value)}"
        )
        if len(f"{name}-{part}-{tail}") > NAME_LIMIT:
            break
        name += f"-{part}"
    return f"{name}-{tail}"


def results_folder(results_dir: str | None, project: str) -> Path:
    """`<results_dir>/<project>`; the default results folder is the repository's, a given one the working directory's."""
    return (Path(results_dir) if results_dir else repository_root() / "results") / project


def latest_run(folder: Path, *markers: str) -> Path:
    """The newest run folder below `folder` that holds the files `markers`; BadInput where there is none."""
    found = [path.parent for path in folder.glob(f"*/{markers[0]}")]
    found = [path for path in found if all((path / marker).exists() for marker in markers)]
    if not found:
        raise BadInput(f"no run with a {markers[0]} below {folder}: start one first, or name one")
    return max(found, key=lambda path: (path / markers[0]).stat().st_mtime)


def environment(device: str) -> dict[str, Any]:
    """What a reader needs to judge a result: versions, commit, processor. No host name and no user's paths."""
    versions = {"python": platform.python_version()}
    for package in ("torch", "numpy", "scipy", "gymnasium"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device,
        "versions": versions,
        **_commit(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": available_cores(),
    }


def available_cores() -> int:
    """Cores that this process may run on (`taskset` or a batch system may allow fewer than the machine has)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _commit() -> dict[str, Any]:
    """The commit of this checkout, and whether its files differ from it; None where it is no checkout, or git does not say.

    A copy of the files inside another repository is not that one's commit.
    """
    top = _git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != ROOT:
        return {"git_commit": None, "git_dirty": None}
    status = _git("status", "--porcelain")
    return {"git_commit": _git("rev-parse", "HEAD"), "git_dirty": None if status is None else bool(status)}


def _git(*arguments: str) -> str | None:
    try:
        run = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() if run.returncode == 0 else None


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def command_line() -> str:
    """The command as it would be typed from the repository root.

    Of absolute paths, those in the repository are relative and those in the user's home begin with ~; others stay.
    """
    script = Path(sys.argv[0])
    with contextlib.suppress(ValueError):
        script = script.resolve().relative_to(ROOT)
    words = [re.sub(r"^(--?[\w-]+=)?(/.*|[A-Za-z]:\\.*)$", _nearer, word) for word in sys.argv[1:]]
    return shlex.join(["python", script.as_posix() if not script.is_absolute() else script.name, *words])


def _nearer(found: re.Match[str]) -> str:
    """A flag and its path, from the repository or from home where it is below."""
    flag, path = found[1] or "", Path(found[2])
    if path.is_relative_to(ROOT):
        return flag + path.relative_to(ROOT).as_posix()
    home = Path(os.path.expanduser("~"))
    return f"{flag}~/{path.relative_to(home).as_posix()}" if path.is_relative_to(home) else found[0]
