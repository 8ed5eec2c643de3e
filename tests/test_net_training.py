"""One training run: the loop against a plain one, seeds side by side against alone, kill and resume, the recipe's rules."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common.data import load_mnist
from device_guard import no_float64
from nets.cell_jobs import measure_speed, run_generator, train_cell
from nets.convnet import ConvNet
from nets.digits import copy_file, make_copy, normalise, open_digits, prepare, training_order
from nets.flat_adam import Adam
from nets.learning_rate import RULE, batch_size, schedule
from nets.net_training import evaluate, side_by_side, train
from sweeping.rate_search import best_rates, lr_rule
from synthetic_mnist import write_mnist

ROOT = Path(__file__).resolve().parent.parent
TUNING = ROOT / "results/reference/scaling_laws/tuning/tuning.csv"


def net_of_seed(seed: int) -> ConvNet:
    net = ConvNet(5, members=2).place(torch.device("cpu"))
    net.init_weights([torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1)])
    return net


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A prepared folder of 1,100 digits with two copies."""
    monkeypatch.setenv("REPLICATIONS_CACHE", str(tmp_path / "cache"))
    prepared = prepare(load_mnist(write_mnist(tmp_path / "data")))
    for k in range(2):
        make_copy(str(prepared), k)
    return prepared


def cell(folder: Path, **changes) -> dict:
    arguments = {
        "folder": str(folder),
        "arm": "isoflop",
        "width": 3,
        "n_samples": 700,
        "seeds": [0],
        "lr": 0.01,
        "batch": 16,
        "dropout": 0.0,
        "split": "test",
        "device": "cpu",
        "checkpoint": str(folder / "cell.pt"),
    }
    return {**arguments, **changes}


