"""The quick part of the fault matrix: each script, each kind of fault, a few moments. `long_matrix.py` has them all."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from faults.damages import WAYS
from faults.fault_kinds import carry_out, faults_of
from faults.tiny_commands import SCRIPTS
from faults.trials import Bench, Trial

SEED = 7
# Side by side, one list on each core: those of one process, and those with workers.
ALONE = (
    ("train", "checkpoint.pt flipped"),
    ("vpg", "SIGHUP"),
)
WITH_WORKERS = (
    ("sweep", "disk full at write"),
    ("sweep", "SIGKILL of a worker"),
)


def carry_out_all(root: Path, cells: tuple[tuple[str, str], ...]) -> list[Trial]:
    bench = Bench(root)
    return [carry_out(bench, SCRIPTS[key], fault, faults_of(SCRIPTS[key], WAYS)[fault], SEED) for key, fault in cells]


@pytest.fixture(scope="module")
def trials(tmp_path_factory) -> dict[tuple[str, str], Trial]:
    """All trials, one list beside the other."""
    roots = [tmp_path_factory.mktemp("bench") for _ in range(2)]
    with ThreadPoolExecutor(2) as threads:
        done = [trial for part in threads.map(carry_out_all, roots, (ALONE, WITH_WORKERS)) for trial in part]
    return {(trial.script.key, trial.fault): trial for trial in done}


@pytest.mark.parametrize(("key", "fault"), [*ALONE, *WITH_WORKERS])
def test_nothing_is_lost_and_no_number_is_wrong(trials, key, fault):
    trial = trials[key, fault]
    print(trial.line)
    assert not trial.wrong, trial.line
