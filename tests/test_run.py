"""Run folders: atomic files, names, locks, metrics, and resuming to the numbers of an uninterrupted run."""

import errno
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import common.provenance
import common.run
from common.errors import BadInput, is_write_error
from common.files import (
    atomic_save,
    load_checkpoint,
    read_json,
    remove_stale_temporaries,
    save_checkpoint,
    write_csv,
    write_json,
)
from common.provenance import check_name, command_line, latest_run, short_hash, source_hash
from common.run import Run, read_metrics


def open_run(folder: Path, exclusive: bool = True, **config: Any) -> Run:
    return Run(folder, config, "cpu", exclusive=exclusive)


def python(script: Path, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, script, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def wait_until(condition: Any, process: subprocess.Popen[str], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the process ended too early"
        assert time.monotonic() < end
        time.sleep(0.005)


# ---------------------------------------------------------------- atomic files


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_failing_save_keeps_the_old_file_and_leaves_no_temporary(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def half(file):
        file.write(b"new")
        no_space()

    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        atomic_save(path, half)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_ctrl_c_during_a_save_leaves_no_temporary(tmp_path):
    def interrupted(file):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomic_save(tmp_path / "a.txt", interrupted)
    assert not os.listdir(tmp_path)


def test_a_full_disk_is_loud_and_the_old_checkpoint_still_loads(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"step": 1, "weights": torch.ones(3)})
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as failure:
        save_checkpoint(path, {"step": 2, "weights": torch.zeros(3)})
    assert is_write_error(failure.value)
    assert load_checkpoint(path)["weights"].tolist() == [1, 1, 1]
    assert os.listdir(tmp_path) == ["checkpoint.pt"]


def test_atomic_save_makes_the_folder_and_replaces_the_content(tmp_path):
    for content in (b"a longer first content", b"second"):
        atomic_save(tmp_path / "new" / "b.bin", lambda file, content=content: file.write(content))
    assert (tmp_path / "new" / "b.bin").read_bytes() == b"second"


# Forks a child that rewrites one file in a loop, kills it at a random moment, looks at the file; twelve times.
KILL_LOOP = """
import os, random, signal, sys, time
from pathlib import Path
from common.files import atomic_save

path, sizes = Path(sys.argv[1]), set()
for kill in range(12):
    before = path.stat().st_mtime_ns if path.exists() else 0
    child = os.fork()
    if child == 0:
        while True:
            for letter in b"abc":
                atomic_save(path, lambda file: [file.write(bytes([letter]) * 50_000) for _ in range(20)])
    while not path.exists() or path.stat().st_mtime_ns == before:
        time.sleep(0.001)
    time.sleep(random.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    content = path.read_bytes()
    assert len(content) == 1_000_000 and len(set(content)) == 1, f"torn: {len(content)} bytes"
print("whole")
"""


def test_a_kill_never_leaves_a_torn_file_and_what_it_leaves_is_swept(tmp_path):
    script = tmp_path / "kill_loop.py"
    script.write_text(KILL_LOOP)
    folder = tmp_path / "files"
    folder.mkdir()
    killed = python(script, folder / "a.bin")
    assert killed.communicate(timeout=120)[0] == "whole\n"
    left = set(os.listdir(folder)) - {"a.bin"}
    assert left, "some of the twelve kills must have hit a write"
    assert all(name.startswith(".a.bin.") and name.endswith(".tmp") for name in left)
    living = {f".a.bin.{os.getpid()}.tmp", f".a.bin.{os.getppid()}.tmp", ".notes.tmp", "other.1.tmp"}
    for name in living:
        (folder / name).touch()
    remove_stale_temporaries(folder)
    assert set(os.listdir(folder)) == {"a.bin", *living}


# ---------------------------------------------------------------- JSON and CSV


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"not json", b"\xff\xfe\x00", b"<html></html>"])
def test_damaged_json_is_bad_input_that_names_the_file(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(BadInput, match=r"a\.json is not readable JSON"):
        read_json(tmp_path / "a.json")


def test_a_missing_json_file_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match=r"a\.json does not exist"):
        read_json(tmp_path / "a.json")


def test_json_round_trip_of_numpy_and_paths(tmp_path):
    array = torch.arange(3).numpy()
    write_json(tmp_path / "a.json", {"array": array, "scalar": array[2], "path": Path("x") / "y"})
    assert read_json(tmp_path / "a.json") == {"array": [0, 1, 2], "scalar": 2, "path": "x/y"}


def test_csv_has_the_columns_of_all_rows_in_order_of_appearance(tmp_path):
    write_csv(tmp_path / "a.csv", [{"b": 1, "a": 0.1}, {"b": 2, "c": "x,y"}])
    assert (tmp_path / "a.csv").read_bytes() == b'b,a,c\n1,0.1,\n2,,"x,y"\n'


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


# ---------------------------------------------------------------- a run folder


