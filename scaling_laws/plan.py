"""A budget, the net and the data to spend it on, and what will come of it: predicted first, then trained and compared.

    python scaling_laws/plan.py --flops 1e12            # or --minutes 10, or --loss 0.05
    python scaling_laws/plan.py --flops 1e12 --train    # about half a minute on two CPU cores

After Hoffmann et al. 2022, section 3, whose use of a scaling law this is. A second without --train. The law is that of
the latest fits.json, else of the committed one (`--fits`); expect a loss of 0.037 [0.033, 0.042] at 1e12 FLOP, 3 times the
largest run behind it. plan.json in the folder that is printed holds the prediction, written before any training, and with
--train what was measured.

Three one-line changes to try (what they gave at 1e12 FLOP, where the half-width in logs is 0.118):
  --seeds 10              0.101: what is left is the law's uncertainty, not the seeds'.
  form.weight             in laws/predictive.py, `draws`, -> 1.0 in both places: the forms count alike, 0.132.
  EXACT                   in law_forms/form_choice.py, 1e-3 -> 1.0: every form counts as exact, so the one with fewest
                          parameters, Kaplan et al.'s, is what the next fit predicts with.
"""

import os

os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.cli import parse, run_main, shown
from common.data import Mnist, data_root, load_mnist
from common.device import choose_device
from common.errors import BadInput
from common.files import read_record, write_csv, write_record
from common.pool import Pool
from common.provenance import available_cores
from common.run import Run, open_run
from nets.cell_jobs import measure_speed, seeds_together, start_worker
from nets.digits import prepare
from nets.learning_rate import RULE, batch_size
from planning.best_cell import Budget, Sized, compute_for, compute_interval, extrapolation, predicted
from planning.kept_law import KeptLaw, read_law
from planning.machine_speed import TEST_COST, best_in_minutes
from planning.plan_settings import PRESETS, CommandLine, Settings, resolve
from planning.plan_text import measured_lines, plan_lines
from sweeping import sweep_settings
from sweeping.cell_store import cell_store
from sweeping.grid import Cell
from sweeping.sweep_runner import Sweep

HERE = Path(__file__).resolve().parent


def choose_cell(settings: Settings, law: KeptLaw, device: torch.device, workers: int) -> Sized:
    """The net and the number of images that the budget is best spent on; BadInput where there is none."""
    if settings.asked == "minutes":
        return cell_of_minutes(settings, law, device, workers)
    flops = settings.amount if settings.asked == "flops" else 4 * law.flops[1]
    if settings.asked == "loss":
        flops = compute_for(law, settings.amount)
    budget = Budget(law, flops)
    budget.check()
    return budget.cell()


