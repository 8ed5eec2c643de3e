"""Every fault on every script, by hand: hours.

    python tests/faults/long_matrix.py --seeds 5 --out matrix.md

writes a table of how many were tried and survived, and a line for each that did not, which repeats it:

    python tests/faults/long_matrix.py --only sweep "disk full at write" 3
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from faults.damages import WAYS
from faults.fault_kinds import carry_out, faults_of
from faults.tiny_commands import SCRIPTS
from faults.trials import Bench, Trial


def table(trials: list[Trial], seconds: float) -> str:
    """Markdown: survived of tried for each fault and script; then the failures."""
    keys = [key for key in SCRIPTS if any(trial.script.key == key for trial in trials)]
    cells: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        cells.setdefault((trial.fault, trial.script.key), []).append(trial)
    lines = [f"| fault | {' | '.join(keys)} |", f"| --- |{' --- |' * len(keys)}"]
    for fault in dict.fromkeys(name for key in SCRIPTS for name in faults_of(SCRIPTS[key], WAYS)):
        counts = []
        for key in keys:
            tried = cells.get((fault, key), [])
            counts.append(f"{sum(not trial.wrong for trial in tried)} of {len(tried)}" if tried else "")
        lines += [f"| {fault} | {' | '.join(counts)} |"] if any(counts) else []
    failed = [trial for trial in trials if trial.wrong]
    wrong = sum(any("wrong numbers" in told for told in trial.wrong) for trial in trials)
    lost = sum(any("rows lost" in told for told in trial.wrong) for trial in trials)
    lines += ["", f"{len(trials)} tried, {len(trials) - len(failed)} survived; wrong numbers {wrong}, rows lost {lost}"]
    lines += [f"{seconds / 60:.0f} minutes", "", *(f"- {trial.line}" for trial in failed), ""]
    return "\n".join(lines)


def main() -> int:
    """All seeds of all faults, one seed after the other; the table is written again after each trial."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--scripts", nargs="+", default=list(SCRIPTS))
    parser.add_argument("--faults", default="", help="only those with this in their names")
    parser.add_argument("--only", nargs=3, metavar=("SCRIPT", "FAULT", "SEED"))
    parser.add_argument("--out", type=Path, default=Path("matrix.md"))
    parser.add_argument("--keep", action="store_true", help="keep the working folders")
    given = parser.parse_args()
    began = time.monotonic()
    root = Path(tempfile.mkdtemp(prefix="faults-"))
    bench, trials = Bench(root), []
    seeds = [int(given.only[2])] if given.only else range(given.first_seed, given.first_seed + given.seeds)
    for seed in seeds:
        tried = [(key, *what) for key in given.scripts for what in faults_of(SCRIPTS[key], WAYS).items()]
        random.Random(seed).shuffle(tried)  # so that what is stopped early has tried a bit of everything
        for key, fault, act in tried:
            if given.faults in fault and (not given.only or [key, fault] == given.only[:2]):
                trial = carry_out(bench, SCRIPTS[key], fault, act, seed)
                trials += [trial] if trial.tried else []
                print(f"{time.monotonic() - began:5.0f} s  {trial.line}", flush=True)
                given.out.write_text(table(trials, time.monotonic() - began), encoding="utf-8")
    if not given.keep:
        shutil.rmtree(root)
    return 1 if any(trial.wrong for trial in trials) else 0


if __name__ == "__main__":
    sys.exit(main())
