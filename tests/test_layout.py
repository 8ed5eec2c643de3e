"""The rules that keep folders of scripts importable, independent of each other and safe to run."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# The rooms of each project in the order of its arrows: a file imports from its own room and from those to its left.
ROOMS: dict[str, tuple[str, ...]] = {
    "scaling_laws": ("nets", "sweeping", "law_forms", "laws", "planning", "arms", "law_report"),
    "transformers": (
        "lm_settings",
        "texts",
        "decoder_model",
        "gradient_noise",
        "optimisation",
        "lm_evaluation",
        "critical_batch",
        "lm_report",
    ),
    "rl": ("rl_settings", "vector_environments", "policy_networks", "vpg_learner", "training_runs", "rl_report"),
}
PROJECTS = tuple(ROOMS)
SOURCES = {folder: sorted((ROOT / folder).rglob("*.py")) for folder in (*PROJECTS, "common", "tests")}
FILES = [path for paths in SOURCES.values() for path in paths]


def stems(folder: str) -> set[str]:
    return {path.stem for path in SOURCES[folder]} - {"__init__"}


def entry_scripts(project: str) -> list[Path]:
    """The files at the top of a project: what a person runs."""
    return sorted((ROOT / project).glob("*.py"))


# ---------------------------------------------------------------- names


def module_names() -> list[str]:
    """The names of all files and rooms."""
    return [path.stem for path in FILES if path.stem != "__init__"] + [
        room for rooms in ROOMS.values() for room in rooms
    ]


def test_no_two_files_or_rooms_share_a_name():
    """With `--import-mode=importlib`, the second of two equal names would silently get the first one's module."""
    names = module_names()
    assert sorted(names) == sorted(set(names))
    assert {"run", "sweep", "test_layout", *ROOMS["rl"]} <= set(names)


def test_no_name_shadows_the_standard_library():
    assert not set(module_names()) & sys.stdlib_module_names


def installed_names() -> set[str]:
    """The names that what is installed here is imported by, and the declared packages that are not."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    matches = [re.match(r"[A-Za-z0-9._-]+", line) for line in lines]
    declared = {re.sub(r"[-_.]+", "_", match[0]).lower() for match in matches if match}
    return (set(metadata.packages_distributions()) | declared) - {"common"}


def test_no_name_shadows_a_package():
    names = installed_names()
    assert {"torch", "numpy", "tyro", "_pytest", "envpool"} <= names
    assert not set(module_names()) & names


# ---------------------------------------------------------------- rooms


@pytest.mark.parametrize("project", PROJECTS)
def test_a_project_is_its_entry_scripts_its_plain_file_and_its_rooms(project):
    """An `__init__.py` in transformers/ would shadow Hugging Face's package wherever the root is on the path."""
    scripts = [path for path in entry_scripts(project) if not path.stem.startswith("plain_")]
    assert len(entry_scripts(project)) == len(scripts) + 1
    for script in scripts:
        assert script.read_text(encoding="utf-8").rstrip().endswith("run_main(main)"), script.name
    rooms = {path.parent.name for path in (ROOT / project).rglob("*.py")} - {project}
    assert rooms == set(ROOMS[project])
    for room in rooms:
        files = [path for path in SOURCES[project] if path.parent.name == room and path.stem != "__init__"]
        assert 1 <= len(files) <= 9, room
        # Without it, an installed package of the room's name would win.
        (docstring,) = ast.parse((ROOT / project / room / "__init__.py").read_text(encoding="utf-8")).body
        assert ast.get_docstring(ast.Module([docstring], []))


def test_rooms_win_over_a_foreign_package_of_the_same_name(tmp_path):
    for project, script in (("scaling_laws", "sweep.py"), ("transformers", "train.py"), ("rl", "vpg.py")):
        for room in ROOMS[project]:
            (tmp_path / room).mkdir()
            (tmp_path / room / "__init__.py").write_text("raise RuntimeError('a foreign package')\n")
        command = [sys.executable, ROOT / project / script, "--help"]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert run.returncode == 0, run.stderr
        assert "--preset" in run.stdout


# ---------------------------------------------------------------- who imports whom


def imported_names(source: str) -> set[str]:
    """The modules that a source imports anywhere, also inside functions; "." for a relative import.

    `from a import b` names a and a.b, since b may be a module or not.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." if node.level or not node.module else node.module
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def test_imported_names_sees_every_form():
    source = "import a.b, c as d\nfrom e.f import g\nfrom . import h\ndef late():\n    from i import j"
    assert imported_names(source) == {"a.b", "c", "e.f", "e.f.g", ".", "..h", "i", "i.j"}


def imports_of(project: str) -> dict[Path, set[Path]]:
    """The files of a project, and of each those of the same project that it imports."""
    modules = {".".join(path.relative_to(ROOT / project).with_suffix("").parts): path for path in SOURCES[project]}
    names = {path: imported_names(path.read_text(encoding="utf-8")) for path in SOURCES[project]}
    return {path: {modules[name] for name in names[path] & modules.keys()} for path in SOURCES[project]}


@pytest.mark.parametrize("folder", [*PROJECTS, "common"])
def test_a_folder_imports_only_itself_and_common(folder):
    others = set().union(*(stems(other) for other in (*PROJECTS, "tests") if other != folder))
    others |= {room for project, rooms in ROOMS.items() if project != folder for room in rooms}
    # A project's own folder name is forbidden too: `import transformers` must mean the library of that name.
    forbidden = others | {*PROJECTS, "tests", ""}
    for path in SOURCES[folder]:
        names = imported_names(path.read_text(encoding="utf-8"))
        assert not {name.split(".")[0] for name in names} & forbidden, path.name


@pytest.mark.parametrize("project", PROJECTS)
def test_arrows_go_one_way(project):
    """Settings, data and model, a step of training, budget and evaluation, report, entry scripts: never upwards."""
    level = {room: i for i, room in enumerate(ROOMS[project])} | {project: len(ROOMS[project])}
    upwards = [
        f"{path.name} imports {other.name}"
        for path, others in imports_of(project).items()
        for other in others
        if level[other.parent.name] > level[path.parent.name] or other.parent.name == project
    ]
    assert not upwards


@pytest.mark.parametrize("project", [*PROJECTS, "common"])
def test_no_imports_go_in_circles(project):
    graph = imports_of(project)
    if project == "common":
        modules = {f"common.{path.stem}": path for path in SOURCES["common"]}
        names = {path: imported_names(path.read_text(encoding="utf-8")) for path in graph}
        graph = {path: {modules[name] for name in names[path] & modules.keys()} for path in graph}
        assert sum(map(len, graph.values())) > 10
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(path.name for path in error.args[1]))
    assert set(order) == set(graph)


def test_a_plain_file_needs_nothing_of_the_project():
    for project in PROJECTS:
        (plain,) = (path for path in entry_scripts(project) if path.stem.startswith("plain_"))
        assert not imports_of(project)[plain]
        assert not any(name.startswith("common") for name in imported_names(plain.read_text(encoding="utf-8")))


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
