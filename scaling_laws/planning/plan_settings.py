"""What a plan is asked for, on the command line, and what that means: one budget, a table's law, and the seeds."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from common.device import DeviceName
from common.errors import BadInput
from common.files import read_json
from common.provenance import check_name, latest_run, repository_root, results_folder, source_hash

COMMITTED = "results/reference/scaling_laws/full/fits.json"


@dataclass(frozen=True)
class CommandLine:
    flops: float | None = None
    """training compute of one run, FLOP; default: four times the largest of the table behind the law"""
    minutes: float | None = None
    """in place of --flops: wall-clock for all seeds on this machine, whose speed is measured first"""
    loss: float | None = None
    """in place of --flops: a test loss, in nats, to reach with the least compute"""
    fits: str | None = None
    """fits.json of a table, or its folder; default: the latest sweep's or fit's, else the committed one"""
    train: bool = False
    """write the prediction, then train exactly that cell and print predicted against measured"""
    within: float = 0.02
    """the region of sizes told is that within this share of the least loss"""
    preset: Literal["quick", "default", "full"] = "default"
    """quick: one seed; default: three; full: five"""
    seeds: int = 3
    """runs of the cell, with other weights, order and subset"""
    device: DeviceName = "auto"
    """where to train; auto takes the CPU for nets of up to 32 channels, one single-threaded process per core"""
    seed: int = 0
    """the first of the seeds"""
    results_dir: str | None = None
    """where results go; default: results/ in the repository"""
    data_dir: str | None = None
    """where MNIST/raw is; default: $REPLICATIONS_DATA, else data/ in the repository"""
    name: str | None = None
    """name of the results folder; default: made from what is asked and a hash of what changes the numbers"""
    from_config: str | None = None
    """repeat the plan of this config.json; other flags given win over it"""
    workers: int = 0
    """processes that train at once; 0: one per core on the CPU, one on an accelerator"""
    dataset: Literal["auto", "mnist", "mnist5k"] = "auto"
    """what --train trains on; it must be the data set of the law"""


PRESETS: dict[str, dict[str, Any]] = {"quick": {"seeds": 1}, "default": {}, "full": {"seeds": 5}}


@dataclass(frozen=True)
class Settings:
    """One plan. `asked` is flops, minutes or loss, or nothing for the default; `law` names the text of the fits."""

    asked: Literal["flops", "minutes", "loss", "nothing"]
    amount: float
    fits: Path
    law: str
    within: float
    seeds: tuple[int, ...]
    seed: int


def resolve(given: CommandLine) -> Settings:
    """The settings that the command line asks for; BadInput for what cannot be planned."""
    if given.name is not None:
        check_name(given.name)
    amounts = {"flops": given.flops, "minutes": given.minutes, "loss": given.loss}
    asked = [name for name, value in amounts.items() if value is not None]
    if len(asked) > 1:
        raise BadInput(f"--{asked[0]} and --{asked[1]} exclude each other: name one budget")
    for name in asked:
        if not (math.isfinite(amounts[name] or 0.0) and (amounts[name] or 0.0) > 0):
            raise BadInput(f"--{name} must be positive and finite, not {amounts[name]}")
    if not 0 < given.within < 1:
        raise BadInput(f"--within must be between 0 and 1, not {given.within}")
    if given.seeds < 1 or given.seed < 0 or given.workers < 0:
        raise BadInput("--seeds must be positive, --seed and --workers not negative")
    fits = _find_fits(given)
    return Settings(
        asked=asked[0] if asked else "nothing",  # type: ignore[arg-type]
        amount=float(amounts[asked[0]] or 0.0) if asked else 0.0,
        fits=fits,
        law=source_hash(fits)[:12],
        within=given.within,
        seeds=tuple(range(given.seed, given.seed + given.seeds)),
        seed=given.seed,
    )


def _find_fits(given: CommandLine) -> Path:
    """The file that --fits names, else the newest one of the results that can predict, else the committed one."""
    if given.fits:
        named = Path(given.fits)
        path = named / "fits.json" if named.is_dir() else named
        if not path.is_file():
            raise BadInput(f"--fits {given.fits} is not there, or is a folder without a fits.json")
        return path
    try:
        latest = latest_run(results_folder(given.results_dir, "scaling_laws"), "fits.json") / "fits.json"
    except BadInput:
        return repository_root() / COMMITTED
    return latest if "prediction" in read_json(latest) else repository_root() / COMMITTED
