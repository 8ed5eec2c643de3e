"""The part of fits.json that plan.py predicts from; planning/kept_law.py reads it."""

import math
from typing import Any

from law_forms.huber_solver import Array
from laws.analysis import Analysis
from nets.flop_count import macs_per_image, n_params
from planning.kept_law import WIDEST


def keep_law(result: Analysis) -> dict[str, Any]:
    """The `prediction` part of fits.json."""
    predictive, cells = result.predictive, result.cells
    errors = predictive.errors
    return {
        "forms": [
            {
                "form": form.law.form.name,
                "weight": form.weight,
                "parameters": dict(zip(form.law.form.parameters, form.law.theta.tolist(), strict=True)),
                "centre": {"log_N": form.law.centre[0], "log_D": form.law.centre[1]},
                # A row: the parameters of a bootstrap draw, and the deviation of its shared misses.
                "draws": [_row(sample, tau) for sample, tau in zip(form.samples, form.tau, strict=True)],
            }
            for form in predictive.forms
        ],
        "noise": predictive.noise,
        "log_error": {"intercept": errors.intercept, "slope": errors.slope, "scatter": errors.scatter}
        if errors
        else None,
        "our_net": _is_our_net(result),
        "range": {
            name: [float(values.min()), float(values.max())]
            for name, values in (("n_params", cells.n_params), ("n_samples", cells.n_samples), ("flops", cells.flops))
        },
    }


def _row(sample: Array, tau: float) -> str:
    return " ".join(f"{value:.6g}" for value in (*sample, tau))


def _is_our_net(result: Analysis) -> bool:
    ours = {n_params(w): macs_per_image(w) for w in range(1, WIDEST + 1)}
    macs = result.cells.flops / (6 * result.cells.n_samples)
    return all(
        n in ours and math.isclose(m, ours[int(n)], rel_tol=1e-6)
        for n, m in zip(result.cells.n_params.tolist(), macs.tolist(), strict=True)
    )
