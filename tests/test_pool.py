"""The process pool: each job once, whoever dies, fails or runs beside it, and nothing but results left behind."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

import common.pool
import pool_jobs
from common.errors import BadInput
from common.files import read_record, write_record
from common.pool import Finished, Job, Pool
from pool_jobs import die_while, fail_while, fill_the_disk, gated_jobs, refuse, square, wait_for


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "results"


@pytest.fixture
def calls(tmp_path):
    path = tmp_path / "calls"
    path.mkdir()
    return path


def squares(calls: Path, keys: str) -> list[Job]:
    return [Job(key, square, {"calls": calls, "key": key, "n": ord(key) - ord("a")}) for key in keys]


def run_jobs(jobs: list[Job], folder: Path, workers: int = 1) -> dict[str, Finished]:
    with Pool(workers, pool_jobs.start) as pool:
        return {finished.job.key: finished for finished in pool.map(jobs, folder)}


def counts(calls: Path) -> dict[str, int]:
    return dict(Counter(path.name.split()[0] for path in calls.iterdir()))


def command(name: str, *arguments: Path) -> subprocess.Popen[str]:
    words = [sys.executable, pool_jobs.__file__, name, *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)


def test_every_job_has_its_result_in_memory_and_on_the_disk(folder, calls):
    done = run_jobs(squares(calls, "abcde"), folder, workers=2)
    assert {key: finished.result for key, finished in done.items()} == {
        k: {"square": n * n} for n, k in enumerate("abcde")
    }
    assert all(finished.error is None for finished in done.values())
    assert sorted(os.listdir(folder)) == [f"{key}.json" for key in "abcde"]
    assert read_record(folder / "e.json") == {"square": 16}


def test_finished_jobs_are_not_run_again_and_come_first(folder, calls):
    write_record(folder / "c.json", {"square": 0.5})
    done = run_jobs(squares(calls, "abc"), folder)
    assert next(iter(done)) == "c"
    assert done["c"].result == {"square": 0.5}
    again = run_jobs(squares(calls, "abc"), folder)
    assert {key: finished.result for key, finished in again.items()} == {k: f.result for k, f in done.items()}
    assert counts(calls) == {"a": 1, "b": 1}


def test_jobs_of_one_worker_run_in_their_order(folder, calls):
    assert list(run_jobs(squares(calls, "dacb"), folder)) == ["d", "a", "c", "b"]


def test_a_damaged_result_is_bad_input_that_names_the_file(folder, calls):
    folder.mkdir()
    (folder / "a.json").write_text('{"squ')
    with pytest.raises(BadInput, match=r"a\.json is not readable"):
        run_jobs(squares(calls, "a"), folder)


# ---------------------------------------------------------------- jobs that fail


def test_a_job_that_raises_is_reported_kept_and_tried_again(tmp_path, folder, calls):
    flag = tmp_path / "flag"
    flag.touch()
    jobs = [Job("bad", fail_while, {"flag": flag}), *squares(calls, "ab")]
    done = run_jobs(jobs, folder)
    assert done["bad"].result is None
    assert done["bad"].error == "ValueError: the loss is odd"
    assert done["b"].result == {"square": 1}
    error = (folder / "bad.error.txt").read_text()
    assert error.startswith("Traceback")
    assert "in fail_while" in error
    assert "and this is a second line" in error
    assert not (folder / "bad.json").exists()
    flag.unlink()
    assert run_jobs(jobs, folder)["bad"].result == {"square": -1}
    assert counts(calls) == {"a": 1, "b": 1}
    assert sorted(os.listdir(folder)) == ["a.json", "b.json", "bad.json"]


def test_a_result_that_is_no_json_is_a_failed_job_without_leftovers(folder, calls):
    done = run_jobs([Job("bad", dict, {"value": {1, 2}}), *squares(calls, "a")], folder)
    assert done["bad"].error == "TypeError: set cannot be written as JSON"
    assert done["a"].result
    assert not [name for name in os.listdir(folder) if name.endswith((".tmp", "bad.json"))]


def test_a_worker_that_is_killed_costs_one_job(tmp_path, folder, calls):
    flag = tmp_path / "flag"
    flag.touch()
    jobs = [*squares(calls, "a"), Job("dead", die_while, {"flag": flag}), *squares(calls, "bc")]
    done = run_jobs(jobs, folder)
    assert done["dead"].error is not None
    assert "killed by signal 9" in done["dead"].error
    assert "\n" not in done["dead"].error
    assert [key for key, finished in done.items() if finished.result] == ["a", "b", "c"]
    flag.unlink()
    assert run_jobs(jobs, folder)["dead"].result == {"square": -1}
    assert sorted(os.listdir(folder)) == ["a.json", "b.json", "c.json", "dead.json"]


def test_a_worker_that_ends_by_itself_is_no_matter_of_memory(folder, calls):
    done = run_jobs([Job("exit", sys.exit, {}), Job("code", pool_jobs.leave, {"code": 3})], folder)
    assert done["code"].error == "the worker process exited with code 3"
    assert done["exit"].error == "the worker process exited with code 0"


def test_a_result_is_at_once_as_it_will_be_read(folder):
    job = Job("odd", pool_jobs.odd, {})
    first, again = (run_jobs([job], folder)["odd"].result for _ in range(2))
    assert first == again == {"1": 2, "a": [1, 2]}


def stopped_by(job: Job, folder: Path, calls: Path, **pool: Any) -> str:
    with pytest.raises(BadInput) as stop, Pool(1, **{"start": pool_jobs.start, **pool}) as workers:
        list(workers.map([*squares(calls, "a"), job, *squares(calls, "b")], folder))
    return str(stop.value)


def test_bad_input_in_a_job_stops_everything_with_its_sentence(folder, calls):
    assert stopped_by(Job("bad", refuse), folder, calls) == "the digits are missing: put them there"
    assert counts(calls) == {"a": 1}


def test_a_full_disk_stops_everything_and_names_the_file(folder, calls):
    sentence = stopped_by(Job("bad", fill_the_disk, {"folder": folder}), folder, calls)
    assert sentence == f"cannot write {folder / 'digits.bin'}: No space left on device"
    assert counts(calls) == {"a": 1}
    assert not [name for name in os.listdir(folder) if name.startswith("bad") and not name.endswith(".lock")]


def test_a_folder_where_no_lock_can_be_made_stops_everything(folder, calls):
    """A full or read-only disk shows first at the claim of a job, before the job itself."""
    start = pool_jobs.start_where_no_file_can_be_locked
    sentence = stopped_by(Job("any", refuse), folder, calls, start=start)
    assert sentence.endswith("No space left on device")
    assert counts(calls) == {}


@pytest.mark.parametrize("content", ["{}", "[1]", '{"square": 8}', '{"square": 7, "crc32": "00000000"}', "{"])
def test_a_damaged_result_is_one_sentence_and_no_job_is_run(folder, calls, content):
    folder.mkdir()
    (folder / "a.json").write_text(content)
    with pytest.raises(BadInput, match=r"a\.json is .*: delete it and run the command again"):
        run_jobs(squares(calls, "a"), folder)
    assert counts(calls) == {}


LIMITED = """
import resource, sys
from common.cli import run_main
from common.pool import Pool

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
    run_main(lambda: Pool(16, print))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit")
