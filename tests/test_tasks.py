"""Training data: integer sequences by their definitions, exact floors by enumeration, windows of a text."""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_settings.choices import INTEGER_TASKS
from texts.integer_tasks import EVALUATION, IntegerTask
from texts.seeds import derived_seed
from texts.text_windows import TextTask

CPU = torch.device("cpu")


def task_of(kind: str, n: int, V: int, seed: int = 0) -> IntegerTask:
    return IntegerTask(kind, n, V, seed, CPU)


def drawn(task: IntegerTask, count: int, number: int = 0) -> list[list[int]]:
    return task.draw(count, number).tokens.tolist()


# ---------------------------------------------------------------- sequences by their definitions


@given(n=st.integers(3, 20), more=st.integers(0, 20), number=st.integers(0, 10**6))
def test_ascending_integers_follow_one_another(n, more, number):
    task = task_of("ascending", n, n + more)
    for row in drawn(task, 8, number):
        assert row == list(range(row[0], row[0] + n))
        assert row[0] >= 0
        assert row[-1] < n + more
    assert task.context == n - 1


@given(n=st.integers(1, 20), V=st.integers(2, 40), number=st.integers(0, 10**6))
def test_repeat_is_a_block_a_separator_and_the_block_again(n, V, number):
    task = task_of("repeat", n, V)
    for row in drawn(task, 8, number):
        assert len(row) == 2 * n + 1 == task.context + 1
        assert row[n] == 0
        assert row[:n] == row[n + 1 :]
        assert all(1 <= token < V for token in row[:n])


def period_of(row: list[int]) -> int:
    """The smallest p with row[i] == row[i - p] throughout."""
    return next(p for p in range(1, len(row) + 1) if row[p:] == row[: len(row) - p])


