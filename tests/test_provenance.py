"""What a run's numbers came from: its source files, found from the imports, and its folder."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import common.provenance
import common.run
from common.errors import BadInput
from common.files import read_json
from common.provenance import (
    BOOKKEEPING,
    check_name,
    command_line,
    differing,
    environment,
    imported_files,
    latest_run,
    run_name,
    short_hash,
    source_hash,
    source_hashes,
)
from common.run import open_run


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A project of a few files that import each other in every way, and common/."""
    files = {
        "common/stats.py": "import numpy\n",
        "common/errors.py": "",
        "rl/net.py": "from common import stats\nfrom common.errors import BadInput\n",
        "rl/room/__init__.py": '"""A room."""\n',
        "rl/room/step.py": "import net\n\ndef late():\n    from room import loss\n",
        "rl/room/loss.py": "from room.step import late\nimport os.path\n",
        "rl/report.py": "import room.step\n",
        "rl/unused.py": "",
        "transformers/net.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(common.provenance, "ROOT", tmp_path)
    return tmp_path


def test_the_files_behind_a_module_are_all_that_it_imports_and_no_others(repository):
    found = source_hashes(repository / "rl/room/step.py")
    assert list(found) == ["common/stats.py", "rl/net.py", "rl/room/loss.py", "rl/room/step.py"]
    assert found["rl/net.py"] == source_hash(repository / "rl/net.py")[:12]
    assert {path.name for path in imported_files(repository / "rl/report.py")} == {"step.py"}


@pytest.mark.parametrize("name", ["common/stats.py", "rl/net.py", "rl/room/loss.py", "rl/room/step.py"])
def test_a_change_of_any_of_them_shows_and_names_the_file(repository, name):
    before = source_hashes(repository / "rl/room/step.py")
    (repository / name).write_text((repository / name).read_text() + "# changed\n")
    after = source_hashes(repository / "rl/room/step.py")
    assert [file for file in before if before[file] != after[file]] == [name]


def test_a_report_is_no_part_of_it(repository):
    before = source_hashes(repository / "rl/room/step.py")
    (repository / "rl/report.py").write_text("import room.step  # changed\n")
    assert source_hashes(repository / "rl/room/step.py") == before


def test_what_keeps_and_tells_is_no_part_of_it_and_each_file_named_so_exists():
    files = {path.name for path in (common.provenance.ROOT / "common").glob("*.py")} - {"__init__.py"}
    assert files > BOOKKEEPING
    assert files - BOOKKEEPING == {"data.py", "device.py", "stats.py"}  # these can change a number


def test_a_common_of_another_checkout_is_one_sentence(repository, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "rl.py"
    other.write_text("import numpy\n")
    with pytest.raises(BadInput, match="installed from another checkout"):
        source_hashes(other)


# ---------------------------------------------------------------- the folder of a run


@dataclass(frozen=True)
class Settings:
    seed: int = 3
    lr: float = 0.1
    results_dir: str | None = None
    name: str | None = None
    workers: int = 0
    text: str = "a.txt"


def folder_of(repository, **changed) -> str:
    more = changed.pop("more", {})
    settings = Settings(results_dir=str(repository / "results"), **changed)
    roots = [repository / "rl/room/step.py"]
    with open_run("rl", "Pole/v1", settings, settings, "cpu", roots, leave_out={"text"}, **more) as run:
        return run.folder.name


def test_a_folder_is_named_after_all_that_changes_the_numbers_and_nothing_else(repository):
    name = folder_of(repository)
    assert name.startswith("Pole-v1-")
    assert name.endswith("-s3")
    same = [folder_of(repository, workers=2), folder_of(repository, text="b.txt")]
    assert {name, *same} == {name}
    others = [folder_of(repository, lr=0.2), folder_of(repository, seed=4), folder_of(repository, more={"data": "x"})]
    (repository / "common/stats.py").write_text("import numpy  # changed\n")
    assert len({name, *others, folder_of(repository)}) == 5
    assert folder_of(repository, name="mine") == "mine"


def test_a_folder_says_what_was_run_and_how_it_differs(repository):
    usual = folder_of(repository)
    assert re.fullmatch(r"Pole-v1-[0-9a-f]{8}-s3", usual)
    assert re.fullmatch(r"Pole-v1-lr-0.25-[0-9a-f]{8}-s4", folder_of(repository, lr=0.25, seed=4))
    record = read_json(repository / "results/rl" / folder_of(repository, lr=0.25, workers=3) / "config.json")
    assert record["differs"] == {"lr": 0.25}
    assert os.readlink(repository / "results" / "latest") == f"rl/{folder_of(repository, lr=0.25)}"
    assert (repository / "results/latest/config.json").exists()
    assert folder_of(repository) == usual
    assert (repository / "results" / "latest").resolve().name == usual


def test_the_same_numbers_have_one_folder_however_they_were_asked_for(repository):
    """The name of a folder follows the command line, the hash in it what that comes to."""
    first = folder_of(repository, text="texts/mine.txt")
    assert re.fullmatch(r"Pole-v1-text-mine-[0-9a-f]{8}-s3", first)
    assert folder_of(repository, text="b.txt") == first


@dataclass(frozen=True)
class Given:
    preset: str = "default"
    width: int = 64
    minutes: float | None = 5.0
    seed: int = 0
    device: str = "auto"


PRESETS = {"default": {}, "quick": {"width": 32, "minutes": 1.0}}


@pytest.mark.parametrize(
    ("given", "differs"),
    [
        (Given(), {}),
        (Given(seed=4, device="cuda"), {}),
        (Given(width=16), {"width": 16}),
        (Given("quick", 32, 1.0), {"preset": "quick"}),
        (Given("quick", 64, 1.0), {"preset": "quick", "width": 64}),
        (Given(minutes=None), {"minutes": None}),
    ],
)
def test_what_differs_is_told_beside_the_preset(given, differs):
    assert differing(given, PRESETS) == differs


@pytest.mark.parametrize(
    ("task", "differs", "name"),
    [
        ("shakespeare", {"preset": "quick", "lr": 0.5, "without": ("a", "b")}, "shakespeare-quick-lr-0.5-without-a_b"),
        ("CartPole-v1", {"env": "CartPole-v1", "anneal": True, "steps": None}, "CartPole-v1-anneal"),
        ("my.mod:Env/x y", {"text": "../a b/Moby Dick.txt"}, "my.mod-Env-x-y-text-Moby-Dick"),
        ("..", {}, "run"),
        ("x" * 200, {"lr": 0.5}, "x" * 90),
        ("t", {"a": "y" * 90, "b": 1}, "t"),
    ],
)
def test_names_are_plain_and_not_too_long(task, differs, name):
    found = run_name(task, differs, "0123abcd-")
    assert found == f"{name}-0123abcd-"
    assert check_name(found) == found


# ---------------------------------------------------------------- names and hashes


@given(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,99}", fullmatch=True))
def test_plain_slugs_are_names(name):
    assert check_name(name) == name


@given(st.text(max_size=8) | st.text(alphabet="./\\~a- \n\0", max_size=8))
def test_a_name_never_leaves_its_folder(name):
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    plain = 0 < len(name) <= 100 and set(name) <= allowed and name[0] not in "._-"
    if plain:
        assert check_name(name) == Path(name).name
    else:
        with pytest.raises(BadInput):
            check_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/b", "/etc", "a\n", "-rf", ".hidden", "é", "a" * 101])
def test_a_name_that_is_no_plain_folder_name_is_refused(name):
    with pytest.raises(BadInput, match="--name"):
        check_name(name)


def test_short_hash_tells_values_types_and_places_apart_but_not_the_order_of_keys():
    different = [{"a": 1}, {"a": 2}, {"b": 1}, {"a": 1.0}, {"a": "1"}, {"a": [1]}, {"a": True}, {"a": None}, {}]
    assert len({short_hash(value) for value in different}) == len(different)
    assert short_hash(1, 2) != short_hash(2, 1)
    assert short_hash({"a": 1, "b": 2}) == short_hash({"b": 2, "a": 1})
    assert len(short_hash("x")) == 8


def test_source_hash_changes_with_one_character(tmp_path):
    file = tmp_path / "model.py"
    file.write_text("rate = 0.1\n")
    before = source_hash(file)
    file.write_text("rate = 0.2\n")
    assert source_hash(file) != before


def test_latest_run_is_the_newest_marker_not_the_newest_folder(tmp_path):
    for age, name in enumerate(["b", "a", "c"]):
        (tmp_path / name).mkdir()
        (tmp_path / name / "runs.csv").touch()
        os.utime(tmp_path / name / "runs.csv", (1e9 - age, 1e9 - age))
    (tmp_path / "unfinished").mkdir()
    assert latest_run(tmp_path, "runs.csv") == tmp_path / "b"


def test_latest_run_passes_over_runs_that_lack_one_of_the_files(tmp_path):
    for age, name in enumerate(["half", "whole"]):
        (tmp_path / name).mkdir()
        (tmp_path / name / "runs.csv").touch()
        os.utime(tmp_path / name / "runs.csv", (1e9 - age, 1e9 - age))
    (tmp_path / "whole" / "fits.json").touch()
    assert latest_run(tmp_path, "runs.csv", "fits.json") == tmp_path / "whole"


def test_latest_run_without_any_is_bad_input(tmp_path):
    (tmp_path / "unfinished").mkdir()
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(BadInput, match=r"no run with a runs\.csv"):
            latest_run(folder, "runs.csv")


@pytest.mark.parametrize(("folder", "shown"), [(common.provenance.ROOT / "rl", "rl/vpg.py"), (Path("away"), "vpg.py")])
def test_the_recorded_command_has_no_folder_of_this_machine(tmp_path, monkeypatch, folder, shown):
    monkeypatch.setattr(sys, "argv", [str(tmp_path / folder / "vpg.py"), "--seed", "3"])
    assert command_line() == f"python {shown} --seed 3"


def test_paths_of_the_recorded_command_are_relative_where_they_can_be(monkeypatch):
    root = common.provenance.ROOT
    monkeypatch.setenv("HOME", "/people/anna")
    words = [f"{root}/data/t.txt", "--name=/people/anna/a", "/data/b", "--lr", "1/2", "/people/annabel"]
    monkeypatch.setattr(sys, "argv", [str(root / "rl" / "vpg.py"), *words])
    assert command_line() == "python rl/vpg.py data/t.txt '--name=~/a' /data/b --lr 1/2 /people/annabel"


# ---------------------------------------------------------------- the commit


def git(folder: Path, *arguments: str) -> None:
    names = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", *names, *arguments], cwd=folder, check=True, capture_output=True)


def test_the_commit_is_this_checkouts_own(tmp_path, monkeypatch):
    monkeypatch.setattr(common.provenance, "ROOT", tmp_path / "copy")
    (tmp_path / "copy").mkdir()
    unknown = {"git_commit": None, "git_dirty": None}
    assert commit_of() == unknown  # no repository
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "another repository's")
    assert commit_of() == unknown  # an unzipped copy inside another repository
    git(tmp_path / "copy", "init", "-q")
    git(tmp_path / "copy", "commit", "-q", "--allow-empty", "-m", "ours")
    clean = commit_of()
    assert len(str(clean["git_commit"])) == 40
    assert clean["git_dirty"] is False
    (tmp_path / "copy" / "new.py").touch()
    assert commit_of() == {**clean, "git_dirty": True}
    (tmp_path / "copy" / ".git" / "index").write_bytes(b"damaged")
    assert commit_of() == {**clean, "git_dirty": None}  # git does not say
    monkeypatch.setenv("PATH", "")
    assert commit_of() == unknown  # no git


def commit_of() -> dict[str, object]:
    return {name: value for name, value in environment("cpu").items() if name.startswith("git_")}
