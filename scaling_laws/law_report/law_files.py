"""What a fit leaves in its folder: fits.json, formulae.md and the figures."""

from pathlib import Path

from common.files import write_json, write_text
from common.live import attempt
from law_report.fits_json import to_json
from law_report.formulae import formulae
from law_report.law_figures import draw_all, exponent_text
from laws.analysis import Analysis


def title_of(dataset: str) -> str:
    """What the figures call a data set."""
    return {"mnist": "MNIST", "mnist5k": "mnist5k (5,000 digits, a demonstration)"}.get(dataset, dataset or "runs")


def write_laws(result: Analysis, folder: Path, title: str) -> str:
    """fits.json, formulae.md and the figures into `folder`; the formulae onto the screen. What was found, in a sentence."""
    fits = to_json(result)
    write_json(folder / "fits.json", fits)
    text = formulae(fits)
    write_text(folder / "formulae.md", "# Formulae\n\n" + text)
    attempt(lambda: draw_all(result, fits, folder, title), "optimum.png")
    print("\n" + text.replace("**", ""))
    a, b = exponent_text(fits["a"]), exponent_text(fits["b"])
    return f"{title}: optimal parameters grow like C^{a}, samples like C^{b} ({len(result.table.runs.loss)} runs)"


def redraw(result: Analysis, folder: Path, title: str) -> None:
    """The figures alone."""
    draw_all(result, to_json(result), folder, title)
