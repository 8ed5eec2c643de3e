"""Every committed result says which command made it, at which commit, on which machine and with which versions."""

import json
from pathlib import Path
from typing import Any

import pytest

REFERENCE = Path(__file__).resolve().parents[1] / "results" / "reference"
OLDER: dict[str, dict[str, str]] = json.loads((REFERENCE / "older.json").read_text(encoding="utf-8"))
TABLES = (".csv", ".json", ".png", ".gif", ".txt")
FOLDERS = sorted(
    {path.parent for path in REFERENCE.rglob("*") if path.suffix in TABLES and path.parent != REFERENCE}, key=str
)


def name_of(folder: Path) -> str:
    return folder.relative_to(REFERENCE).as_posix()


def record_of(folder: Path) -> dict[str, Any] | None:
    """What a config.json from a clean tree says; None where there is no such file."""
    file = folder / "config.json"
    record = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return record if record.get("git_dirty") is False else None


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_a_result_says_where_it_is_from(folder):
    record = record_of(folder)
    if record is None:
        entry = OLDER[name_of(folder)]
        assert set(entry) == {"command", "commit", "machine", "versions", "note"}
        assert all(entry.values())
        assert "python " in entry["command"]
        return
    assert name_of(folder) not in OLDER, "it has a record of its own"
    assert record["command"].startswith("python ")
    assert len(record["git_commit"]) == 40
    assert record["processor"]
    assert record["cores"] > 0
    assert {"python", "torch", "numpy"} <= set(record["versions"])


def test_no_entry_is_of_a_result_that_is_gone():
    assert set(OLDER) <= {name_of(folder) for folder in FOLDERS}


def test_no_path_and_no_host_name_is_in_it():
    """Of the files that name where a result came from; a home folder or a root of this machine begins with a slash."""
    for file in [REFERENCE / "older.json", *REFERENCE.rglob("config.json")]:
        text = file.read_text(encoding="utf-8")
        assert not [word for word in ("/home/", "/root", "/tmp/", "/work/", "/Users/", "node", "host") if word in text]
