"""Write docs/runs.md from the dictionaries that stand beside the code: `python docs/write_runs.py`."""

import sys
from pathlib import Path

from common.files import write_text

ROOT = Path(__file__).resolve().parents[1]
HEAD = """# What is in a run folder

`results/<project>/<task>-<settings that differ>-<hash>-s<seed>/`; `results/latest` leads to the one that was opened last,
`results/index.html` shows all. The hash covers all that changes the numbers, code included: the same command finds the same
folder, skips what is done and goes on where it was stopped. Made by `python docs/write_runs.py` from the code.

| file | when it is written | what it is |
| --- | --- | --- |
| `config.json` | first | settings, command, commit, machine, versions |
| `metrics.csv` | a row at a time | the course of a run; rows beyond the last checkpoint are made again after a stop |
| `checkpoint.pt` | every 10 to 30 s, at the end, on Ctrl-C | tensors and plain values; runs no code, is verified |
| `plan.json` | `train.py`, after a few seconds | how many steps `--minutes` came to: a rerun makes as many |
| `plan.json` | `plan.py`, before any training | the net that is planned, what is predicted, later what was measured |
| `anchors.json` | `train.py`, before training | what there is to beat on the text |
| `by_position.csv`, `attention.npz`, `sample.txt` | `train.py`, at its end | what the figures are drawn from, and a sample |
| `cells/*.json`, `runs/*.json` | studies and comparisons, as each job ends | one finished run each |
| `../cells/*/*.json` | `sweep.py`, `plan.py`, as each job ends | a cell's seeds, for all sweeps with one code, data, device |
| `runs.csv`, `curves.csv`, `training.csv`, `tuning.csv`, `table.md` | sweeps and comparisons | all runs as tables |
| `arms.csv`, `arms.json` | sweeps with `--arms` | the runs made in another way, and what they say |
| `fits.json`, `formulae.md` | sweeps, `fit.py`, `noise_scale.py` | what was fitted |
| `*.png`, `*.pdf` | while it runs, and at the end | figures; `--redraw FOLDER` draws them again from the tables |
| `summary.json` | last | what was found: its presence means that the run is done |
| `.seal.json` | after it | checksums of summary.json, metrics.csv and checkpoint.pt |
| `error.txt` | on a crash | the traceback; the same command tries again |

Every file but `metrics.csv` is written in one step: it is the old one or the new one, never half. A file that does not pass
its checksum is refused in one sentence that names the remedy.
"""


def tables() -> dict[str, dict[str, dict[str, str]]]:
    """What every project's files hold: project, files, name, meaning."""
    sys.path += [str(ROOT / project) for project in ("scaling_laws", "transformers", "rl")]
    from common import record_keys
    from lm_report import lm_columns
    from planning import plan_columns
    from rl_report import rl_columns
    from sweeping import sweep_columns

    return {
        "Every project": {"config.json": record_keys.CONFIG_JSON, "summary.json": record_keys.SUMMARY_JSON},
        "scaling_laws": {
            "runs.csv, tuning.csv, batch.csv, net.csv": sweep_columns.RUNS_CSV,
            "arms.csv": {**sweep_columns.RUNS_CSV, **sweep_columns.ARMS_CSV},
            "arms.json": sweep_columns.ARMS_JSON,
            "summary.json": sweep_columns.SUMMARY_JSON | plan_columns.SUMMARY_JSON,
            "design.csv": sweep_columns.DESIGN_CSV,
            "plan.json": plan_columns.PLAN_JSON,
            "coverage.csv": plan_columns.COVERAGE_CSV,
            "image_losses.csv": {
                **{name: sweep_columns.RUNS_CSV[name] for name in ("width", "n_samples", "seed", "test_loss")},
                **plan_columns.IMAGE_LOSSES_CSV,
            },
        },
        "transformers": {
            "metrics.csv": lm_columns.METRICS_CSV,
            "by_position.csv": lm_columns.BY_POSITION_CSV,
            "summary.json": lm_columns.SUMMARY_JSON,
            "adaptive.json": lm_columns.ADAPTIVE_JSON,
            "own_texts.csv": lm_columns.OWN_TEXTS_CSV,
            "batch_sweep.csv": lm_columns.BATCH_SWEEP_CSV,
            "noise.csv": lm_columns.NOISE_CSV,
            "ablation.csv, ablation_trials.csv, learning_rates.csv, learning_rates_1000_steps.csv, linear_schedule.csv": (
                lm_columns.RECIPE_CSV
            ),
            "beside_nanogpt.csv": lm_columns.BESIDE_NANOGPT_CSV,
            "anchors.csv": lm_columns.ANCHORS_CSV,
        },
        "rl": {
            "metrics.csv": rl_columns.METRICS_CSV,
            "summary.json": rl_columns.SUMMARY_JSON,
            "runs.csv": rl_columns.RUNS_CSV,
            "curves.csv": rl_columns.CURVES_CSV,
            "training.csv, control.csv, tuning.csv": rl_columns.TRAINING_CSV,
            **{
                name.replace("speed.csv", "speed.csv, speed_cuda.csv"): one
                for name, one in rl_columns.BENCHMARKS.items()
            },
        },
    }


def runs_page() -> str:
    """The text of docs/runs.md."""
    lines = [HEAD]
    for project, held in tables().items():
        lines.append(f"## {project}\n")
        for files, columns in held.items():
            lines += [f"**{files}**\n", "| name | meaning |", "| --- | --- |"]
            lines += [f"| `{name}` | {meaning or 'likewise'} |" for name, meaning in columns.items()]
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    write_text(ROOT / "docs" / "runs.md", runs_page())