def test_too_many_open_files_are_one_sentence(tmp_path):
    (tmp_path / "limited.py").write_text(LIMITED)
    environment = {**os.environ, "PYTHONPATH": str(Path(common.pool.__file__).parents[1])}
    command = [sys.executable, tmp_path / "limited.py"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert run.returncode == 2
    assert run.stderr.splitlines()[0].startswith("error: too many open files")
    assert "Traceback" not in run.stderr


# ---------------------------------------------------------------- several commands on one folder


def test_two_commands_on_one_folder_run_each_job_once_and_both_get_all(folder, calls):
    commands = [command("map_six", folder, calls) for _ in range(2)]
    answers = [json.loads(process.communicate(timeout=120)[0]) for process in commands]
    expected = {f"job{n}": {"square": n * n} for n in range(6)}
    assert answers == [expected, expected]
    assert counts(calls) == dict.fromkeys(expected, 1)
    assert {path.name.split()[1] for path in calls.iterdir()} == {str(process.pid) for process in commands}
    assert sorted(os.listdir(folder)) == [f"{key}.json" for key in expected]


@pytest.mark.parametrize("whole_group", [True, False], ids=["all of it", "but not its worker"])
def test_the_next_command_finishes_what_a_killed_one_left(tmp_path, folder, calls, whole_group):
    """A worker whose command was killed ends with it, since nobody would read what it finds, and frees its claim."""
    gate = tmp_path / "gate"
    first = command("map_gated", folder, calls, gate)
    try:
        wait_for(lambda: "b" in counts(calls))
    finally:
        os.killpg(first.pid, signal.SIGKILL) if whole_group else first.kill()
        first.wait()
    assert os.listdir(folder).count("a.json") == 1
    assert "b.json" not in os.listdir(folder)
    FileLock(folder / "b.lock").acquire(timeout=30).lock.release()  # its worker is gone too, while the gate is shut
    gate.touch()
    done = run_jobs(gated_jobs(calls, gate), folder)
    assert {key: finished.result for key, finished in done.items()} == {
        k: {"square": n * n} for n, k in enumerate("abc")
    }
    assert counts(calls) == {"a": 1, "b": 2, "c": 1}
    assert sorted(os.listdir(folder)) == ["a.json", "b.json", "c.json"]
    assert first.stdout is not None
    first.stdout.close()


def test_ctrl_c_ends_the_workers_and_keeps_what_is_finished(tmp_path, folder, calls):
    process = command("map_gated", folder, calls, tmp_path / "gate")
    try:
        wait_for(lambda: "b" in counts(calls))
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the command and to its workers
        assert process.communicate(timeout=60)[0] == "a\n"
    finally:
        process.kill()
    assert process.returncode == 130
    assert (folder / "a.json").exists()
    FileLock(folder / "b.lock").acquire(timeout=0).lock.release()  # nobody goes on with b


def test_a_result_that_another_command_stores_first_is_taken_from_the_disk(folder, calls):
    """The claim was free again, but only because the other command had finished: look again under the lock."""
    write_record(folder / "a.json", {"square": 7})
    assert common.pool._run(squares(calls, "a")[0], folder) == (common.pool.Answer.DONE, {"square": 7})
    assert counts(calls) == {}


def test_a_lock_file_that_another_command_removed_is_no_failure(folder, calls, monkeypatch):
    """With older versions of filelock one can lock a file that its last holder has just removed."""

    class Removed(common.pool.FileLock):
        def acquire(self, *arguments: Any, **options: Any) -> Any:
            proxy = super().acquire(*arguments, **options)
            os.unlink(self.lock_file)
            return proxy

    folder.mkdir()
    monkeypatch.setattr(common.pool, "FileLock", Removed)
    assert common.pool._run(squares(calls, "a")[0], folder) == (common.pool.Answer.DONE, {"square": 0})
    assert os.listdir(folder) == ["a.json"]
