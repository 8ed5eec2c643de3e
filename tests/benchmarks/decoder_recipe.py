"""What each part of the modern decoder buys, and how much the learning rate matters. Run by hand, resumable:

    python tests/benchmarks/decoder_recipe.py ablation      half an hour on two cores
    python tests/benchmarks/decoder_recipe.py rates         2 minutes more

Every run trains on Shakespeare's plays for SECONDS on one core while the other core does the same; the seconds are turned
into steps by a measurement before (medians, every variant in turn, on both cores at once), so that all runs of a variant
take the same steps. Learning rates are chosen on the development slice with seed 100, with the same trials for every
variant; the runs that are reported train on the whole training text with seeds 0, 1, … and are measured on the validation
text: the same WINDOWS cold windows for all, evenly spaced over it. Writes CSV files, the tables for README and, for the
rates, a figure into results/reference/transformers/recipe/.
"""

import argparse
import math
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "transformers"))

import train
from common.device import compute_dtype, configure_cpu, keep_freed_memory
from common.files import write_csv
from common.plots import PALETTE, new_figure, save_figure, style
from common.pool import Job, Pool
from common.provenance import short_hash, source_hash, source_hashes
from lm_evaluation.lm_losses import window_losses
from lm_settings.choices import MODERN
from lm_settings.train_settings import Config, Settings, resolve
from optimisation.lm_learner import Learner
from texts.tokenized_text import load_text

SECONDS = 36.0
WINDOWS = 200  # of a whole context each
TASK = "shakespeare"
OUT = ROOT / "results" / "reference" / "transformers" / "recipe"
PARTS = (*MODERN, "muon")
VARIANTS: dict[str, dict[str, Any]] = {
    "modern": {},
    **{f"without {part}": {"without": (part,)} for part in PARTS},
    "vaswani": {"arch": "vaswani"},
}
PRENORM = "and with it back to LayerNorm, biases and Glorot's weights"  # four changes in one switch
TRIALS = (0.5, 1.0, 2.0)
RATES = (0.25, 0.5, 1.0, 2.0, 4.0)
CPU = torch.device("cpu")


def start_worker() -> None:
    """One thread a process."""
    configure_cpu(1)
    keep_freed_memory()


def settings_of(variant: str, **more: Any) -> Settings:
    return resolve(Config(task=TASK, steps=1, **{**VARIANTS[variant], **more}))


def speed(variant: str, steps: int = 24) -> dict[str, float]:
    """Seconds per step: the median of `steps` after four."""
    settings = settings_of(variant)
    learner = Learner(settings, load_text(settings, CPU), CPU, compute_dtype(CPU)[0])
    times = []
    for step in range(steps + 4):
        start = time.perf_counter()
        train.update(learner, step, 1000)
        times.append(time.perf_counter() - start)
    return {"step_seconds": statistics.median(times[4:])}


def run(variant: str, lr: float, seed: int, steps: int, development: bool) -> dict[str, Any]:
    """Train and measure once: the loss in nats per character on windows of the development or the validation text."""
    settings = settings_of(variant, lr_scale=lr, seed=seed, development=development)
    text = load_text(settings, CPU)
    learner = Learner(settings, text, CPU, compute_dtype(CPU)[0])
    start = time.perf_counter()
    for step in range(steps):
        train.update(learner, step, steps)
    seconds = time.perf_counter() - start
    context = learner.model.shape.context
    starts = torch.linspace(0, len(text.validation) - context - 1, WINDOWS).long()
    loss = float(window_losses(learner.model, text.validation[starts[:, None] + torch.arange(context + 1)]).mean())
    text_name = "development" if development else "validation"
    row = {"variant": variant, "lr": lr, "seed": seed, "text": text_name, "steps": steps, "seconds": round(seconds, 2)}
    return {**row, "loss": loss if math.isfinite(loss) else None}


def results(pool: Pool, folder: Path, jobs: list[Job]) -> list[dict[str, Any]]:
    """The results of the jobs in their order; an error ends it all."""
    done = {}
    for end in pool.map(jobs, folder):
        if end.result is None:
            raise SystemExit(f"{end.job.key}: {end.error}")
        done[end.job.key] = end.result
        print(f"{len(done)}/{len(jobs)} {end.job.key}: {end.result}", flush=True)
    return [done[job.key] for job in jobs]


def job(variant: str, **arguments: Any) -> Job:
    key = "-".join([variant.replace(" ", "_"), *(f"{name}{value}" for name, value in arguments.items())])
    return Job(key, run, {"variant": variant, **arguments})


def steps_of(pool: Pool, folder: Path, variants: list[str]) -> dict[str, int]:
    """How many steps of each variant fit into SECONDS; measured three times, the variants in turn."""
    jobs = [Job(f"{v.replace(' ', '_')}-{k}", speed, {"variant": v}) for k in range(3) for v in variants]
    times = defaultdict(list)
    for each, result in zip(jobs, results(pool, folder / "speed", jobs), strict=True):
        times[each.arguments["variant"]].append(result["step_seconds"])
    return {variant: int(SECONDS / statistics.median(found)) for variant, found in times.items()}


