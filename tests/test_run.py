"""Run folders: atomic files, names, locks, metrics, and resuming to the numbers of an uninterrupted run."""

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import BadInput
from common.files import load_checkpoint, read_json, read_record, write_record
from common.run import Run, changed_sources, differences, read_metrics


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


# ---------------------------------------------------------------- a run folder


def test_config_json_tells_how_to_repeat_the_run(tmp_path):
    Run(tmp_path, {"lr": 0.1, "widths": (1, 2)}, "cpu", arguments={"preset": "quick"}).close()
    record = read_json(tmp_path / "config.json")
    assert record["config"] == {"lr": 0.1, "widths": [1, 2]}
    assert record["differs"] == {}
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


def test_a_folder_in_use_can_be_waited_for(tmp_path):
    script = tmp_path / "holder.py"
    script.write_text(HOLDER)
    with python(script, tmp_path / "run") as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        threading.Timer(0.3, holder.kill).start()
        Run(tmp_path / "run", {"lr": 0.1}, "cpu", wait=True).close()
        assert holder.wait(1) != 0


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


@pytest.mark.parametrize(
    ("error", "kept"), [(ValueError("a bug"), True), (BadInput("a flag"), False), (BrokenPipeError(), False)]
)
def test_a_crash_is_kept_and_the_folder_freed(tmp_path, error, kept):
    def crash() -> None:
        with open_run(tmp_path):
            raise error

    with pytest.raises(type(error)):
        crash()
    assert (tmp_path / "error.txt").exists() == kept
    assert not kept or "a bug" in (tmp_path / "error.txt").read_text()
    open_run(tmp_path).close()


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
    if checkpoint_step is not None:
        (folder / "metrics.csv").write_text(content[: content.index("0.3,3")])  # as it was then
        run.save(checkpoint_step, {"weights": torch.ones(1)})
    (folder / "metrics.csv").write_text(content)
    state = run.resume()
    assert (state and state["step"]) == checkpoint_step
    return (folder / "metrics.csv").read_text() if (folder / "metrics.csv").exists() else None


def test_resume_drops_rows_beyond_the_checkpoint_and_an_unfinished_line(tmp_path):
    content = "loss,step\n0.5,1\n0.4,2\n0.3,3\n0.2,4\n0.1"
    assert metrics_after_resume(tmp_path, content, 2) == "loss,step\n0.5,1\n0.4,2\n"


def test_resume_without_a_checkpoint_starts_the_metrics_again(tmp_path):
    assert metrics_after_resume(tmp_path, "step,loss\n1,0.5\n", None) == "step,loss\n"


def test_resume_drops_an_unfinished_header(tmp_path):
    assert metrics_after_resume(tmp_path, "step,lo", None) is None


def test_resume_of_a_fresh_folder_is_none(tmp_path):
    assert open_run(tmp_path, exclusive=False).resume() is None


# ---------------------------------------------------------------- damage


@pytest.fixture
def half_done(tmp_path):
    """A run that was stopped after five rows."""
    with open_run(tmp_path) as run:
        for step in range(1, 6):
            run.log(step=step, loss=1 / step)
        run.save(5, {"weights": torch.ones(1)})
    return tmp_path


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(
            {
                "empty": b"",
                "half": data[: len(data) // 2],
                "bit": data[:-3] + b"9" + data[-2:],
                "not UTF-8": b"\xff" + data,
            }[how]
        )


DAMAGES = ["gone", "empty", "half", "bit", "not UTF-8"]


@pytest.mark.parametrize("how", DAMAGES)
def test_rows_that_a_checkpoint_counts_on_are_missed(half_done, how):
    damage(half_done / "metrics.csv", how)
    with (
        open_run(half_done) as run,
        pytest.raises(BadInput, match=r"metrics\.csv is damaged.* put it back, or delete the"),
    ):
        run.resume()


@pytest.mark.parametrize("how", DAMAGES)
def test_rows_of_a_finished_run_are_missed(half_done, how):
    with open_run(half_done) as run:
        run.finish(loss=0.2)
        assert run.summary == {"status": "ok", "loss": 0.2}
        damage(half_done / "metrics.csv", how)
        with pytest.raises(BadInput, match=r"metrics\.csv is damaged"):
            _ = run.summary


@pytest.mark.parametrize("content", ["[1]", "{", "{}", '{"status": "ok", "loss": 0.3}'])
def test_a_damaged_summary_is_one_sentence(half_done, content):
    with open_run(half_done) as run:
        run.finish(loss=0.2)
        (half_done / "summary.json").write_text(content)
        with pytest.raises(BadInput, match=r"summary\.json is .*: delete it and run the command again"):
            _ = run.summary
        (half_done / "summary.json").unlink()  # as the sentence says
        run.finish(loss=0.2)
        assert run.summary == {"status": "ok", "loss": 0.2}


@pytest.mark.parametrize("how", ["gone", "empty", "half", "bit"])
def test_the_checkpoint_of_a_finished_run_is_missed(half_done, how, capsys):
    with open_run(half_done) as run:
        run.finish(loss=0.2)
        damage(half_done / "checkpoint.pt", how)
        if how == "gone":  # somebody needed the space
            assert run.summary == {"status": "ok", "loss": 0.2}
            assert "checkpoint.pt is gone; the same command trains it again once" in capsys.readouterr().out
            return
        with pytest.raises(BadInput, match=r"checkpoint\.pt is damaged, though its run is done: delete .* to train it"):
            _ = run.summary


def test_a_table_that_is_none_is_one_sentence(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,loss\n1,x\n")
    with pytest.raises(BadInput, match="no table of numbers"):
        read_metrics(tmp_path / "metrics.csv")


# ---------------------------------------------------------------- identity


def test_another_configuration_says_what_differs(tmp_path):
    open_run(tmp_path, lr=0.1, sources={"a.py": "1", "b.py": "2"}, loop="x").close()
    with pytest.raises(BadInput, match=r"configuration \(lr was 0.1, is 0.2, b.py has changed, the code has changed\)"):
        open_run(tmp_path, lr=0.2, sources={"a.py": "1", "b.py": "3"}, loop="y")


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"b": 2}, ["a was 1, is None", "b was None, is 2"]),
        ({"sources": "0123"}, {"sources": {"a.py": "1"}}, ["the code has changed"]),
        ({"sources": {"a.py": "1"}}, {"sources": {"b.py": "1"}}, ["a.py has changed", "b.py has changed"]),
        ([1], {"a": 1}, ["a was None, is 1"]),
        ({}, {str(n): n for n in range(9)}, [*(f"{n} was None, is {n}" for n in range(5)), "and 4 more"]),
    ],
)
def test_differences_are_told_in_a_few_words(before, now, told):
    assert differences(before, now) == told


def test_code_is_compared_file_by_file_where_the_record_has_that():
    assert changed_sources({"a.py": "1"}, {"a.py": "1"}) == []
    assert changed_sources(None, {"a.py": "1"}) == ["the code has changed"]


def test_a_run_that_goes_on_under_other_versions_says_so(half_done, capsys):
    record = read_record(half_done / "config.json")
    open_run(half_done).close()
    assert capsys.readouterr().out == ""
    now = record["versions"]["torch"]
    record["versions"] |= {"torch": "2.0.0"}
    write_record(half_done / "config.json", record)
    open_run(half_done).close()
    assert capsys.readouterr().out == (
        f"NOTE: this run was begun with torch 2.0.0, now {now}: its last digits may depend on that\n"
    )


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