def cell_of_minutes(settings: Settings, law: KeptLaw, device: torch.device, workers: int) -> Sized:
    """The cell for --minutes: the speeds of a few widths first, then, at the chosen one's own batch size, again."""
    if not law.our_net:
        raise BadInput("--minutes needs the law of this repository's own net, whose speed it can measure: use --flops")
    start_worker(max(1, available_cores() // workers))
    seeds = len(settings.seeds)

    def speed(width: int, batch: int = 64) -> float:
        together = seeds if seeds_together(width, batch, device.type) else 1
        rate = measure_speed(width, batch, together, str(device))["images_per_second"]
        return rate * min(workers, seeds) / seeds if together > 1 else rate

    print("calibrating this machine ...")
    cell = best_in_minutes(law, settings.amount, seeds, workers, speed)
    rounds = max(1, math.ceil(seeds / workers))
    rate = speed(cell.width, batch_size(cell.n_samples))
    samples = math.floor(60 * settings.amount * rate / rounds - TEST_COST)
    if samples < 4:
        raise BadInput(f"--minutes {settings.amount:g} is too short for {seeds} runs of width {cell.width}")
    return replace(cell, n_samples=samples)


def make_plan(settings: Settings, law: KeptLaw, cell: Sized) -> dict[str, Any]:
    """plan.json before any training."""
    budget = Budget(law, cell.flops)
    budget.check()
    forms = law.predictive.forms
    return {
        "asked": settings.asked,
        "amount": settings.amount,
        "law": {
            "fits": shown(settings.fits),
            "sha256": settings.law,
            "form": forms[0].law.form.name,
            "weights": {form.law.form.name: round(form.weight, 4) for form in forms},
            "dataset": law.dataset,
            "runs": law.runs,
        },
        "cell": {**asdict(cell), "flops": cell.flops},
        "seeds": list(settings.seeds),
        **predicted(law, cell, len(settings.seeds)),
        "compute_of_the_loss": compute_interval(law, settings.amount) if settings.asked == "loss" else None,
        "optimum": budget.optimum_interval(),
        "region": budget.region(settings.within),
        "twice_too_large": budget.elsewhere(2.0),
        "twice_too_small": budget.elsewhere(0.5),
        "extrapolation": extrapolation(law, cell),
        "measured": None,
    }


def data_of(law: KeptLaw, given: CommandLine) -> Mnist:
    """The digits to train on; BadInput where they, or the nets, are not those that the law is of."""
    if not law.our_net:
        raise BadInput("the law is of other nets than this repository's: it can be planned with, not trained")
    mnist = load_mnist(data_root(given.data_dir), given.dataset)
    if mnist.name != law.dataset:
        raise BadInput(f"the law is of {law.dataset or 'an unnamed data set'}, the data here are {mnist.name}")
    return mnist


def train_plan(
    run: Run, plan: dict[str, Any], settings: Settings, given: CommandLine, mnist: Mnist, workers: int
) -> int:
    """Train the plan's cell, keep runs.csv, and add to plan.json what was measured; the exit code."""
    cell, digits = plan["cell"], prepare(mnist)
    single = sweep_settings.CommandLine(width=cell["width"], samples=cell["n_samples"], seed=settings.seed)
    sweep_of_one = replace(sweep_settings.resolve(single), seeds=settings.seeds)
    threads = max(1, available_cores() // workers)
    with Pool(workers, start_worker, (threads,)) as pool:
        device = device_of(given, cell["width"])[0]
        store = cell_store(given.results_dir, digits, device.type, None)
        sweep = Sweep(sweep_of_one, pool, workers, run.folder, store, digits, str(device))
        todo = Cell("plan", cell["width"], cell["n_samples"])
        sweep.measure_speeds([(todo, sweep.seeds)])
        print(f"training {len(sweep.seeds)} runs, about {sweep.seconds(todo, sweep.seeds) / workers:.0f} s")
        sweep.make_copies(todo.n_samples)
        rows = [{**row, "dataset": mnist.name} for row in sweep.train([todo], RULE, lambda *_: False)]
    if sweep.failed:
        print("FAILED; the same command tries again:\n  " + "\n  ".join(sorted(sweep.failed)))
        return 1
    write_csv(run.folder / "runs.csv", rows)
    plan["measured"] = measured(plan, rows)
    write_record(run.folder / "plan.json", plan)
    run.finish(**plan["measured"], headline=f"{cell['flops']:.3g} FLOP: {measured_lines(plan)[0]}")
    return 0


def measured(plan: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Loss and error rate of the runs, geometric means as the prediction's, beside it."""
    losses = [row["test_loss"] for row in rows]
    good = [row for row in rows if row["status"] == "ok"]
    found: dict[str, Any] = {"losses": losses, "diverged": len(rows) - len(good), "loss": None, "error_rate": None}
    if not good:
        return found
    loss = math.exp(np.mean(np.log([row["test_loss"] for row in good])))
    errors = [1 - row["test_accuracy"] for row in good]
    return {
        **found,
        "loss": loss,
        "error_rate": math.exp(np.mean(np.log(errors))) if min(errors) > 0 else None,
        "log_error": math.log(loss / plan["loss"]["value"]),
        "inside": plan["loss"]["lo95"] <= loss <= plan["loss"]["hi95"],
    }


def device_of(given: CommandLine, width: int) -> tuple[torch.device, str]:
    """Where the cell trains, and why."""
    return choose_device(given.device, tiny=width <= 32)


def sources() -> list[Path]:
    """The files that, with what they import, make a plan's numbers."""
    return [HERE / "nets/cell_jobs.py", HERE / "planning/best_cell.py", HERE / "planning/machine_speed.py"]


def main() -> int:
    """The law, the best cell, the prediction on the disk; then, if asked, its training."""
    given = parse(CommandLine, PRESETS, description=__doc__ or "")
    settings = resolve(given)
    law = read_law(settings.fits)
    device, reason = device_of(given, 16)
    workers = given.workers or (available_cores() if device.type == "cpu" else 1)
    cell = None if settings.asked == "minutes" else choose_cell(settings, law, device, workers)
    mnist = data_of(law, given) if given.train else None
    arguments = ("scaling_laws", "plan", settings, given, device.type, sources())
    with open_run(*arguments, leave_out=("fits",), presets=PRESETS) as run:
        path = run.folder / "plan.json"
        if path.exists():
            plan = read_record(path)
        else:
            plan = make_plan(settings, law, cell or choose_cell(settings, law, device, workers))
            write_record(path, plan)  # before any training
        print("\n".join(plan_lines(plan)))
        code = 0
        if mnist and not plan["measured"]:
            print(f"device: {device} ({reason})\nprediction written: {shown(path)}")
            code = train_plan(run, plan, settings, given, mnist, workers)
        if plan["measured"]:
            print("\n".join(measured_lines(plan)))
        print(f"results: {shown(run.folder)}")
        return code


if __name__ == "__main__":
    run_main(main)
