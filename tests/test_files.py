"""Files that are whole or not there: atomic writes, JSON, CSV, and checkpoints that run no code."""

import errno
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import BadInput, is_limit
from common.files import (
    atomic_save,
    load_checkpoint,
    read_json,
    read_record,
    remove_stale_temporaries,
    save_checkpoint,
    this_host,
    write_csv,
    write_json,
    write_record,
)

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
    assert is_limit(failure.value)
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
    command = [sys.executable, script, folder / "a.bin"]
    killed = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert killed.communicate(timeout=120)[0] == "whole\n"
    left = set(os.listdir(folder)) - {"a.bin"}
    assert left, "some of the twelve kills must have hit a write"
    assert all(name.startswith(".a.bin.") and name.endswith(".tmp") for name in left)
    host = this_host()
    assert all(name.split(".")[-3] == host for name in left)
    dead = next(iter(left)).split(".")[-2]
    others = {f".a.bin.0123abcd.{dead}.tmp", f".a.bin.{dead}.tmp"}  # of another machine, of who knows whom
    ours = {f".a.bin.{host}.{pid}.tmp" for pid in (os.getpid(), os.getppid())}
    living = {*ours, *others, ".notes.tmp", ".tmp", "other.1.tmp"}
    for name in living:
        (folder / name).touch()
    remove_stale_temporaries(folder)
    assert set(os.listdir(folder)) == {"a.bin", *living}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux shows them so")
def test_a_killed_process_that_nobody_has_waited_for_is_dead(tmp_path):
    killed = subprocess.Popen([sys.executable, "-c", "pass"], stdout=subprocess.PIPE)
    assert killed.stdout is not None
    killed.stdout.read()  # ends when it does, and leaves its end unasked for
    left = tmp_path / f".a.bin.{this_host()}.{killed.pid}.tmp"
    left.touch()
    until = time.monotonic() + 20
    while left.exists() and time.monotonic() < until:
        remove_stale_temporaries(tmp_path)
    assert not left.exists()
    assert killed.returncode is None
    killed.wait()


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


RECORD = {"loss": 1.25, "steps": 400, "name": "né", "rows": [1, 2.5e-9, None], "nested": {"a": {"b": True}}}


def test_a_record_comes_back_without_its_checksum(tmp_path):
    write_record(tmp_path / "a.json", {**RECORD, "path": Path("x")})
    assert read_record(tmp_path / "a.json") == {**RECORD, "path": "x"}
    assert set(read_json(tmp_path / "a.json")) == {*RECORD, "path", "crc32"}


def test_no_flipped_bit_of_a_record_goes_unseen(tmp_path):
    """It reads as before (a flipped blank, say) or it is refused: never as something else."""
    path = tmp_path / "a.json"
    write_record(path, RECORD)
    whole = path.read_bytes()
    refused = 0
    for place in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            try:
                assert read_record(path) == RECORD
            except BadInput:
                refused += 1
    assert refused > 0.9 * 8 * len(whole)


@pytest.mark.parametrize("content", ["[1]", "{}", "3", "null", '{"a": 1}'])
def test_what_is_no_record_is_damaged(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(BadInput, match=r"a\.json is damaged: delete it and run the command again"):
        read_record(tmp_path / "a.json")


def test_csv_has_the_columns_of_all_rows_in_order_of_appearance(tmp_path):
    write_csv(tmp_path / "a.csv", [{"b": 1, "a": 0.1}, {"b": 2, "c": "x,y"}])
    assert (tmp_path / "a.csv").read_bytes() == b'b,a,c\n1,0.1,\n2,,"x,y"\n'


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


def test_no_flipped_bit_of_a_checkpoint_goes_unseen(tmp_path):
    """PyTorch loads nearly all of these without a word."""
    path = tmp_path / "checkpoint.pt"
    state = {
        "step": 7,
        "weights": torch.randn(50, generator=torch.Generator().manual_seed(0)),
        "optimizer": {"lr": 0.1},
    }
    save_checkpoint(path, state)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for place in random.integers(0, len(whole), 300):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << int(random.integers(8))]) + whole[place + 1 :])
        try:
            found = load_checkpoint(path)
        except BadInput:
            refused += 1
        else:  # a bit that nobody reads: padding, or a date
            assert found["step"] == 7
            assert torch.equal(found["weights"], state["weights"])
            assert found["optimizer"] == {"lr": 0.1}
    assert refused > 150


def test_a_checkpoint_of_another_version_names_what_it_lacks(tmp_path):
    save_checkpoint(tmp_path / "checkpoint.pt", {"step": 1})
    with pytest.raises(BadInput, match=r"another version of this project: it has no model, optimizer$"):
        load_checkpoint(tmp_path / "checkpoint.pt", ("step", "model", "optimizer"))


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
