"""The transformed copies: each transformation against what it should do, fixed seeds, and what a run sees."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data import load_mnist
from nets import digits
from synthetic_mnist import write_mnist

SETTINGS = ("ROTATION_DEGREES", "SCALE", "SHIFT_PIXELS", "ELASTIC_PIXELS")


def blob(row: float, column: float) -> torch.Tensor:
    """A soft dot (28, 28) in uint8 at a place."""
    y, x = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    return (250 * torch.exp(-((y - row) ** 2 + (x - column) ** 2) / 4)).round().to(torch.uint8)


def centre(images: torch.Tensor) -> torch.Tensor:
    """Centres of mass (n, 2) as row, column."""
    weight = images.float() / images.float().sum((1, 2), keepdim=True)
    places = torch.arange(28.0)
    return torch.stack([(weight.sum(2) * places).sum(1), (weight.sum(1) * places).sum(1)], 1)


def only(monkeypatch, **settings: float) -> None:
    for name in SETTINGS:
        monkeypatch.setattr(digits, name, settings.get(name, 0.0))


def test_all_off_is_the_identity(monkeypatch):
    only(monkeypatch)
    images = torch.randint(0, 256, (20, 28, 28), dtype=torch.uint8)
    assert torch.equal(digits.transform(images, torch.Generator().manual_seed(0)), images)


def test_shift_moves_up_to_its_limit_in_both_axes(monkeypatch):
    only(monkeypatch, SHIFT_PIXELS=2.0)
    moved = centre(digits.transform(blob(13.5, 13.5).expand(400, -1, -1), torch.Generator().manual_seed(0))) - 13.5
    assert moved.abs().max() < 2.05
    assert moved.std(0).tolist() == pytest.approx([2 / math.sqrt(3)] * 2, rel=0.1)  # uniform in -2 … 2
    assert abs(float(torch.corrcoef(moved.T)[0, 1])) < 0.15


def test_rotation_turns_about_the_middle(monkeypatch):
    only(monkeypatch, ROTATION_DEGREES=15.0)
    at = centre(digits.transform(blob(13.5, 21.5).expand(400, -1, -1), torch.Generator().manual_seed(0))) - 13.5
    assert at.norm(dim=1).tolist() == pytest.approx([8.0] * 400, abs=0.1)
    angles = torch.rad2deg(torch.atan2(at[:, 0], at[:, 1]))
    assert angles.abs().max() < 15.5
    assert float(angles.std()) == pytest.approx(15 / math.sqrt(3), rel=0.1)


def test_scale_stretches_about_the_middle(monkeypatch):
    only(monkeypatch, SCALE=0.1)
    at = centre(digits.transform(blob(13.5, 21.5).expand(400, -1, -1), torch.Generator().manual_seed(0))) - 13.5
    ratio = at[:, 1] / 8
    assert 0.89 < float(ratio.min()) < 0.92
    assert 1.08 < float(ratio.max()) < 1.11
    assert at[:, 0].abs().max() < 0.05


def test_elastic_moves_rows_and_columns(monkeypatch):
    # the defect of an earlier replication: a displacement of rows alone leaves a vertical line as it was
    only(monkeypatch, ELASTIC_PIXELS=1.0)
    identity = F.affine_grid(torch.eye(2, 3)[None], [1, 1, 28, 28], align_corners=False)
    pixels = (digits.sampling_grid(2000, torch.Generator().manual_seed(0)) - identity) * 14
    assert pixels.std((0, 1, 2)).tolist() == pytest.approx([1.0, 1.0], rel=0.03)
    at = centre(digits.transform(blob(13.5, 13.5).expand(600, -1, -1), torch.Generator().manual_seed(0))) - 13.5
    assert all(0.6 < spread < 1.0 for spread in at.std(0).tolist())  # the dot averages the field over itself
    line = torch.zeros(50, 28, 28, dtype=torch.uint8)
    line[:, :, 14] = 255
    changed = digits.transform(line, torch.Generator().manual_seed(0)) != line
    assert changed.any(dim=(1, 2)).all()


def test_elastic_field_has_unit_variance_everywhere_and_a_gaussian_correlation():
    basis = digits.smooth_basis().double()
    covariance = (basis @ basis.T).numpy()  # of two pixels of one row
    assert np.diag(covariance) == pytest.approx(np.ones(28))
    distance = np.arange(8)
    expected = np.exp(-(distance**2) / (2 * digits.ELASTIC_SIGMA**2))
    assert covariance[10, 10:18] == pytest.approx(expected, abs=0.01)


def test_one_composed_grid_equals_a_loop_over_pixels():
    # slow reference: the same grid, bilinear interpolation pixel by pixel
    images = torch.randint(0, 256, (2, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    fast = digits.transform(images, torch.Generator().manual_seed(3))
    grid = digits.sampling_grid(2, torch.Generator().manual_seed(3))
    for n, row, column in [(0, 5, 9), (1, 14, 14), (0, 0, 27), (1, 20, 3), (1, 27, 0)]:
        x, y = ((grid[n, row, column] + 1) * 28 - 1).div(2).tolist()
        value = 0.0
        for r in (math.floor(y), math.floor(y) + 1):
            for c in (math.floor(x), math.floor(x) + 1):
                if 0 <= r < 28 and 0 <= c < 28:
                    value += images[n, r, c].item() * (1 - abs(y - r)) * (1 - abs(x - c))
        assert fast[n, row, column].item() == pytest.approx(value, abs=0.51)


def test_copies_are_fixed_and_differ():
    images = torch.stack([blob(10 + i % 5, 12) for i in range(digits.CHUNK + 30)])
    again = digits.transformed_copy(images, 3)
    assert torch.equal(digits.transformed_copy(images, 3), again)
    assert not torch.equal(digits.transformed_copy(images, 4), again)
    # image i of copy k does not depend on how many images follow its chunk
    assert torch.equal(digits.transformed_copy(images[: digits.CHUNK], 3), again[: digits.CHUNK])


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 700), st.integers(1, 200), st.integers(0, 5))
def test_a_run_sees_whole_copies_and_a_part_of_the_next(n_samples, copy_size, seed):
    copy, image = digits.training_order(n_samples, copy_size, torch.Generator().manual_seed(seed))
    seen = set(zip(copy.tolist(), image.tolist(), strict=True))
    assert len(seen) == n_samples  # a single pass: nothing twice
    whole, part = divmod(n_samples, copy_size)
    assert torch.bincount(copy, minlength=whole + 1).tolist() == [copy_size] * whole + [part]
    assert int(image.max()) < copy_size


def test_small_subsets_are_random_and_depend_on_the_seed():
    first, second = (digits.training_order(50, 1000, torch.Generator().manual_seed(s))[1] for s in (0, 1))
    assert len(set(first.tolist()) & set(second.tolist())) < 15
    assert int(first.max()) > 500  # not the first images


def test_gather_picks_what_the_indices_name():
    copies = [
        np.full((5, 28, 28), 10 * k, dtype=np.uint8) + np.arange(5, dtype=np.uint8)[:, None, None] for k in range(3)
    ]
    copy, image = torch.tensor([[2, 0], [1, 2]]), torch.tensor([[4, 3], [0, 1]])
    found = digits.gather(copies, copy, image)
    assert found.shape == (2, 2, 28, 28)
    assert found[:, :, 0, 0].tolist() == [[24, 3], [10, 21]]


def test_prepared_folder_is_shared_and_complete(tmp_path, monkeypatch):
    monkeypatch.setenv("REPLICATIONS_CACHE", str(tmp_path / "cache"))
    mnist = load_mnist(write_mnist(tmp_path / "data"))
    folder = digits.prepare(mnist)
    assert digits.prepare(mnist) == folder
    digits.make_copy(str(folder), 0)
    opened = digits.open_digits(str(folder), 1)
    expected = digits.transformed_copy(torch.from_numpy(mnist.pool_images), 0).numpy()
    assert np.array_equal(opened.copies[0], expected)
    assert opened.copies[0].dtype == np.uint8
    assert isinstance(opened.copies[0], np.memmap)
    assert np.array_equal(opened.test_images, mnist.test_images)
    assert not np.array_equal(opened.copies[0], mnist.pool_images)  # every training image is a transformed one


@pytest.mark.parametrize("name", ["test_images.npy", "pool_labels.npy", "copy_000.npy"])
@pytest.mark.parametrize("how", ["one bit", "half", "half of zeros", "gone", "no checksum"])
def test_a_damaged_array_is_written_again(tmp_path, monkeypatch, name, how):
    """A flipped bit of the test images would change every loss, and nobody would know."""
    monkeypatch.setenv("REPLICATIONS_CACHE", str(tmp_path / "cache"))
    mnist = load_mnist(write_mnist(tmp_path / "data"))
    folder = digits.prepare(mnist)
    digits.make_copy(str(folder), 0)
    path = folder / name
    whole = path.read_bytes()
    half = len(whole) // 2
    if how == "gone":
        path.unlink()
    elif how == "no checksum":
        digits.checksum_file(path).unlink()
    else:
        kept = {"one bit": whole[:half] + bytes([whole[half] ^ 4]) + whole[half + 1 :], "half": whole[:half]}
        path.write_bytes(kept.get(how, whole[:half] + bytes(len(whole) - half)))
    assert not digits.is_whole(path)
    digits.prepare(mnist)
    digits.make_copy(str(folder), 0)
    assert digits.is_whole(path)
    assert path.read_bytes() == whole


def test_normalise():
    images = torch.tensor([[0, 255]], dtype=torch.uint8)
    assert digits.normalise(images).tolist() == [pytest.approx([-33.3 / 78.6, (255 - 33.3) / 78.6])]
    assert F.relu(digits.normalise(images)).dtype == torch.float32
