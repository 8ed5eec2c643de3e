"""What a fit leaves in its folder: fits.json, formulae.md and the figures."""

from pathlib import Path

from common.files import write_json, write_text
from law_report.fits_json import to_json
from law_report.formulae import formulae
from law_report.law_figures import draw_all
from laws.analysis import Analysis


def title_of(dataset: str) -> str:
    """What the figures call a data set."""
    return {"mnist": "MNIST", "mnist5k": "mnist5k (5,000 digits, a demonstration)"}.get(dataset, dataset or "runs")


def write_laws(result: Analysis, folder: Path, title: str) -> None:
    """fits.json, formulae.md and the figures into `folder`; the formulae onto the screen."""
    fits = to_json(result)
    write_json(folder / "fits.json", fits)
    text = formulae(fits)
    write_text(folder / "formulae.md", "# Formulae\n\n" + text)
    draw_all(result, fits, folder, title)
    print("\n" + text.replace("**", ""))
