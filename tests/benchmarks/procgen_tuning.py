"""What makes plain policy gradient learn in Procgen: one setting changed at a time, on seeds that are never reported.

    python tests/benchmarks/procgen_tuning.py fruitbot starpilot --variants "32 x 8" ppo --frames 250000

Every trial is a run of vpg.py in a process of its own with one thread, without evaluations; the same command goes on where it
was stopped. Adds to results/reference/rl/procgen/tuning.csv one row per trial and 50,000 frames: the mean return of the
episodes that ended in them, with their number, and means of entropy, KL divergence, explained variance and frames per second.
"""

import argparse
from typing import Any

from procgen_runs import REFERENCE, ROOT, read_rows, replaced

from common.files import write_csv
from common.pool import Job, Pool
from common.provenance import available_cores
from rl_report.learning_curve import learning_curve
from rl_report.procgen_report import windows
from rl_settings.vpg_settings import Config
from training_runs.training_run import start_worker, train_or_find

OUT = REFERENCE / "tuning.csv"
# A variant's name: environments x steps of each, and in how many minibatches.
LONG = {"method": "one-epoch", "num_envs": 64, "horizon": 64, "minibatches": 16, "lr": 5e-4, "gamma": 0.999}
BIG = {**LONG, "horizon": 256, "minibatches": 64}
# Everything else is PROCGEN's in recipes.py: gamma 0.999 where no other is named, lambda 0.95, entropy 0.01. tuning.csv also
# has variants called "no ratio", of minibatches whose steps counted alike however far the policy had moved: the code at
# commit e1f473f; and "Glorot", with nn.init.xavier_uniform_ in place of `orthogonal` for all weights of the encoder.
VARIANTS: dict[str, dict[str, Any]] = {
    "64 x 16": {"num_envs": 64, "horizon": 16, "lr": 5e-4},
    "64 x 16, lr 2e-3": {"num_envs": 64, "horizon": 16, "lr": 2e-3},
    "32 x 8": {"num_envs": 32, "horizon": 8, "lr": 5e-4},
    "32 x 8, lr 1e-3": {"num_envs": 32, "horizon": 8, "lr": 1e-3},
    "32 x 8, gamma 0.99": {"num_envs": 32, "horizon": 8, "lr": 5e-4, "gamma": 0.99},
    "16 x 32": {"num_envs": 16, "horizon": 32, "lr": 5e-4},
    "64 x 64 in 16": LONG,
    "64 x 64 in 16, lr 1e-3": {**LONG, "lr": 1e-3},
    "64 x 64 in 16, lr 2.5e-4": {**LONG, "lr": 2.5e-4},
    "64 x 64 in 32": {**LONG, "minibatches": 32},
    "64 x 256 in 64": BIG,
    "64 x 256 in 64, impala-glorot": {**BIG, "encoder": "impala-glorot"},
    "64 x 64 in 16, value weight 0.05": {**LONG, "value_weight": 0.05},
    "64 x 256 in 64, value weight 0.05": {**BIG, "value_weight": 0.05},
    "64 x 256 in 64, value clip 0.2": {**BIG, "value_clip": 0.2},
    "64 x 256 in 64, gamma 0.99": {**BIG, "gamma": 0.99},
    "64 x 256 in 64, value clip 0.2, gamma 0.99": {**BIG, "value_clip": 0.2, "gamma": 0.99},
    "64 x 64 in 16, normalised features": {**LONG, "encoder": "impala-half-norm"},
    "64 x 64 in 16, clip 0.999": {**LONG, "clip": 0.999},
    "ppo": {"method": "ppo", "reward_gamma": 0.999},  # before its rewards were scaled as OpenAI's are
}


def trial(given: Config) -> dict[str, Any]:
    """In a worker: one run, by windows."""
    summary, folder = train_or_find(given, learning_curve, quiet=True)
    return {"status": summary["status"], "rows": windows(folder / "metrics.csv")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("games", nargs="+")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--frames", type=int, default=250_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1000])
    options = parser.parse_args()
    jobs, what = [], {}
    for seed in options.seeds:
        for variant in options.variants:
            for game in options.games:
                given = Config(
                    env=f"procgen:{game}", seed=seed, total_steps=options.frames, eval_every=0, final_episodes=1,
                    device="cpu", **VARIANTS[variant],
                )  # fmt: skip
                key = f"{game}-{variant.replace(' ', '')}-{options.frames}-s{seed}"
                jobs.append(Job(key, trial, {"given": given}))
                what[key] = {"game": game, "variant": variant, "seed": seed}
    with Pool(min(available_cores(), len(jobs)), start_worker) as pool:
        for end in pool.map(jobs, ROOT / "results" / "rl" / "procgen-tuning"):
            mine = what[end.job.key]
            print(mine, end.error or end.result)
            if end.result:
                new = [{**mine, **row} for row in end.result["rows"]]
                OUT.parent.mkdir(parents=True, exist_ok=True)
                write_csv(OUT, replaced(read_rows(OUT), new, tuple(mine)))


if __name__ == "__main__":
    main()