def test_config_json_tells_how_to_repeat_the_run(tmp_path):
    Run(tmp_path, {"lr": 0.1, "widths": (1, 2)}, "cpu", arguments={"preset": "quick"}).close()
    record = read_json(tmp_path / "config.json")
    assert record["config"] == {"lr": 0.1, "widths": [1, 2]}
    assert record["arguments"] == {"preset": "quick"}
    assert record["device"] == "cpu"
    assert record["versions"]["torch"]
    assert {"command", "git_commit", "git_dirty"} <= set(record)


def test_the_same_config_opens_the_folder_again_and_another_is_refused(tmp_path):
    open_run(tmp_path, lr=0.1, widths=(1, 2)).close()
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(BadInput, match="another configuration"):
        open_run(tmp_path, lr=0.2, widths=(1, 2), exclusive=False)
    open_run(tmp_path, lr=0.1, widths=(1, 2)).close()
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_refused_folder_is_not_left_locked(tmp_path):
    open_run(tmp_path, lr=0.1).close()
    with pytest.raises(BadInput, match="another configuration") as refusal:
        open_run(tmp_path, lr=0.2)
    open_run(tmp_path, lr=0.1).close()
    del refusal  # it kept the refused Run alive until here


@pytest.mark.parametrize("content", ["{", "{}", "[]", "3"])
def test_a_damaged_config_is_bad_input(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(BadInput):
        open_run(tmp_path, lr=0.1)


HOLDER = """
import sys, time
from common.run import Run
run = Run(sys.argv[1], {"lr": 0.1}, "cpu")
print("ready", flush=True)
time.sleep(600)
"""


def test_a_folder_in_use_is_refused_and_a_killed_owner_frees_it(tmp_path):
    script = tmp_path / "holder.py"
    script.write_text(HOLDER)
    folder = tmp_path / "run"
    holder = python(script, folder)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        with pytest.raises(BadInput, match="in use by another process"):
            open_run(folder, lr=0.1)
        open_run(folder, exclusive=False, lr=0.1)  # a sweep, whose processes share the folder
    finally:
        holder.kill()
        holder.communicate()
    open_run(folder, lr=0.1).close()


def test_summary_marks_a_finished_run_and_clears_the_error_of_an_earlier_try(tmp_path):
    run = open_run(tmp_path)
    run.fail("Traceback: boom")
    assert (tmp_path / "error.txt").read_text() == "Traceback: boom"
    assert run.summary is None
    run.finish(loss=0.5)
    assert run.summary == {"status": "ok", "loss": 0.5}
    assert not (tmp_path / "error.txt").exists()
    run.finish(status="diverged")
    assert run.summary == {"status": "diverged"}
    run.close()


# ---------------------------------------------------------------- metrics


class Numpy2Float(float):
    """np.float64 as numpy 2 shows it, whichever numpy is installed."""

    def __repr__(self) -> str:
        return f"np.float64({float(self)!r})"


def test_metrics_have_one_header_and_exact_numbers(tmp_path):
    run = open_run(tmp_path)
    run.log(step=1, loss=0.1 + 0.2)
    run.log(step=2, loss=float("nan"))
    run.close()
    again = open_run(tmp_path)
    again.log(step=3, loss=1e-300)
    again.close()
    assert (tmp_path / "metrics.csv").read_bytes() == b"step,loss\n1,0.30000000000000004\n2,nan\n3,1e-300\n"


def test_a_numpy_number_is_written_as_a_number(tmp_path):
    run = open_run(tmp_path)
    run.log(step=1, loss=Numpy2Float(0.25))
    run.close()
    assert read_metrics(tmp_path / "metrics.csv")["loss"].tolist() == [0.25]


@pytest.mark.parametrize("row", [{"step": 2}, {"step": 2, "loss": 1.0, "lr": 1.0}, {"loss": 1.0, "step": 2}])
def test_a_row_with_other_columns_is_refused(tmp_path, row):
    open_run(tmp_path, exclusive=False).log(step=1, loss=0.5)
    with pytest.raises(ValueError, match="columns"):
        open_run(tmp_path, exclusive=False).log(**row)
    assert (tmp_path / "metrics.csv").read_text() == "step,loss\n1,0.5\n"


def test_a_first_row_without_a_step_is_refused(tmp_path):
    with pytest.raises(ValueError, match="step"):
        open_run(tmp_path, exclusive=False).log(loss=0.5)
    assert not (tmp_path / "metrics.csv").exists()


def metrics_after_resume(folder: Path, content: str, checkpoint_step: int | None) -> str | None:
    run = open_run(folder, exclusive=False)
    (folder / "metrics.csv").write_text(content)
    if checkpoint_step is not None:
        run.save(checkpoint_step, {"weights": torch.ones(1)})
    state = run.resume()
    assert (state and state["step"]) == checkpoint_step
    return (folder / "metrics.csv").read_text() if (folder / "metrics.csv").exists() else None


def test_resume_drops_rows_beyond_the_checkpoint_and_an_unfinished_line(tmp_path):
    content = "loss,step\n0.5,1\n0.4,2\n0.3,3\n0.2,1"
    assert metrics_after_resume(tmp_path, content, 2) == "loss,step\n0.5,1\n0.4,2\n"


def test_resume_without_a_checkpoint_starts_the_metrics_again(tmp_path):
    assert metrics_after_resume(tmp_path, "step,loss\n1,0.5\n", None) == "step,loss\n"


def test_resume_drops_an_unfinished_header(tmp_path):
    assert metrics_after_resume(tmp_path, "step,lo", None) is None


def test_resume_of_a_fresh_folder_is_none(tmp_path):
    assert open_run(tmp_path, exclusive=False).resume() is None


# ---------------------------------------------------------------- kill and resume

# argv: folder, seconds to sleep a step. Adam's moments and the generator's state must survive for the numbers to agree.
TRAINING = """
import sys, time
from pathlib import Path
import torch
from common.files import save_checkpoint
from common.run import Run

torch.set_num_threads(1)
run = Run(Path(sys.argv[1]), {"lr": 0.05}, "cpu")
generator = torch.Generator().manual_seed(0)
torch.manual_seed(0)
model = torch.nn.Linear(8, 1)
optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
step = 0
if state := run.resume():
    step = state["step"]
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    generator.set_state(state["generator"])
    print("resumed at", step)
while step < 30:
    step += 1
    x = torch.randn(16, 8, generator=generator)
    loss = ((model(x) - x.sum(1, keepdim=True)) ** 2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    run.log(step=step, loss=loss.item())
    if step % 5 == 0:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "generator": generator.get_state()}
        run.save(step, state)
    time.sleep(float(sys.argv[2]))
run.finish(loss=loss.item())
"""


def test_a_killed_run_resumes_to_the_numbers_of_an_uninterrupted_one(tmp_path):
    script, whole, killed = tmp_path / "training.py", tmp_path / "whole", tmp_path / "killed"
    script.write_text(TRAINING)
    metrics = killed / "metrics.csv"
    uninterrupted, first = python(script, whole, 0), python(script, killed, 0.1)
    try:
        wait_until(lambda: metrics.exists() and metrics.read_text().count("\n") > 12, first)
    finally:
        first.kill()
        first.communicate()
    assert not (killed / "summary.json").exists()
    with open(metrics, "a") as file:
        file.write("14,0.")  # the torn line that a kill in the middle of a write would leave
    second = python(script, killed, 0)
    assert second.communicate(timeout=120)[0] == "resumed at 10\n"
    assert uninterrupted.communicate(timeout=120)[0] == ""
    assert metrics.read_bytes() == (whole / "metrics.csv").read_bytes()
    assert metrics.read_text().count("\n") == 31
    assert (killed / "summary.json").read_bytes() == (whole / "summary.json").read_bytes()
    ends = [load_checkpoint(folder / "checkpoint.pt") for folder in (killed, whole)]
    assert all(torch.equal(ends[0]["model"][name], ends[1]["model"][name]) for name in ("weight", "bias"))
    assert torch.equal(ends[0]["generator"], ends[1]["generator"])


# ---------------------------------------------------------------- checkpoints that are not ours


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_a_checkpoint_with_code_in_it_is_refused_and_not_run(tmp_path, form):
    path, marker = tmp_path / "checkpoint.pt", tmp_path / "executed"
    if form == "pickle":
        path.write_bytes(pickle.dumps({"step": 1, "model": Payload(marker)}, protocol=2))
    else:
        torch.save({"step": 1, "model": Payload(marker)}, path)
    with pytest.raises(BadInput, match=r"checkpoint\.pt"):
        load_checkpoint(path)
    assert not marker.exists()


def test_a_truncated_checkpoint_is_bad_input_wherever_it_ends(tmp_path):
    """Beyond 4 kB, PyTorch looks for a missing end before the start of the file, which is an OSError."""
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"step": 1, "weights": torch.arange(2000.0)})
    whole = path.read_bytes()
    outcomes: dict[str, list[int]] = {}
    for size in [0, 1, 100, *range(10, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:size])
        try:
            load_checkpoint(path)
            outcome = "loaded"
        except Exception as error:
            outcome = type(error).__name__
        outcomes.setdefault(outcome, []).append(size)
    assert list(outcomes) == ["BadInput"], {outcome: (sizes[0], sizes[-1]) for outcome, sizes in outcomes.items()}


@pytest.mark.parametrize(
    "content", [b"step,loss\n1,0.5\n", b"<html>404</html>", b"hello world\n", b"PK\x03\x04", b"a.b"]
)
def test_another_kind_of_file_is_no_checkpoint(tmp_path, content):
    (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(BadInput, match="checkpoint of this project"):
        load_checkpoint(tmp_path / "checkpoint.pt")


def test_a_checkpoint_that_is_no_dictionary_or_not_there_is_bad_input(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(BadInput, match="not a checkpoint"):
        load_checkpoint(tmp_path / "list.pt")
    with pytest.raises(BadInput, match="does not exist"):
        load_checkpoint(tmp_path / "absent.pt")
