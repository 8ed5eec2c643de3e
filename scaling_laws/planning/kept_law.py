"""The law as fits.json keeps it for later predictions: every form that counts, with draws of its parameters."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import BadInput
from common.files import read_json
from law_forms.form_fits import Law
from law_forms.forms import FORMS
from law_forms.huber_solver import Array
from laws.parametric import MacsLaw
from laws.predictive import ErrorLine, Predictive, WeightedForm
from nets.flop_count import macs_per_image, n_params

WIDEST = 512  # of the nets that a plan considers
# Deviation of the mean log loss over draws of 10,000 test images, IMAGES_AT_1 L^-IMAGES_EXPONENT: the least squares
# line through results/reference/scaling_laws/tuning/image_losses.csv (a test recomputes it).
IMAGES_AT_1, IMAGES_EXPONENT, IMAGES = 0.01088, 0.649, 10_000


@dataclass(frozen=True)
class KeptLaw:
    """What a plan needs of a fitted table, with the ranges that its runs cover."""

    predictive: Predictive
    dataset: str
    our_net: bool
    """whether every size of the table is a width of `nets.convnet`, at that net's multiply-adds"""
    macs: MacsLaw
    n_params: tuple[float, float]
    n_samples: tuple[float, float]
    flops: tuple[float, float]
    runs: int

    def macs_at(self, n: Array) -> Array:
        """Multiply-adds an image of sizes N: the net's own count where there is a width, else k N^p."""
        return self.macs.k * n**self.macs.p

    def sizes(self) -> tuple[Array, Array, Array]:
        """What can be trained, in order: widths (0 where the table is not of our net), N and M (multiply-adds an image)."""
        if self.our_net:
            widths = np.arange(1, WIDEST + 1)
            n = np.array([n_params(int(w)) for w in widths], dtype=float)
            return widths, n, np.array([macs_per_image(int(w)) for w in widths], dtype=float)
        low, high = self.n_params
        n = np.round(np.geomspace(low / 1000, high * 1000, 2000))
        n = np.unique(n[n >= 1])
        return np.zeros(len(n), dtype=int), n, self.macs_at(n)


def read_law(path: Path) -> KeptLaw:
    """The law of a fits.json; BadInput for a file that is none, or is of an older fit."""
    fits = read_json(path)
    try:
        kept, macs, data = fits["prediction"], fits["macs"], fits["data"]
        forms = [_form(part) for part in kept["forms"]]
        errors = ErrorLine(**kept["log_error"]) if kept["log_error"] else None
        ranges = {name: (float(low), float(high)) for name, (low, high) in kept["range"].items()}
        law = MacsLaw(float(macs["k"]), float(macs["p"]), float(macs["largest_log_error"]))
        predictive = Predictive(forms, float(kept["noise"]), errors)
        return KeptLaw(predictive, data["dataset"], bool(kept["our_net"]), law, **ranges, runs=int(data["runs"]))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise BadInput(f"{path} holds no law to predict with: make it with `python scaling_laws/fit.py`") from None


def _form(part: dict[str, Any]) -> WeightedForm:
    form = FORMS[part["form"]]
    theta = np.array([part["parameters"][name] for name in form.parameters], dtype=float)
    centre = np.array([part["centre"]["log_N"], part["centre"]["log_D"]], dtype=float)
    rows = np.array([[float(value) for value in row.split()] for row in part["draws"]])
    if rows.ndim != 2 or rows.shape[1] != len(theta) + 1 or not np.isfinite(rows).all():
        raise ValueError("draws of another form")
    return WeightedForm(Law(form, theta, centre), float(part["weight"]), rows[:, :-1], rows[:, -1])
