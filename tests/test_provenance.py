"""What a run's numbers came from: its source files, found from the imports, and its folder."""

from dataclasses import dataclass

import pytest

import common.provenance
from common.provenance import imported_files, source_hash, source_hashes
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
    monkeypatch.setattr(common.provenance, "ROOT", tmp_path)
    return tmp_path


def test_the_files_behind_a_module_are_all_that_it_imports_and_no_others(repository):
    found = source_hashes(repository / "rl/room/step.py")
    assert list(found) == ["common/errors.py", "common/stats.py", "rl/net.py", "rl/room/loss.py", "rl/room/step.py"]
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
