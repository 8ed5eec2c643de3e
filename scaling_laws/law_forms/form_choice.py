"""Which form to predict with: the one that predicts best what it has not seen, larger budgets and other sizes.

No fit to all cells plays a part, nor does any later run. The rule, fixed before the larger runs were made: the held-out
error of a form is the root mean square, over the ways of holding out, of its log predicted minus log observed. Of the
forms within TOLERANCE of the least error the one with fewest parameters is chosen, of equals the one with the least
error. With fewer than LEAST_CELLS cells (five for each of six parameters) nothing is compared, and the law is Hoffmann
et al.'s.

The closed-form law at the head of a report stays Hoffmann et al.'s too, unless its held-out error is TOLERANCE_OF_Q
above that of the law with a free q: two standard errors of a root mean square over some 60 cells.
"""

import math
from dataclasses import dataclass

import numpy as np

from law_forms.form_fits import fit_folds, fit_form, sizes_about
from law_forms.forms import FORMS
from law_forms.huber_solver import Array

CUTS = (2, 4, 8)  # the cells of at most the largest compute over these predict the others
LEAST_CELLS = 30
LEAST_HELD_OUT = 3
TOLERANCE, TOLERANCE_OF_Q = 0.1, 0.2
MOST_FOLDS = 8  # of sizes held out; with more sizes than that, neighbours go together
FEWEST_FOR_Q = 8  # cells that a fit with a free q takes
EXACT = 1e-3  # errors of log loss below this are none


@dataclass(frozen=True)
class HeldOut:
    """Errors of one form, log predicted minus log observed, of one way of holding cells out."""

    name: str
    trained_on: int
    rows: Array  # the cells held out
    errors: Array

    @property
    def rms(self) -> float:
        """Root mean square of the errors."""
        return float(np.sqrt(np.mean(self.errors**2)))


@dataclass(frozen=True)
class Rival:
    """One form on one table: its fit to all cells, and what it predicted of those held out."""

    name: str
    parameters: int
    rms: float
    chi2: float  # per degree of freedom, against the seeds' noise; nan where that is not known
    bic: float
    held_out: list[HeldOut]

    @property
    def error(self) -> float:
        """The held-out error: every way of holding out counts the same."""
        return math.sqrt(float(np.mean([part.rms**2 for part in self.held_out])))


@dataclass(frozen=True)
class Choice:
    """All forms, and the chosen one's name; `reason` says why where nothing was compared (then there are no rivals)."""

    name: str
    reason: str
    rivals: list[Rival]
    cells: int

    def weights(self, sizes: int) -> dict[str, float]:
        """How much each form counts in a prediction: exp(-sizes (error^2 / least error^2 - 1) / 2), summing to 1.

        Pseudo-likelihoods of held-out errors; misses are shared by the cells of a size, so a table counts as many
        independent ones as it has sizes. The chosen form counts as if its error were the least.
        """
        if not self.rivals:  # nothing says which of the two
            return {"additive": 0.5, "power mean": 0.5} if self.cells >= FEWEST_FOR_Q else {"additive": 1.0}
        errors = {rival.name: max(rival.error, EXACT) for rival in self.rivals}
        least = min(errors.values())
        errors[self.name] = least
        raw = {name: math.exp(-sizes * ((error / least) ** 2 - 1) / 2) for name, error in errors.items()}
        kept = {name: weight for name, weight in raw.items() if weight > 0.01}
        return {name: weight / sum(kept.values()) for name, weight in kept.items()}


def ways_of_holding_out(n_params: Array, flops: Array) -> list[tuple[str, Array]]:
    """Each way's name and folds (F, K) of cells that are kept (1) or held out (0)."""
    ways = []
    for cut in CUTS:
        kept = flops <= flops.max() / cut * 1.02
        if LEAST_CELLS <= kept.sum() <= len(flops) - LEAST_HELD_OUT:
            ways.append((f"C <= C_max / {cut}", kept[None].astype(float)))
    sizes = np.unique(n_params)
    groups = np.array_split(sizes, min(MOST_FOLDS, len(sizes)))
    ways.append(("one size at a time", np.array([~np.isin(n_params, group) for group in groups], dtype=float)))
    return ways


def compare_forms(
    n_params: Array, n_samples: Array, flops: Array, log_loss: Array, delta: float, noise: float
) -> Choice:
    """The choice for cells (K,) whose mean log losses carry seed noise of deviation `noise` (nan: not known)."""
    cells = len(log_loss)
    if cells < LEAST_CELLS:
        return Choice(
            "additive", f"{cells} cells are too few to compare forms ({LEAST_CELLS} are needed): q = 1", [], cells
        )
    if len(np.unique(n_params)) < 4:
        return Choice("additive", "fewer than 4 sizes: forms cannot be compared, q = 1", [], cells)
    ways = ways_of_holding_out(n_params, flops)
    rivals = [_rival(name, n_params, n_samples, log_loss, delta, noise, ways) for name in FORMS]
    return Choice(best_of(rivals), "", rivals, cells)


def best_of(rivals: list[Rival], tolerance: float = TOLERANCE) -> str:
    """The name of the form to predict with, by the rule at the top of this file."""
    errors = {rival.name: max(EXACT, rival.error) for rival in rivals}
    near = [rival for rival in rivals if errors[rival.name] <= (1 + tolerance) * min(errors.values())]
    return min(near, key=lambda rival: (rival.parameters, errors[rival.name])).name


def q_is_free(choice: Choice) -> bool:
    """Whether the law at the head of a report has a free q."""
    family = [rival for rival in choice.rivals if rival.name in ("additive", "power mean")]
    return bool(family) and best_of(family, TOLERANCE_OF_Q) == "power mean"


def _rival(
    name: str,
    n_params: Array,
    n_samples: Array,
    log_loss: Array,
    delta: float,
    noise: float,
    ways: list[tuple[str, Array]],
) -> Rival:
    form, cells = FORMS[name], len(log_loss)
    law = fit_form(form, n_params, n_samples, log_loss, delta)
    squares = float(np.sum((law.log_loss(n_params, n_samples) - log_loss) ** 2))
    held_out = []
    x = sizes_about(law.centre, n_params, n_samples)
    folds = np.concatenate([kept for _, kept in ways])
    errors = form.law(fit_folds(form, x, log_loss, delta, folds), x)[0] - log_loss
    first = 0
    for way, kept in ways:
        fold, row = np.nonzero(kept == 0)
        held_out.append(HeldOut(way, int(kept[0].sum()), row, errors[first + fold, row]))
        first += len(kept)
    degrees = cells - len(form.parameters)
    scale = noise**2 if noise > 0 else math.nan
    chi2 = squares / scale
    bic = chi2 + len(form.parameters) * math.log(cells)
    return Rival(name, len(form.parameters), math.sqrt(squares / cells), chi2 / degrees, bic, held_out)
