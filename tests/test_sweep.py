"""sweep.py end to end on small files in MNIST's format: resume, sharing, failures, bad input."""

import csv
import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import common.data
import sweep
from common.cli import run_main
from common.errors import BadInput
from common.pool import Job
from common.provenance import source_hashes
from nets.flop_count import macs_per_image, n_params, training_flops
from nets.learning_rate import RULE
from sweeping.grid import Cell, fit_into, grid, search_plan
from sweeping.sweep_runner import Sweep
from sweeping.sweep_settings import CommandLine, resolve
from synthetic_law import POWER_MEAN, exact_loss
from synthetic_mnist import write_mnist

ROOT = Path(__file__).resolve().parent.parent
TIMES = ("seconds", "images_per_second")
# 4 budgets x 5 widths on 1,100 digits; a few seconds
TINY = (
    *("--budgets", "6e7", "1.2e8", "2.4e8", "4.8e8", "--widths", "1", "2", "3", "4", "6", "--seeds", "2"),
    *("--min-samples", "40", "--max-samples", "20000", "--row-widths", "2", "--row-halvings", "6", "7"),
    *("--column-widths", "1", "2", "3", "4", "6", "--column-halvings", "7"),
)
FEW = ("--budgets", "6e7", "--widths", "1", "2", "3", "--seeds", "2", "--min-samples", "40", "--row-widths", "2")
FEW += ("--row-halvings", "7", "--column-widths", "1", "2", "3", "--column-halvings", "7")


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A working folder with synthetic digits under data/ and its own cache."""
    write_mnist(tmp_path / "data")
    monkeypatch.setenv("REPLICATIONS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("REPLICATIONS_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(*arguments: str, **options) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "scaling_laws/sweep.py"), "--results-dir", "results", "--name", "tiny"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, *arguments], **{**pipes, **options})


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def inline(monkeypatch, *arguments: str) -> int | str | None:
    """The script's main in this process, for what ends before any worker starts."""
    command = ["scaling_laws/sweep.py", "--results-dir", "results", "--name", "tiny", *arguments]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stop:
        run_main(sweep.main)
    return stop.value.code


def rows(folder: Path = Path("results/scaling_laws/tiny")) -> list[dict[str, str]]:
    with open(folder / "runs.csv", newline="") as file:
        return [{key: value for key, value in row.items() if key not in TIMES} for row in csv.DictReader(file)]


def stored(pattern: str = "*.json") -> list[Path]:
    """Files of the one folder that all sweeps of a place keep their cells in."""
    return sorted(Path("results/scaling_laws/cells").glob(f"*/{pattern}"))


def one_sentence(err: str) -> str:
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]


# ---------------------------------------------------------------- what it writes