@given(n=st.integers(8, 40), factor=st.integers(1, 6), number=st.integers(0, 10**6))
def test_induction_repeats_a_block_of_distinct_integers(n, factor, number):
    V = factor * n
    task = task_of("induction", n, V)
    assert task.periods == (max(2, n // 8), n // 2)
    for row in drawn(task, 8, number):
        assert len(row) == n == task.context + 1
        p = period_of(row)
        assert task.periods[0] <= p <= task.periods[1]
        assert len(set(row)) == p
        assert all(0 <= token < V for token in row)


def test_all_values_that_can_occur_do():
    starts = {row[0] for row in drawn(task_of("ascending", 5, 9), 500)}
    assert starts == set(range(5))
    assert {token for row in drawn(task_of("repeat", 4, 6), 500) for token in row[:4]} == set(range(1, 6))
    rows = drawn(task_of("induction", 8, 32), 4000)
    assert Counter(map(period_of, rows)).keys() == {2, 3, 4}
    # periods are equally frequent, and so are the tokens: 5 standard deviations of a binomial
    for counts, ways in ((Counter(map(period_of, rows)), 3), (Counter(row[0] for row in rows), 32)):
        deviation = math.sqrt(4000 * (1 / ways) * (1 - 1 / ways))
        assert all(abs(counts[key] - 4000 / ways) < 5 * deviation for key in counts)
        assert len(counts) == ways


@pytest.mark.parametrize(("kind", "n", "V"), [("ascending", 9, 20), ("repeat", 6, 5), ("induction", 24, 96)])
def test_inputs_and_targets_are_one_token_apart(kind, n, V):
    sequences = task_of(kind, n, V).draw(3, 1)
    assert torch.equal(sequences.inputs[:, 1:], sequences.targets[:, :-1])
    assert sequences.known.shape == sequences.targets.shape == (3, task_of(kind, n, V).context)
    assert sequences.known.dtype == torch.bool
    assert sequences.tokens.dtype == torch.int64


# ---------------------------------------------------------------- what is determined


def test_every_ascending_target_is_known():
    sequences = task_of("ascending", 9, 30).draw(50, 0)
    assert sequences.known.all()
    assert torch.equal(sequences.targets, sequences.inputs + 1)


@given(n=st.integers(1, 12), number=st.integers(0, 10**6))
def test_known_targets_of_repeat_are_the_copy(n, number):
    sequences = task_of("repeat", n, 7).draw(4, number)
    for row, known in zip(sequences.tokens.tolist(), sequences.known.tolist(), strict=True):
        for place, is_known in enumerate(known, 1):  # the target is row[place]
            assert is_known == (place > n)
            assert not is_known or row[place] == row[place - n - 1]


@given(n=st.integers(8, 40), number=st.integers(0, 10**6))
def test_known_targets_of_induction_follow_an_earlier_occurrence(n, number):
    sequences = task_of("induction", n, 4 * n).draw(6, number)
    for row, known in zip(sequences.tokens.tolist(), sequences.known.tolist(), strict=True):
        for place, is_known in enumerate(known, 1):
            before = [i for i in range(place - 1) if row[i] == row[place - 1]]  # where the current token stood
            assert is_known == bool(before)
            if before:
                assert row[place] == row[before[-1] + 1]


def test_what_is_scored():
    task = task_of("ascending", 8, 20)
    assert task.scored(task.draw(2, 0)).tolist() == [[False] * 3 + [True] * 4] * 2
    for kind, n, V in (("repeat", 3, 4), ("induction", 16, 64)):
        task = task_of(kind, n, V)
        sequences = task.draw(5, 0)
        assert torch.equal(task.scored(sequences), sequences.known)


# ---------------------------------------------------------------- exact floors


def all_sequences(kind: str, n: int, V: int) -> list[tuple[int, ...]]:
    """Every sequence as often as it is likely, all equally likely."""
    if kind == "ascending":
        return [tuple(range(start, start + n)) for start in range(V - n + 1)]
    if kind == "repeat":
        return [(*block, 0, *block) for block in itertools.product(range(1, V), repeat=n)]
    shortest, longest = max(2, n // 8), max(2, n // 2)
    return [
        tuple(block[i % period] for i in range(n))
        for period in range(shortest, longest + 1)
        for block in itertools.permutations(range(V), longest)
    ]


def conditional_entropies(sequences: list[tuple[int, ...]]) -> list[float]:
    """H(token t | tokens 0 … t - 1) in nats for t = 1 … n - 1, from counts."""
    found = []
    for t in range(1, len(sequences[0])):
        following: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for sequence in sequences:
            following[sequence[:t]][sequence[t]] += 1
        nats = -sum(c * math.log(c / counts.total()) for counts in following.values() for c in counts.values())
        found.append(nats / len(sequences))
    return found


@pytest.mark.parametrize(
    ("kind", "n", "V"),
    [
        *(("ascending", 3, 3), ("ascending", 4, 9)),
        *(("repeat", 1, 4), ("repeat", 2, 2), ("repeat", 3, 5), ("repeat", 5, 4)),
        *(("induction", 4, 3), ("induction", 6, 4), ("induction", 8, 5), ("induction", 8, 7), ("induction", 10, 6)),
    ],
)
def test_floors_are_the_entropies_of_all_sequences(kind, n, V):
    exact = conditional_entropies(all_sequences(kind, n, V))
    assert task_of(kind, n, V).floors == pytest.approx(exact, abs=1e-9)


def test_enumerated_sequences_are_those_that_are_drawn():
    for kind, n, V in (("ascending", 4, 9), ("repeat", 2, 4), ("induction", 8, 4)):
        possible = Counter(all_sequences(kind, n, V))
        counts = Counter(map(tuple, drawn(task_of(kind, n, V), 20_000)))
        assert counts.keys() == possible.keys()
        for sequence, ways in possible.items():
            p = ways / possible.total()
            assert abs(counts[sequence] - 20_000 * p) < 5 * math.sqrt(20_000 * p)


def ideal_losses(row: list[int], V: int, periods: range) -> list[float]:
    """-log p of each token of an induction sequence after the first, by Bayes' rule over the periods."""
    losses = []
    for t in range(1, len(row)):
        weights = {}
        for p in periods:
            start = row[: min(p, t)]
            if len(set(start)) == len(start) and all(row[i] == row[i - p] for i in range(p, t)):
                weights[p] = 1 / math.prod(V - i for i in range(len(start)))
        likelihood = 0.0
        for p, weight in weights.items():
            if t >= p:
                likelihood += weight * (row[t] == row[t - p])
            else:
                likelihood += weight * (row[t] not in row[:t]) / (V - t)
        losses.append(-math.log(likelihood / sum(weights.values())))
    return losses


@pytest.mark.parametrize(("n", "V"), [(32, 128), (64, 256)])
def test_an_ideal_predictor_reaches_the_floors_of_induction_and_no_less(n, V):
    task = task_of("induction", n, V)
    shortest, longest = task.periods
    assert shortest > 2
    losses = np.array([ideal_losses(row, V, range(shortest, longest + 1)) for row in drawn(task, 400)])
    error = losses.std(0) / math.sqrt(len(losses))
    assert (np.abs(losses.mean(0) - task.floors) < 5 * error + 1e-9).all()
    known = task.draw(400, 0).known.numpy()
    assert np.abs(losses[known]).max() < 1e-12
    # Of the others, the one after a block of the greatest length alone is certain: no longer block exists.
    certain = np.abs(losses) < 1e-12
    assert (np.nonzero(certain & ~known)[1] == longest - 1).all()


@pytest.mark.parametrize(("n", "V"), [(5, 5), (32, 64), (1, 9)])
def test_mean_floor_of_repeat_in_closed_form(n, V):
    assert task_of("repeat", n, V).floors.mean() == pytest.approx((n - 1) * math.log(V - 1) / (2 * n), abs=1e-12)


def test_mean_floor_of_the_published_case():
    assert task_of("repeat", 5, 5).floors.mean() == pytest.approx(0.5545, abs=5e-5)


# ---------------------------------------------------------------- fresh numbers


@pytest.mark.parametrize(("kind", "n", "V"), [("ascending", 9, 900), ("repeat", 6, 50), ("induction", 24, 96)])
def test_a_draw_follows_from_seed_and_step_alone(kind, n, V):
    draws = {
        (seed, step): task_of(kind, n, V, seed).draw(8, step).tokens.numpy().tobytes()
        for seed in range(4)
        for step in [*range(20), EVALUATION, EVALUATION + 1]
    }
    assert len(set(draws.values())) == len(draws)
    assert draws[2, 7] == task_of(kind, n, V, 2).draw(8, 7).tokens.numpy().tobytes()


def test_no_training_step_shares_the_numbers_of_the_evaluation():
    training = {derived_seed(seed, step) for seed in range(3) for step in range(-1, 20_000)}
    evaluation = {derived_seed(seed, EVALUATION + i) for seed in range(3) for i in range(2000)}
    assert len(training) == 3 * 20_001
    assert len(evaluation) == 3 * 2000
    assert not training & evaluation
    assert EVALUATION > 10**12


@given(seed=st.integers(0, 2**63), number=st.integers(-1, 2**42))
def test_mixed_seeds_are_what_a_generator_takes_and_neighbours_are_unrelated(seed, number):
    mixed = derived_seed(seed, number)
    assert 0 <= mixed < 2**63
    for neighbour in (derived_seed(seed, number + 1), derived_seed(seed + 1, number)):
        assert neighbour != mixed
        # half of 63 bits differ; fewer than 8 or more than 55 would happen once in 10^9
        assert 8 <= (neighbour ^ mixed).bit_count() <= 55


def test_first_numbers_of_neighbouring_generators_are_not_correlated():
    firsts = [
        torch.rand(1, generator=torch.Generator().manual_seed(derived_seed(0, step))).item() for step in range(2000)
    ]
    assert abs(np.corrcoef(firsts[:-1], firsts[1:])[0, 1]) < 5 / math.sqrt(2000)
    assert abs(np.mean(firsts) - 0.5) < 5 * math.sqrt(1 / 12 / 2000)


# ---------------------------------------------------------------- windows of a text


def text_of(n: int, context: int, batch: int = 1, seed: int = 0) -> TextTask:
    """Token i of the text is i, so that a window tells where it stood."""
    return TextTask(torch.arange(n, dtype=torch.int32), context, batch, seed)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(40, 400), context=st.integers(1, 13), batch=st.integers(1, 9), seed=st.integers(0, 5))
def test_an_epoch_has_every_window_once_and_none_overlaps(n, context, batch, seed):
    task = text_of(n, context, batch, seed)
    count = n // context
    steps = -(-3 * count // batch)
    windows = []
    for step in range(steps):
        inputs, targets = task.windows(step)
        assert inputs.shape == targets.shape == (batch, context)
        assert inputs.dtype == targets.dtype == torch.int64
        assert torch.equal(targets, (inputs + 1) % n)
        windows += inputs.tolist()
    for epoch in range(3):
        mine = windows[epoch * count : (epoch + 1) * count]
        tokens = [token for window in mine for token in window]
        assert len(set(tokens)) == len(tokens) == count * context
        left_out = sorted(set(range(n)) - set(tokens))
        gaps = [after for before, after in itertools.pairwise(left_out) if after - before > 1]
        assert len(left_out) < context
        assert len(gaps) <= 1, "they lie side by side on the ring"


def test_the_order_and_the_phase_differ_between_epochs_and_seeds():
    firsts = {}
    for seed in range(3):
        task = text_of(1001, 10, 99, seed)
        for epoch in range(8):
            firsts[seed, epoch] = tuple(task.windows(epoch)[0][:, 0].tolist())
    assert len(set(firsts.values())) == len(firsts)
    assert all(list(order) != sorted(order) for order in firsts.values())
    phases = {min(order) for order in firsts.values()}
    assert len(phases) > 4


@pytest.mark.parametrize("n", [30, 35, 39, 109])
def test_every_token_is_a_target_equally_often(n):
    """The ends too: they were left out of two epochs in three where a text had three windows."""
    context, epochs = 10, 2000
    task = text_of(n, context, n // context)
    targets = torch.cat([task.windows(epoch)[1].flatten() for epoch in range(epochs)])
    seen = torch.bincount(targets, minlength=n) / epochs
    p = n // context * context / n
    assert float((seen - p).abs().max()) <= 4.5 * (p * (1 - p) / epochs) ** 0.5


def test_windows_do_not_depend_on_what_was_asked_before():
    asked: Callable[[], TextTask] = lambda: text_of(300, 7, 11, 3)  # noqa: E731
    steps = range(30)
    forward = asked()
    expected = [forward.windows(step)[0] for step in steps]
    backward = asked()
    for step in [*reversed(steps), 29, 0, 17]:
        assert torch.equal(backward.windows(step)[0], expected[step])
    assert torch.equal(asked().windows(23)[0], expected[23])


def test_a_batch_of_more_than_an_epoch():
    task = text_of(31, 10, 7)  # three windows an epoch
    inputs, targets = task.windows(0)
    assert inputs.shape == (7, 10)
    assert torch.equal(targets, (inputs + 1) % 31)


def test_there_are_no_other_tasks():
    assert set(INTEGER_TASKS) == {"ascending", "repeat", "induction"}
