"""Which runs each arm is made of.

disagreement: the IsoFLOP cells of the sweep again, each time with one habit that separates Kaplan et al. from Hoffmann et al.
(Porian et al. 2024): one learning rate for all widths, a constant rate with tests on the way, a warm-up as long as a short
run, one batch size. dropout: the same cells with 20%. copies: few images shown again and again, as they are or as other
transformed copies, beside as many fresh ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from nets.flop_count import training_flops
from nets.learning_rate import USUAL, RateRule, Variant, batch_size, learning_rate
from sweeping.grid import Cell
from sweeping.sweep_settings import Arm

SEEDS = 3  # of the disagreement's and dropout's arms, as the default sweep has
LARGEST_BUDGET, LARGEST_WIDTH, MOST_SAMPLES = 2.6e11, 23, 300_000  # the default sweep's lines, whatever the preset's
ONE_RATE_WIDTH = 8  # the rate that is right for it is given to all
WARM_UP_STEPS = 500  # of 300 to 4,700: the usual warm-up takes 15 to 235
ONE_BATCH = 64
DROPOUT = 0.2

COPY_WIDTHS, COPY_SEEDS = (8, 16), 5
PASSES = (1, 2, 4, 8, 16, 32)
FEWEST_IMAGES = (
    32  # the smallest set is the training images divided by this, so that the largest fresh set is all of them
)
IMAGE_SETS = 3  # each twice as large as the one before
LONGEST = 64  # smallest sets' worth of images in the longest run
STRENGTHS = (0.5, 1.5, 2.0)  # beside 1, at the first of the widths and the middle set


@dataclass(frozen=True)
class ArmCell:
    """All seeds of one net of an arm, and how it is trained."""

    arm: str
    width: int
    n_samples: int
    lr: float
    batch: int
    seeds: tuple[int, ...]
    dropout: float = 0.0
    variant: Variant = USUAL

    @property
    def flops(self) -> float:
        """Of training, all seeds together."""
        return float(len(self.seeds) * training_flops(self.width, self.n_samples))


def arm_cells(
    arms: Sequence[Arm], cells: Sequence[Cell], rule: RateRule, seeds: Sequence[int], pool: int
) -> list[ArmCell]:
    """The cells of `arms`, over the IsoFLOP `cells` of a sweep with its `seeds`, and over a `pool` of training images."""
    lines = [cell for cell in cells if compared(cell)]
    found = []
    if "disagreement" in arms:
        found += _disagreement(lines, rule, tuple(seeds[:SEEDS]))
    if "dropout" in arms:
        found += [replace(usual, arm="dropout", dropout=DROPOUT) for usual in _usual(lines, rule, tuple(seeds[:SEEDS]))]
    if "copies" in arms:
        found += _copies(rule, tuple(range(seeds[0], seeds[0] + COPY_SEEDS)), pool)
    return found


def compared(cell: Cell) -> bool:
    """Whether the arms train this cell of the sweep again."""
    return cell.budget <= LARGEST_BUDGET and cell.width <= LARGEST_WIDTH and cell.n_samples <= MOST_SAMPLES


def usual_rows(rows: Sequence[dict[str, Any]], cells: Sequence[Cell], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Of a sweep's rows those of the cells and seeds that the arms train again."""
    kept = {(cell.width, cell.n_samples) for cell in cells if compared(cell)}
    return [row for row in rows if (row["width"], row["n_samples"]) in kept and row["seed"] in tuple(seeds)[:SEEDS]]


def _usual(lines: list[Cell], rule: RateRule, seeds: tuple[int, ...]) -> list[ArmCell]:
    return [
        ArmCell("", cell.width, cell.n_samples, learning_rate(cell.width, cell.n_samples, rule), cell.batch, seeds)
        for cell in lines
    ]


def _disagreement(lines: list[Cell], rule: RateRule, seeds: tuple[int, ...]) -> list[ArmCell]:
    found = []
    for usual in _usual(lines, rule, seeds):
        one_rate = learning_rate(ONE_RATE_WIDTH, usual.n_samples, rule)
        found += [
            replace(usual, arm="one rate", lr=one_rate),
            replace(usual, arm="long warm-up", variant=Variant(warm_up_steps=WARM_UP_STEPS)),
            replace(usual, arm="one batch", batch=ONE_BATCH),
        ]
    for width in sorted({cell.width for cell in lines}):
        sizes = sorted(cell.n_samples for cell in lines if cell.width == width)
        longest, on_the_way = sizes[-1], tuple(sizes[:-1])
        constant = Variant(constant_rate=True, tested_after=on_the_way)
        lr, batch = learning_rate(width, longest, rule), batch_size(longest)
        found.append(ArmCell("constant rate", width, longest, lr, batch, seeds, variant=constant))
        one_rate = learning_rate(ONE_RATE_WIDTH, longest, rule)
        all_of_it = replace(constant, warm_up_steps=WARM_UP_STEPS)
        found.append(ArmCell("all at once", width, longest, one_rate, ONE_BATCH, seeds, variant=all_of_it))
    return found


def _copies(rule: RateRule, seeds: tuple[int, ...], pool: int) -> list[ArmCell]:
    """Sets of few images shown in k passes, raw or as k copies; and fresh images, raw or transformed, shown once."""
    smallest = pool // FEWEST_IMAGES
    sets = [smallest * 2**i for i in range(IMAGE_SETS)]
    fresh = [smallest * k for k in PASSES]
    found = []

    def add(arm: str, width: int, images: int, variant: Variant) -> None:
        n = images * variant.passes
        lr = learning_rate(width, n, rule)
        found.append(ArmCell(arm, width, n, lr, batch_size(n), seeds, variant=variant))

    for width in COPY_WIDTHS:
        for shown, once, again in (("raw", "fresh raw", "repeats"), ("copies", "fresh", "copies")):
            variant = Variant(shown=shown, tested_transformed=True)  # type: ignore[arg-type]
            for images in fresh:
                add(once, width, images, variant)
            for images in sets:
                for k in PASSES[1:]:
                    if images * k <= LONGEST * smallest:
                        add(again, width, images, replace(variant, passes=k))
    for strength in STRENGTHS:
        variant = Variant(shown="copies", strength=strength, tested_transformed=True)
        for images in fresh:
            add("fresh", COPY_WIDTHS[0], images, variant)
        for k in PASSES[1:]:
            add("copies", COPY_WIDTHS[0], sets[1], replace(variant, passes=k))
    return found