def test_a_whole_sweep(place):
    code, out, err = finish(start(*TINY))
    assert code == 0, err
    found = rows()
    columns = "arm width n_params macs n_samples n_unique copies batch_size steps lr dropout seed flops test_loss"
    assert set(f"{columns} test_accuracy device dataset status".split()) <= found[0].keys()
    assert f"plan: {len(found)} runs, 0 done" in out
    assert {row["dataset"] for row in found} == {"custom"}
    for row in found:
        assert int(row["flops"]) == 6 * int(row["macs"]) * int(row["n_samples"])
        assert int(row["n_unique"]) == min(1100, int(row["n_samples"]))
        assert int(row["copies"]) == -(-int(row["n_samples"]) // 1100)
    budgets = {round(int(row["flops"]) / 6e7) for row in found if row["arm"] == "isoflop"}
    assert budgets == {1, 2, 4, 8}
    folder = Path("results/scaling_laws/tiny")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "ok"
    assert summary["runs"] == len(found)
    fits = json.loads((folder / "fits.json").read_text())
    assert fits["a"]["value"] * fits["macs"]["p"] + fits["b"]["value"] == pytest.approx(1)
    assert "N_opt(C)" in (folder / "formulae.md").read_text()
    assert (folder / "optimum.png").exists()
    config = json.loads((folder / "config.json").read_text())
    assert config["config"]["dataset"] == "custom"
    assert str(place) not in json.dumps({**config, "arguments": None})
    assert sorted({path.suffix for path in stored("*")}) == [".json"]
    # the same command again trains nothing and gives the same table
    before = (folder / "runs.csv").read_bytes()
    began = time.perf_counter()
    code, out, _ = finish(start(*TINY))
    assert code == 0
    assert f"{len(found)} runs, {len(found)} done" in out
    assert (folder / "runs.csv").read_bytes() == before
    assert time.perf_counter() - began < 60


def test_killed_sweep_goes_on_and_its_config_repeats_it_elsewhere_without_a_stop(place):
    process = start(*FEW, start_new_session=True)
    while not stored("test-*.json"):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    kept = {path: path.read_bytes() for path in stored()}
    assert not Path("results/scaling_laws/tiny/summary.json").exists()
    code, _, err = finish(start(*FEW))
    assert code == 0, err
    assert all(path.read_bytes() == content for path, content in kept.items())  # nothing trained twice
    elsewhere = ("--from-config", "results/scaling_laws/tiny/config.json", "--results-dir", "more", "--name", "again")
    code, _, err = finish(start(*elsewhere))
    assert code == 0, err
    assert rows(Path("more/scaling_laws/again")) == rows()
    assert not list(Path("results").rglob("*.tmp"))


def test_sweeps_share_their_cells_and_a_damaged_one_is_made_again(place):
    row = ("--budgets", "1e3", "--min-samples", "40", "--row-widths", "2", "--column-halvings")
    assert finish(start(*row, "--row-halvings", "7", "8", "--seeds", "3"))[0] == 0
    first, kept = rows(), {path: path.read_bytes() for path in stored()}
    assert len(first) == 6
    more = (*row, "--row-halvings", "6", "7", "8", "--seeds", "4", "--name", "more")
    code, out, err = finish(start(*more))
    assert code == 0, err
    assert "plan: 12 runs, 6 done" in out
    assert {path: path.read_bytes() for path in kept} == kept
    again = rows(Path("results/scaling_laws/more"))
    assert [r for r in again if r["seed"] != "3" and r["n_samples"] != "859"] == first
    # what was a row is a column here; the numbers are the same
    column = ("--budgets", "1e3", "--row-halvings", "--column-widths", "2", "--column-halvings", "7", "--seeds", "3")
    code, out, _ = finish(start(*column, "--min-samples", "40", "--name", "column"))
    assert code == 0
    assert "plan: 3 runs, 3 done" in out
    found = rows(Path("results/scaling_laws/column"))
    assert {r["arm"] for r in found} == {"column"}
    assert [{**r, "arm": "row"} for r in found] == [r for r in first if r["n_samples"] == "430"]
    damaged = stored("test-w2-n430-s0_1_2-*.json")[0]
    damaged.write_bytes(damaged.read_bytes().replace(b"test_loss", b"test_lost"))
    code, out, _ = finish(start(*row, "--row-halvings", "7", "8", "--seeds", "3"))
    assert code == 0
    assert f"{damaged.name} is damaged, and made again" in out
    assert rows() == first


def test_two_sweeps_share_the_work(place):
    first, second = start(*FEW), start(*FEW)
    results = [finish(process) for process in (first, second)]
    assert [code for code, *_ in results] == [0, 0], results
    n = len(rows())
    assert all(f"{n} runs," in out for _, out, _ in results)
    assert {path.suffix for path in stored("*")} == {".json"}
    assert n == sum(len(json.loads(path.read_text())["rows"]) for path in stored("test-*.json"))


def test_other_data_is_another_run(place, monkeypatch):
    command = [
        sys.executable,
        str(ROOT / "scaling_laws/sweep.py"),
        "--results-dir",
        "results",
        "--width",
        "2",
        "--samples",
        "200",
    ]
    first = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    write_mnist(place / "more", n_train=2400)
    second = subprocess.run([*command, "--data-dir", "more"], capture_output=True, text=True, check=True).stdout
    assert len(list(Path("results/scaling_laws").glob("*/runs.csv"))) == 2
    assert len(stored()) == 2
    assert first.splitlines()[-2] != second.splitlines()[-2]


def test_ctrl_c_saves_and_prints_the_resume_line(place):
    process = start(*TINY, start_new_session=True)
    while not stored():
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
    code, _, err = finish(process)
    assert code == 130
    assert "Traceback" not in err
    line = next(line for line in err.splitlines() if "To go on:" in line)
    assert line.endswith(f"--name tiny {' '.join(TINY)}")
    assert stored()


def test_ctrl_c_while_the_workers_start_is_quiet_too(place):
    process = start(*TINY, start_new_session=True)
    while not Path("results/scaling_laws/tiny/config.json").exists():
        time.sleep(0.01)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130
    assert "Traceback" not in err


def test_a_run_that_raises_stops_no_other_and_is_tried_again(place):
    assert finish(start("--width", "2", "--samples", "510", "--seeds", "1", "--name", "single"))[0] == 0
    store, settings = stored()[0].parent, resolve(CommandLine(seeds=2))
    digits = next((place / "cache").glob("custom-*"))
    runner = Sweep(settings, None, 2, store, store, digits, "cpu")  # type: ignore[arg-type]
    (job,) = runner.test_jobs(Cell("isoflop", 2, 510, 6e7), RULE)
    # a checkpoint that cannot be read makes the run of width 2 raise
    bad = store / f"{job.key}.pt"
    bad.mkdir()
    code, out, _ = finish(start(*FEW))
    assert code == 1
    assert "1 jobs FAILED" in out
    assert f"{job.key}: " in out
    assert bad.with_suffix(".error.txt").read_text().startswith("Traceback")
    done = {row["width"] for row in rows() if row["arm"] == "isoflop"}
    assert done == {"1", "3"}
    assert not Path("results/scaling_laws/tiny/summary.json").exists()
    bad.rmdir()
    assert finish(start(*FEW))[0] == 0
    assert {row["width"] for row in rows() if row["arm"] == "isoflop"} == {"1", "2", "3"}


def test_one_run(place, monkeypatch):
    code, out, err = finish(start("--width", "3", "--samples", "1500", "--seed", "7"))
    assert code == 0, err
    (row,) = rows()
    assert (row["arm"], row["width"], row["n_samples"], row["seed"]) == ("single", "3", "1500", "7")
    assert f"test loss {float(row['test_loss']):.4f} nats" in out


def test_five_thousand_digits_without_network(place, monkeypatch, capsys):
    monkeypatch.setattr(common.data, "MNIST_MIRRORS", ("http://127.0.0.1:9/",))
    (place / "empty").mkdir()
    assert inline(monkeypatch, "--data-dir", "empty", "--width", "2", "--samples", "3600") == 0
    assert "MNIST IS NOT HERE" in capsys.readouterr().out
    (row,) = rows()
    assert (row["dataset"], row["n_unique"], row["copies"]) == ("mnist5k", "3500", "2")
    assert not list((place / "empty").iterdir())


# ---------------------------------------------------------------- the grid


def test_default_grid_is_what_the_readme_says():
    settings = resolve(CommandLine())
    cells = grid(settings)
    lines = [cell for cell in cells if cell.arm == "isoflop"]
    flops = sum(training_flops(cell.width, cell.n_samples) for cell in lines) * len(settings.seeds)
    assert len(cells) * len(settings.seeds) >= 100
    assert flops >= 3e12
    assert max(settings.budgets) >= 1e11
    assert settings.seeds == (0, 1, 2)
    for budget in settings.budgets:
        widths = [cell.width for cell in lines if cell.budget == budget]
        assert len(widths) >= (5 if budget >= 4e9 else 4)
        # by the committed law the best width lies inside every line, as approach 2 needs it
        n = np.array([n_params(width) for width in widths])
        d = budget / np.array([6 * macs_per_image(width) for width in widths])
        assert 0 < int(np.argmin(exact_loss(n, d, POWER_MEAN))) < len(widths) - 1
        for cell in lines:
            if cell.budget == budget:
                assert training_flops(cell.width, cell.n_samples) == pytest.approx(budget, rel=1e-3)
    assert len({(cell.width, cell.n_samples) for cell in cells}) == len(cells)


def test_widths_grow_by_sqrt_2():
    assert list(CommandLine().widths[2:]) == [round(4 * 2 ** (i / 2)) for i in range(6)]


def test_minutes_drop_the_largest_compute_and_never_seeds():
    cells = grid(resolve(CommandLine()))

    def seconds(cell: Cell) -> float:
        return 3 * training_flops(cell.width, cell.n_samples) / 2e10

    def flops(cell: Cell) -> int:
        return training_flops(cell.width, cell.n_samples)

    kept = fit_into(cells, 2.0, seconds, lambda _: 25.0)
    assert 0 < sum(map(seconds, kept)) <= 120 - 25
    dropped = {cell.budget for cell in cells} - {cell.budget for cell in kept}
    assert dropped
    assert min(dropped) > max(cell.budget for cell in kept if cell.arm == "isoflop")
    assert max(map(flops, kept)) < min(flops(cell) for cell in cells if cell not in kept)
    assert {cell.arm for cell in kept} == {"isoflop", "row", "column"}
    assert fit_into(cells, math.inf, seconds, lambda _: 25.0) == cells
    with pytest.raises(BadInput, match="too short"):
        fit_into(cells, 1e-3, seconds, lambda _: 25.0)


def test_check_of_the_learning_rate_uses_other_seeds_than_the_sweep():
    settings = resolve(CommandLine(seed=5))
    search = search_plan(settings, 10**6)
    assert {cell.n_samples for cell, _ in search.points} == {20_000}
    assert {cell.n_samples for cell, _ in search_plan(settings, 500).points} == {500}
    assert settings.seeds == (5, 6, 7)
    assert not set(search.seeds) & set(settings.seeds)
    assert len({lr for _, lr in search.points}) == 5


def test_rates_of_a_search_train_side_by_side_where_there_is_no_cpu(tmp_path):
    settings = resolve(CommandLine())
    search = search_plan(settings, 500)
    given: dict[str, list[Job]] = {}
    for device in ("cpu", "cuda"):
        runner = Sweep(settings, None, 1, tmp_path, tmp_path, tmp_path, device)  # type: ignore[arg-type]
        runner.speed = dict.fromkeys(((6, search.points[0][0].batch, m) for m in range(1, 11)), 1e4)
        jobs = given[device] = []
        runner.run = lambda new, cost, label, jobs=jobs: jobs.extend(new) or iter(())  # type: ignore[method-assign]
        runner.tune(search)
    (together,) = given["cuda"]
    alone = [(job.arguments["lr"], seed) for job in given["cpu"] for seed in job.arguments["seeds"]]
    assert sorted(zip(together.arguments["lr"], together.arguments["seeds"], strict=True)) == sorted(alone)
    assert len(alone) == 10


def test_a_sweep_with_more_seeds_has_the_jobs_of_one_with_fewer(tmp_path):
    def keys(seeds: int) -> set[str]:
        settings = resolve(CommandLine(seeds=seeds))
        runner = Sweep(settings, None, 1, tmp_path, tmp_path, tmp_path, "cpu")  # type: ignore[arg-type]
        return {job.key for cell in grid(settings) for job in runner.test_jobs(cell, RULE)}

    assert keys(3) < keys(5)


def test_one_net_is_a_sweep_of_one_cell_without_a_search():
    settings = resolve(CommandLine(preset="full", tuning="full", width=3, samples=700, seed=4))
    assert grid(settings) == [Cell("single", 3, 700)]
    assert settings.seeds == (4,)
    assert search_plan(settings, 700).points == []


def test_a_worker_imports_neither_fits_nor_figures():
    code = "import sys, sweep; print([name for name in ('scipy', 'matplotlib', 'laws') if name in sys.modules])"
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, cwd=ROOT / "scaling_laws", capture_output=True, text=True, check=True).stdout
    assert out == "[]\n"