def test_the_loop_equals_a_plain_one(folder):
    # slow reference: no chunks, torch's plain Adam, the schedule written out
    width, n, batch, lr = 3, 500, 16, 0.01
    generator = run_generator(width, n, 0)
    net = ConvNet(width).place(torch.device("cpu"))
    net.init_weights([generator])
    order = training_order(n, 1100, generator)
    digits = open_digits(str(folder), 1)
    optimizer = torch.optim.Adam(net.parameters(), lr=lr, betas=(0.9, 0.99), foreach=False, fused=False)
    steps = 32  # ceil(500 / 16), the last one with 4 images
    for step in range(steps):
        rows = order[1][step * batch : (step + 1) * batch].numpy()
        done = (step + 0.5) / steps
        optimizer.param_groups[0]["lr"] = lr * (done / 0.05 if done < 0.05 else (1 - done) / 0.95)
        logits = net(normalise(torch.from_numpy(digits.copies[0][rows]))[:, None])[0]
        loss = F.cross_entropy(logits, torch.from_numpy(digits.labels[rows].astype(np.int64)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    expected = evaluate(net, digits.test_images, digits.test_labels)
    row = train_cell(**cell(folder, n_samples=n))["rows"][0]
    assert row["test_loss"] == pytest.approx(expected[0][0], rel=1e-4)
    assert row["test_accuracy"] == pytest.approx(expected[1][0], abs=0.01)


def test_evaluation_is_the_mean_over_the_whole_clean_test_set(folder):
    net = ConvNet(4)
    net.init_weights([torch.Generator().manual_seed(0)])
    digits = open_digits(str(folder), 1)
    with torch.no_grad():
        logits = net(normalise(torch.from_numpy(np.array(digits.test_images)))[:, None])[0]
    labels = torch.from_numpy(digits.test_labels.astype(np.int64))
    loss, accuracy = evaluate(net, digits.test_images, digits.test_labels)
    assert loss[0] == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)
    assert accuracy[0] == pytest.approx(float((logits.argmax(1) == labels).float().mean()), abs=1e-6)


def test_seeds_side_by_side_equal_each_alone(folder):
    together = train_cell(**cell(folder, n_samples=1500, seeds=[0, 1, 2]))["rows"]
    assert len({row["test_loss"] for row in together}) == 3
    for row in together:
        alone = train_cell(**cell(folder, n_samples=1500, seeds=[row["seed"]]))["rows"][0]
        assert alone["test_loss"] == pytest.approx(row["test_loss"], rel=2e-3)
        assert alone["train_loss"] == pytest.approx(row["train_loss"], rel=2e-3)


def test_a_run_repeats_to_the_bit_and_learns(folder):
    first, again = (train_cell(**cell(folder, n_samples=2000, lr=0.02))["rows"][0] for _ in range(2))
    for key in first.keys() - {"seconds", "images_per_second"}:
        assert first[key] == again[key], key
    assert first["test_accuracy"] > 0.9
    assert (first["n_unique"], first["copies"], first["steps"]) == (1100, 2, 125)
    assert first["flops"] == 6 * first["macs"] * 2000


def test_labels_belong_to_their_images(folder):
    # a net cannot beat chance on labels in another order, so a misplaced label would show here
    digits = open_digits(str(folder), 1)
    net = ConvNet(4)
    net.init_weights([torch.Generator().manual_seed(0)])
    order = training_order(1000, 1100, torch.Generator().manual_seed(0))
    wrong = np.roll(digits.labels, 1)
    train(net, digits.copies, wrong, side_by_side([order]), 0.01, 16)
    assert evaluate(net, digits.test_images, digits.test_labels)[1][0] < 0.35


@pytest.mark.parametrize("n_samples", [700, 2000])  # below and above the steps between two looks
def test_a_diverged_run_is_a_recorded_result(folder, n_samples):
    row = train_cell(**cell(folder, lr=1e30, batch=4, n_samples=n_samples))["rows"][0]
    assert row["status"] == "diverged"
    assert row["test_loss"] is None
    assert row["train_loss"] is None


def test_no_float64_anywhere(folder):
    with no_float64():
        row = train_cell(**cell(folder, seeds=[0, 1]))["rows"][0]
        assert measure_speed(2, 8, 2, "cpu", seconds=0.01)["images_per_second"] > 0
    assert row["status"] == "ok"


def test_adam_is_torchs_adam_step_for_step():
    nets = [net_of_seed(0), net_of_seed(0)]
    ours = Adam(nets[0])
    theirs = torch.optim.Adam(nets[1].parameters(), betas=(0.9, 0.99), foreach=False, fused=False)
    assert nets[0].conv2.weight.is_contiguous(memory_format=torch.channels_last)  # the fast format survives
    x = torch.randn(8, 2, 28, 28)
    for step in range(60):
        lr = 0.01 / (1 + step)
        for net in nets:
            (net(x) ** 2).mean().backward()
        ours.step(lr)
        theirs.param_groups[0]["lr"] = lr
        theirs.step()
        theirs.zero_grad()
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-5)
    assert float(ours.gradient.abs().max()) == 0
    with torch.no_grad():
        assert (nets[0](x) ** 2).mean() < 0.5 * (net_of_seed(0)(x) ** 2).mean()


def test_a_damaged_checkpoint_costs_the_run_and_no_more(folder):
    expected = train_cell(**cell(folder))["rows"][0]["test_loss"]
    Path(cell(folder)["checkpoint"]).write_bytes(b"not a checkpoint")
    assert train_cell(**cell(folder))["rows"][0]["test_loss"] == expected
    assert not Path(cell(folder)["checkpoint"]).exists()


def test_the_guard_can_fail():
    with pytest.raises(TypeError, match="float64"), no_float64():
        torch.zeros(2).double()