def interval(differences: list[float]) -> tuple[float, float]:
    """Mean and half-width of the 95% interval (Student's t) of paired differences."""
    n = len(differences)
    half = float(student.ppf(0.975, n - 1)) * statistics.stdev(differences) / math.sqrt(n) if n > 1 else math.nan
    return statistics.mean(differences), half


def ablation(pool: Pool, folder: Path, seeds: int) -> None:
    """Every part taken away in turn: rates tuned on the development slice, losses on the validation text."""
    variants = list(VARIANTS)
    steps = steps_of(pool, folder, variants)
    trials = [job(v, lr=lr, seed=100, steps=steps[v], development=True) for v in variants for lr in TRIALS]
    tuned = results(pool, folder / "trials", trials)
    best = {v: best_rate([r for r in tuned if r["variant"] == v]) for v in variants}
    final = [job(v, lr=best[v], seed=s, steps=steps[v], development=False) for s in range(seeds) for v in variants]
    rows = results(pool, folder / "final", final)
    write_csv(OUT / "ablation_trials.csv", tuned)
    write_csv(OUT / "ablation.csv", rows)
    print("\n".join(ablation_table(rows)))


def best_rate(trials: list[dict[str, Any]]) -> float:
    """The factor of the trial with the least loss; one that diverged has none."""
    finished = [row for row in trials if row["loss"] is not None]
    if not finished:
        raise SystemExit(f"{trials[0]['variant']}: every trial diverged, add smaller factors to TRIALS")
    return min(finished, key=lambda row: row["loss"])["lr"]


def ablation_table(rows: list[dict[str, Any]]) -> list[str]:
    """The lines of README's table."""
    losses = defaultdict(dict)
    for row in rows:
        losses[row["variant"]][int(row["seed"])] = float(row["loss"] or "inf")
    first = {row["variant"]: row for row in reversed(rows)}
    lines = [
        "| variant | steps | best rate | loss, nats | change by taking it away |",
        "| --- | --- | --- | --- | --- |",
    ]
    for variant in VARIANTS:
        mine, base = losses[variant], losses["modern"]
        mean, half = interval([mine[seed] - base[seed] for seed in sorted(mine)])
        change = "" if variant == "modern" else f"{mean:+.3f} ± {half:.3f}"
        row = first[variant]
        loss = statistics.mean(mine.values())
        edge = " (edge)" if float(row["lr"]) in (TRIALS[0], TRIALS[-1]) else ""
        told = f"{variant} ({PRENORM})" if variant == "without prenorm" else variant
        lines.append(f"| {told} | {int(row['steps']):,} | x {float(row['lr']):g}{edge} | {loss:.3f} | {change} |")
    return lines


def rates(pool: Pool, folder: Path, seeds: int) -> None:
    """Final loss against the factor on every learning rate, on the development slice, both architectures."""
    variants = ["modern", "vaswani"]
    steps = steps_of(pool, folder, variants)
    jobs = [
        job(v, lr=lr, seed=100 + s, steps=steps[v], development=True)
        for s in range(seeds)
        for v in variants
        for lr in RATES
    ]
    rows = results(pool, folder / "trials", jobs)  # some of them are the ablation's
    write_csv(OUT / "learning_rates.csv", rows)
    rate_figure(rows, OUT / "learning_rates")


def rate_figure(rows: list[dict[str, Any]], path: Path) -> None:
    """Loss against the learning-rate factor: every seed as a dot, the means as a line."""
    with style():
        figure, axes = new_figure(1, width=4.4)
        for variant, color in (("modern", PALETTE[0]), ("vaswani", PALETTE[1])):
            mine = [row for row in rows if row["variant"] == variant and row["loss"] is not None]
            lrs = sorted({row["lr"] for row in mine})
            mean = [np.mean([row["loss"] for row in mine if row["lr"] == lr]) for lr in lrs]
            axes[0].plot(lrs, mean, color=color, label=f"{variant} ({mine[0]['steps']:,} steps)")
            axes[0].plot([r["lr"] for r in mine], [r["loss"] for r in mine], ".", color=color, alpha=0.5)
        axes[0].set_xscale("log", base=2)
        axes[0].set_xticks(RATES, ["1/4", "1/2", "1", "2", "4"])
        axes[0].set(xlabel="factor on every learning rate", ylabel="development loss (nats per character)")
        axes[0].set_title(f"Shakespeare's plays, {SECONDS:.0f} s on one core")
        axes[0].legend()
        save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["ablation", "rates"])
    parser.add_argument("--seeds", type=int, default=3, help="of the runs that are reported")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread, each on a core of its own")
    options = parser.parse_args()
    sources = {**source_hashes(*train.ROOTS), "loops": source_hash(__file__, train.__file__)}
    folder = ROOT / "results" / "transformers" / f"recipe-{short_hash(sources)}"
    with Pool(options.workers, start_worker) as pool:
        {"ablation": ablation, "rates": rates}[options.what](pool, folder, options.seeds)


if __name__ == "__main__":
    main()
