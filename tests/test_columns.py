"""docs/runs.md: made from the code, and every column of every table is in it."""

import csv
import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from common.provenance import BOOKKEEPING, ROOT, source_hashes

REFERENCE = ROOT / "results" / "reference"


def load_writer() -> ModuleType:
    """docs/write_runs.py, which is no module of the tests' path."""
    spec = importlib.util.spec_from_file_location("write_runs", ROOT / "docs" / "write_runs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WRITER = load_writer()
KNOWN = WRITER.tables()


def known(project: str, file: str) -> set[str]:
    """The names that the page explains for a file of a project."""
    found: set[str] = set()
    for part in ("Every project", project):
        for files, columns in KNOWN[part].items():
            if file in files.split(", "):
                found |= set(columns)
    return found


def test_the_page_is_what_the_code_says():
    assert (ROOT / "docs" / "runs.md").read_text(encoding="utf-8") == WRITER.runs_page()


TABLES = sorted(path.relative_to(REFERENCE).as_posix() for path in REFERENCE.rglob("*.csv"))


@pytest.mark.parametrize("table", TABLES)
def test_every_column_of_a_committed_table_is_explained(table):
    with open(REFERENCE / table, newline="", encoding="utf-8") as file:
        header = next(csv.reader(file))
    assert set(header) <= known(table.split("/")[0], Path(table).name)


@pytest.mark.parametrize("kind", ["config.json", "summary.json"])
def test_every_key_of_a_committed_record_is_explained(kind):
    for path in REFERENCE.rglob(kind):
        project = path.relative_to(REFERENCE).parts[0]
        assert set(json.loads(path.read_text(encoding="utf-8"))) <= known(project, kind), path


@pytest.mark.parametrize("project", ["scaling_laws", "transformers", "rl"])
def test_no_name_is_explained_that_no_code_writes(project):
    """Each stands as a word in a source file, or is a pair's end (…_lo95) that one composes."""
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / project).rglob("*.py") if "columns" not in path.stem]
    texts += [path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "benchmarks").glob("*.py")]
    text = "\n".join(texts)
    for columns in KNOWN[project].values():
        for name in columns:
            stem = re.sub(r"_(lo95|hi95|value|before)$", "", name)
            stem = re.sub(r"^(policy|value)_(squared_norm|trace|scale)$", r"\2", stem)  # composed by a benchmark
            assert stem in text, name


def test_the_dictionaries_are_no_part_of_a_runs_identity():
    roots = [ROOT / "rl/vpg_learner/vpg_trainer.py", ROOT / "transformers/optimisation/lm_learner.py"]
    hashed = source_hashes(*roots, ROOT / "scaling_laws/nets/cell_jobs.py")
    assert not [file for file in hashed if "columns" in file]
    assert "record_keys.py" in BOOKKEEPING