def test_killed_run_resumes_to_the_same_bits(folder, tmp_path):
    code = f"""
import sys; sys.path.insert(0, {str(ROOT / "scaling_laws")!r})
import json, torch
from nets import cell_jobs, cell_progress, net_training
from nets.learning_rate import Variant
torch.set_num_threads(1)
cell_progress.CHECKPOINT_SECONDS, net_training.CHECK_STEPS = 0.0, 20
arguments = json.loads(sys.argv[1])
arguments["variant"] = Variant(tested_after=(40, 1000))  # before the kill, and after it
print(json.dumps(cell_jobs.train_cell(**arguments)), flush=True)
"""
    import json

    arguments = cell(folder, n_samples=2200, batch=4, dropout=0.1, seeds=[0, 1])
    checkpoint = Path(arguments["checkpoint"])
    command = [sys.executable, "-c", code]
    whole = subprocess.run([*command, json.dumps(arguments)], capture_output=True, text=True, check=True)
    checkpoint.unlink()
    with subprocess.Popen([*command, json.dumps(arguments)], stdout=subprocess.PIPE) as process:
        while not checkpoint.exists():
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    step = torch.load(checkpoint, weights_only=True)["step"]
    assert 0 < step < 550
    resumed = subprocess.run([*command, json.dumps(arguments)], capture_output=True, text=True, check=True)
    assert [row["n_samples"] for row in json.loads(whole.stdout)["rows"]] == [40, 40, 1000, 1000, 2200, 2200]
    for a, b in zip(json.loads(whole.stdout)["rows"], json.loads(resumed.stdout)["rows"], strict=True):
        assert {k: a[k] for k in a if "second" not in k} == {k: b[k] for k in b if "second" not in k}


def test_missing_copy_is_an_error_not_a_clean_image(folder):
    copy_file(folder, 1).unlink()
    with pytest.raises(FileNotFoundError):
        train_cell(**cell(folder, n_samples=1900))


def test_schedule():
    assert schedule(0.025) == pytest.approx(0.5)
    assert schedule(0.05) == pytest.approx(1.0)
    assert schedule(0.525) == pytest.approx(0.5)
    assert schedule(1.0) == 0.0


@pytest.mark.parametrize(
    ("n_samples", "expected"), [(500, 4), (1_719, 4), (3_438, 8), (6_875, 8), (13_750, 16), (55_000, 32), (10**6, 64)]
)
def test_batch_size(n_samples, expected):
    assert batch_size(n_samples) == expected


def test_the_learning_rate_rule_is_that_of_the_committed_search():
    with open(TUNING, newline="") as file:
        rows = [
            {
                "width": int(row["width"]),
                "n_samples": int(row["n_samples"]),
                "lr": float(row["lr"]),
                "tune_loss": float(row["tune_loss"]) if row["tune_loss"] else None,
            }
            for row in csv.DictReader(file)
        ]
    assert all(found["interior"] for found in best_rates(rows))
    lr0, width, samples = lr_rule(rows)
    assert pytest.approx(lr0, abs=5e-6) == RULE.lr0
    assert pytest.approx(width, abs=5e-4) == RULE.width
    assert pytest.approx(samples, abs=5e-4) == RULE.samples
    assert "test_loss" not in rows[0]


def test_optimum_of_a_search():
    lrs = np.array([0.01, 0.02, 0.04])
    rows = [
        {"width": 4, "n_samples": 100, "lr": lr, "tune_loss": float(np.exp((np.log(lr) - np.log(0.025)) ** 2))}
        for lr in lrs
    ]
    found = best_rates(rows)[0]
    assert found["lr"] == pytest.approx(0.025, rel=1e-6)  # a parabola in logs is found exactly
    assert found["interior"]
    edge = [{**row, "tune_loss": row["lr"]} for row in rows]
    assert best_rates(edge)[0]["lr"] == 0.01
    assert not best_rates(edge)[0]["interior"]
    assert best_rates(edge)[0]["loss"] == pytest.approx([0.01, 0.02, 0.04])
    diverged = [{**row, "tune_loss": None if row["lr"] == 0.04 else row["tune_loss"]} for row in rows]
    assert best_rates(diverged)[0]["lr"] == 0.02


def test_lr_rule_recovers_exact_powers():
    rows = [
        {
            "width": w,
            "n_samples": n,
            "lr": lr,
            "tune_loss": float(np.exp(np.log(lr / (0.01 * (8 / w) ** 0.5 * (2e4 / n) ** 0.1)) ** 2)),
        }
        for w in (2, 8, 32)
        for n in (2_000, 20_000)
        for lr in 0.05 / 2.0 ** np.arange(8)[::-1]
    ]
    assert lr_rule(rows) == pytest.approx((0.01, 0.5, 0.1))
