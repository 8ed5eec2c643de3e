"""What a result came from: names and folders of runs, the source files behind its numbers, the machine."""

import ast
import contextlib
import hashlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from common.errors import BadInput
from common.files import plain

ROOT = Path(__file__).resolve().parent.parent
RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


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

    Found from the imports, those inside functions too, so that no list has to be kept by hand. BadInput where `roots` are
    not of the checkout that `common` was installed from, or it was installed away from any.
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
    return [place.with_suffix(".py") for place in dict.fromkeys(places) if place.with_suffix(".py").is_file()]


def short_hash(*parts: Any) -> str:
    """Eight hexadecimal digits of the JSON of `parts` (configuration values, source hashes)."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=plain).encode()).hexdigest()[:8]


def check_name(name: str) -> str:
    """`name` if it is one plain folder name, else BadInput: a run never leaves its project's results folder."""
    if not RUN_NAME.fullmatch(name):
        raise BadInput(f"--name {name!r} must be letters, digits, '.', '_' or '-', and start with a letter or digit")
    return name


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
        "device": device,
        "versions": versions,
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain")),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": available_cores(),
    }


def available_cores() -> int:
    """Cores that this process may run on (`taskset` or a batch system may allow fewer than the machine has)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
    """The command as it would be typed from the repository root: no absolute path of this machine."""
    script = Path(sys.argv[0])
    with contextlib.suppress(ValueError):
        script = script.resolve().relative_to(ROOT)
    return shlex.join(["python", script.as_posix() if not script.is_absolute() else script.name, *sys.argv[1:]])