def test_what_trains_is_the_identity_of_a_run_and_the_report_is_not():
    found = source_hashes(*sweep.sources(resolve(CommandLine())))
    files = {name.removeprefix("scaling_laws/") for name in found if name.startswith("scaling_laws/")}
    names = (
        "cell_jobs",
        "cell_progress",
        "convnet",
        "digits",
        "flat_adam",
        "flop_count",
        "learning_rate",
        "net_training",
        "shown_images",
    )
    assert files == {f"nets/{name}.py" for name in names}
    assert {"common/run.py", "common/cli.py", "common/plots.py"}.isdisjoint(found)
    searched = source_hashes(*sweep.sources(resolve(CommandLine(tuning="full"))))
    assert searched.keys() - found.keys() == {"scaling_laws/sweeping/rate_search.py"}
    with_arms = source_hashes(*sweep.sources(resolve(CommandLine(arms=("copies",)))))
    assert "scaling_laws/arms/arm_cells.py" in with_arms.keys() - found.keys()
    assert not any("law" in Path(name).parent.name for name in with_arms if name.startswith("scaling_laws/"))


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--data-dir", "nowhere"), "nowhere (--data-dir) does not exist"),
        (("--width", "-3", "--samples", "100"), "--width must be positive"),
        (("--width", "3", "--samples", "-100"), "--samples must be positive"),
        (("--width", "3"), "--width and --samples belong together"),
        (("--budgets", "-1"), "--budgets must be positive"),
        (("--budgets", "nan"), "--budgets must be positive"),
        (("--seeds", "0"), "--seeds must be positive"),
        (("--minutes", "-1"), "--minutes must be positive"),
        (("--minutes", "inf"), "leave it out for no limit"),
        (("--workers", "-1"), "must not be negative"),
        (("--dropout", "1"), "--dropout"),
        (("--device", "tpu"), "--device"),
        (("--device", "mps"), "no MPS device"),
        (("--dataset", "cifar"), "--dataset"),
        (("--name", "../escape"), "--name"),
        (("--widths", "few"), "--widths"),
        (("--budgets", "1", "--row-halvings", "--column-halvings"), "no cell of the grid"),
        (("--column-widths", "0"), "--column-widths must be positive"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments, sentence, place, monkeypatch, capsys):
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    assert inline(monkeypatch, *arguments) == 2
    assert sentence in one_sentence(capsys.readouterr().err)
    assert not Path("results").exists()


