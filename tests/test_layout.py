"""The rules that keep folders of scripts importable, independent of each other and safe to run."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECTS = ("scaling_laws", "transformers", "rl")
SOURCES = {folder: sorted((ROOT / folder).rglob("*.py")) for folder in (*PROJECTS, "common", "tests")}
FILES = [path for paths in SOURCES.values() for path in paths]


def stems(folder: str) -> set[str]:
    return {path.stem for path in SOURCES[folder]} - {"__init__"}


# ---------------------------------------------------------------- names


def test_no_two_files_share_a_module_name():
    """With `--import-mode=importlib`, the second of two equal names would silently get the first one's module."""
    names = [path.stem for path in FILES if path.stem != "__init__"]
    assert sorted(names) == sorted(set(names))
    assert {"run", "sweep", "test_layout"} <= set(names)


def test_no_file_shadows_the_standard_library():
    shadowing = {path.stem for path in FILES} & sys.stdlib_module_names
    assert not shadowing


def declared_import_names() -> set[str]:
    """The names that the dependencies in pyproject.toml are imported by, extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    matches = [re.match(r"[A-Za-z0-9._-]+", line) for line in lines]
    declared = {re.sub(r"[-_.]+", "-", match[0]).lower() for match in matches if match}
    provided = {
        name
        for name, packages in metadata.packages_distributions().items()
        if declared & {re.sub(r"[-_.]+", "-", package).lower() for package in packages}
    }
    return provided | {name.replace("-", "_") for name in declared}  # the latter for what is not installed here


def test_no_file_shadows_a_dependency():
    names = declared_import_names()
    assert {"torch", "numpy", "tyro", "_pytest"} <= names
    assert not {path.stem for path in FILES} & names


def test_script_folders_are_not_packages():
    """An `__init__.py` in transformers/ would shadow Hugging Face's package wherever the root is on the path."""
    assert not [path for path in FILES if path.name == "__init__.py" and path.parent != ROOT / "common"]


# ---------------------------------------------------------------- who imports whom


def imported_names(source: str) -> set[str]:
    """The top-level names that a source imports anywhere; "." for a relative import."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." if node.level or not node.module else node.module.split(".")[0])
    return names


def test_imported_names_sees_every_form():
    source = "import a.b, c as d\nfrom e.f import g\nfrom . import h\ndef late():\n    from i import j"
    assert imported_names(source) == {"a", "c", "e", ".", "i"}


@pytest.mark.parametrize("folder", [*PROJECTS, "common"])
def test_a_folder_imports_only_itself_and_common(folder):
    others = set().union(*(stems(other) for other in (*PROJECTS, "tests") if other != folder))
    # A project's own folder name is forbidden too: `import transformers` must mean the library of that name.
    forbidden = others | {*PROJECTS, "tests", "."}
    for path in SOURCES[folder]:
        assert not imported_names(path.read_text(encoding="utf-8")) & forbidden, path.name


# ---------------------------------------------------------------- calls that run what a file contains

LOADERS = {"pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "joblib.load"}
LOADERS |= {"eval", "exec", "builtins.eval", "builtins.exec", "yaml.load", "yaml.unsafe_load", "pandas.read_pickle"}


def dangerous_calls(source: str) -> list[str]:
    """Calls by which loading a file or a string can run code, under whatever name they were imported."""
    tree = ast.parse(source)
    real: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            real.update({alias.asname or alias.name: alias.name for alias in node.names})
        elif isinstance(node, ast.ImportFrom):
            real.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        first, _, rest = ast.unparse(node.func).partition(".")
        name = real.get(first, first) + (f".{rest}" if rest else "")
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        unsafe_torch = name == "torch.load" and given.get("weights_only") != "True"
        unsafe_numpy = name == "numpy.load" and given.get("allow_pickle", "False") != "False"
        if name in LOADERS or unsafe_torch or unsafe_numpy:
            found.append(f"line {node.lineno}: {name}")
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(path)",
        "import torch as t\nt.load(path, weights_only=False)",
        "from torch import load\nload(path, weights_only=flag)",
        "import pickle\npickle.load(file)",
        "from pickle import loads as read\nread(data)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import yaml\nyaml.load(text)",
        "def late():\n    import joblib\n    joblib.load(path)",
        "eval(text)",
        "exec(text)",
    ],
)
def test_a_dangerous_call_is_found(source):
    assert len(dangerous_calls(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(path, weights_only=True)",
        "import numpy as np\nnp.load(path)\nnp.load(path, allow_pickle=False)",
        "import json, pickle\njson.load(file)\npickle.dumps(value)",
        "model.eval()\nyaml.safe_load(text)",
    ],
)
def test_a_safe_call_is_no_finding(source):
    assert dangerous_calls(source) == []


def test_no_file_can_be_made_to_run_code_from_data():
    found = {path.name: dangerous_calls(path.read_text(encoding="utf-8")) for path in FILES}
    assert {name: calls for name, calls in found.items() if calls} == {}


# ---------------------------------------------------------------- other machines


def test_a_script_runs_from_a_foreign_folder(tmp_path):
    command = [sys.executable, ROOT / "scaling_laws" / "sweep.py", "--help"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert "--preset" in run.stdout
    assert not list(tmp_path.iterdir())


HOMES = re.compile(r"(?<![\w.])/(?:" + "|".join(["home", "Users", "root", "work"]) + r")/\w")


def test_the_pattern_of_home_folders_spares_addresses():
    slash = "/"
    assert HOMES.search(f"cd {slash}home{slash}ada")
    assert HOMES.search(f'"{slash}Users{slash}ada"')
    assert not HOMES.search("https://example.org/home/page results/Users/x")


def test_no_committed_file_names_a_folder_of_somebodys_machine():
    listing = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True)
    names = [name for name in listing.stdout.split("\0") if name]
    if listing.returncode != 0 or not names:
        pytest.skip("not a git checkout")
    found = []
    for path in (ROOT / name for name in names):
        data = path.read_bytes() if path.is_file() else b""
        if b"\0" not in data and (match := HOMES.search(data.decode("utf-8", "replace"))):
            found.append(f"{path.name}: {match[0]}")
    assert not found