def test_missing_mnist_without_network(place, monkeypatch, capsys):
    monkeypatch.setattr(common.data, "MNIST_MIRRORS", ("http://127.0.0.1:9/",))
    (place / "data/MNIST/raw/t10k-labels-idx1-ubyte").unlink()
    assert inline(monkeypatch, "--dataset", "mnist") == 2
    told = one_sentence(capsys.readouterr().err)
    assert "MNIST is missing" in told
    assert "--dataset mnist5k" in told
    assert not list((place / "data").rglob("*.tmp"))


def test_corrupted_mnist(place, monkeypatch, capsys):
    path = place / "data/MNIST/raw/train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    assert inline(monkeypatch) == 2
    assert "train-images-idx3-ubyte is damaged" in one_sentence(capsys.readouterr().err)


def test_another_configuration_under_the_same_name(place, monkeypatch, capsys):
    assert finish(start("--width", "2", "--samples", "200"))[0] == 0
    assert inline(monkeypatch, "--width", "3", "--samples", "200") == 2
    assert "choose another --name" in one_sentence(capsys.readouterr().err)
    assert rows()[0]["width"] == "2"


def test_results_folder_that_cannot_be_written(place, monkeypatch, capsys):
    Path("results").write_text("a file, not a folder")
    assert inline(monkeypatch, "--width", "2", "--samples", "200") == 2
    assert "cannot write" in one_sentence(capsys.readouterr().err)
    assert Path("results").read_text() == "a file, not a folder"


def test_read_only_results_folder(place, monkeypatch, capsys):
    def refuse(*_args, **_options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "results/scaling_laws")

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert inline(monkeypatch, "--width", "2", "--samples", "200") == 2
    assert "Read-only file system" in one_sentence(capsys.readouterr().err)


@pytest.mark.skipif(sys.platform != "linux", reason="limits file sizes the Linux way")
def test_full_disk_in_a_worker_ends_the_sweep_and_keeps_earlier_results(place):
    import resource

    command = ("--width", "2", "--samples", "200")
    assert finish(start(*command))[0] == 0
    shutil.rmtree("results/scaling_laws/cells")  # what a worker has to write again
    before = {path: path.read_bytes() for path in Path("results").rglob("*") if path.is_file()}
    # no file may grow beyond 100 bytes any more, as on a full disk
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))  # noqa: E731
    code, _, err = finish(start(*command, preexec_fn=limit))
    assert code == 2
    assert "cells" in one_sentence(err)
    assert "cannot write" in err
    assert not list(Path("results").rglob("*.tmp"))
    assert {path: path.read_bytes() for path in before} == before
