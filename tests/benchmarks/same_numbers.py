"""Whether two checkouts give the same numbers: short seeded runs of every script in both, compared to the last bit.

    python tests/benchmarks/same_numbers.py OLD NEW            about ten minutes on two CPU cores
    python tests/benchmarks/same_numbers.py OLD NEW rl/vpg     only the commands that contain this

For a change that moves code and must change no result. Each command runs in both folders, one thread each, with the
`common` of its own folder; every table and summary that it writes must be the same but for times, hashes and names. What
differs is listed, and the exit code is 1.
"""

import csv
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from tqdm import tqdm

TEXT = "--steps 40 --layers 1 --heads 2 --width 32 --batch 4 --context 32 --precision fp32"
INTEGERS = "--steps 60 --layers 2 --heads 2 --width 32 --batch 8"
PROCGEN = "--total-steps 1024 --num-envs 4 --horizon 64 --final-episodes 1 --eval-every 0 --device cpu"
RL = "--total-steps 4096 --eval-every 2048 --eval-episodes 4 --final-episodes 8"
COMMANDS = [
    "scaling_laws/sweep.py --dataset mnist5k --budgets 2.5e8 5e8 1e9 --widths 1 2 3 4 6 --seeds 2 --min-samples 40 "
    "--row-widths 2 --row-halvings 5 6 7 --column-halvings 6",
    "scaling_laws/sweep.py --dataset mnist5k --width 4 --samples 4000 --dropout 0.2",
    "scaling_laws/fit.py --csv {old}/results/reference/scaling_laws/default/runs.csv --chance-loss 2.302585",
    f"transformers/train.py --task kjv {TEXT}",
    f"transformers/train.py --task kjv {TEXT} --arch vaswani --smoothing 0.1",
    f"transformers/train.py --task text --text {{old}}/tests/test_laws.py {TEXT} --tokenizer bpe --vocab 300 --dropout 0.1",
    f"transformers/train.py --task text --text {{old}}/tests/test_laws.py {TEXT} --without muon shortcut --track-noise",
    f"transformers/train.py --task ascending {INTEGERS}",
    f"transformers/train.py --task repeat {INTEGERS} --length 5 --vocab 5",
    f"transformers/train.py --task induction {INTEGERS} --length 8 --vocab 64 --seed 3",
    "transformers/noise_scale.py --task ascending --preset quick --batches 4 16 64 --goals 1.0 0.3 --workers 1",
    f"rl/vpg.py --env CartPole-v1 {RL}",
    f"rl/vpg.py --env CartPole-v1 {RL} --algo ppo --seed 2",
    f"rl/vpg.py --env CartPole-v1 {RL} --baseline reward-to-go",
    f"rl/vpg.py --env LunarLander-v3 {RL}",
    f"rl/vpg.py --env Pendulum-v1 {RL}",
    f"rl/vpg.py --env procgen:coinrun {PROCGEN}",
    f"rl/vpg.py --env procgen:starpilot {PROCGEN} --minibatches 4 --encoder impala-glorot",
    f"rl/vpg.py --env procgen:fruitbot {PROCGEN} --algo ppo --levels 0",
    "rl/compare.py --envs CartPole-v1 Acrobot-v1 --seeds 2 --total-steps 4096 --workers 1",
]
TIMES = ("seconds", "minutes", "per_second", "images_per_second", "crc32")  # a checksum is of the times too
# What says where and how a run was made, not what came out; table.md and the checksums of .seal.json are of times too.
RECORDS = {"config.json", "plan.json", "began_with.json", "error.txt", "table.md", ".seal.json"}
PLACES = {"sources", "checkpoint", "git_commit", "git_dirty", "command", "arguments", "config", "name", "folder"}


def run(root: Path, command: str, results: Path, old: Path) -> str:
    """Run one command of a checkout into `results`, on the files of the `old` one; what it says where it fails."""
    script, *rest = shlex.split(command.format(old=old))
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["taskset", "-c", "0", sys.executable, root / script, *rest, "--results-dir", str(results)],
        env=environment,
        capture_output=True,
        text=True,
    )
    return "" if done.returncode == 0 else done.stderr[-2000:]


def numbers(value: object) -> object:
    """A value from JSON without times and places."""
    if isinstance(value, dict):
        kept = {name: numbers(part) for name, part in value.items() if name not in PLACES}
        return {name: part for name, part in kept.items() if not name.endswith(TIMES)}
    return [numbers(part) for part in value] if isinstance(value, list) else value


def results_of(folder: Path) -> dict[str, list[object]]:
    """Every table, summary and text below a results folder, by file name; those of one name in an order of their own."""
    found: dict[str, list[object]] = {}
    for path in sorted(folder.rglob("*")):
        if path.name in RECORDS or not path.is_file() or {"speed", "made"} & set(path.parts):
            continue
        # Run folders bear a hash of the code, which two checkouts do not share.
        key = f"{path.parent.name if path.parent.name in ('cells', 'runs') else ''}/{path.name}"
        if path.suffix == ".csv":
            with open(path, newline="", encoding="utf-8") as file:
                found.setdefault(key, []).append(numbers([dict(row) for row in csv.DictReader(file)]))
        elif path.suffix == ".json":
            found.setdefault(key, []).append(numbers(json.loads(path.read_text(encoding="utf-8"))))
        elif path.suffix in (".txt", ".md"):
            found.setdefault(key, []).append(path.read_text(encoding="utf-8"))
    return {key: sorted(values, key=repr) for key, values in found.items()}


def first_difference(old: object, new: object, place: str = "") -> str:
    """Where two values part, and how."""
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        return next((first_difference(old[key], new[key], f"{place}/{key}") for key in old if old[key] != new[key]), "")
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return next((first_difference(a, b, f"{place}/{i}") for i, (a, b) in pairs if a != b), "")
    return f"{place}: {str(old)[:60]} and {str(new)[:60]}"


def main() -> int:
    """Run all commands in both checkouts and compare."""
    roots = [Path(argument).resolve() for argument in sys.argv[1:3]]
    commands = [command for command in COMMANDS if "".join(sys.argv[3:]) in command]
    if len(roots) != 2 or not all((root / "pyproject.toml").is_file() for root in roots):
        print("error: name two checkouts: the old one and the new one", file=sys.stderr)
        return 2
    differ = 0
    for command in tqdm(commands, unit="command"):
        with tempfile.TemporaryDirectory() as folder:
            told, found = [], []
            for place, root in zip(("old", "new"), roots, strict=True):
                told.append(run(root, command, Path(folder) / place, roots[0]))
                found.append(results_of(Path(folder) / place))
        old, new = found
        different = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
        if any(told) or different or not old:
            differ += 1
            tqdm.write(f"DIFFERENT: {command}\n  {' | '.join(told)}")
            for name in different:
                tqdm.write(f"  {name}{first_difference(old.get(name), new.get(name))}")
        else:
            tqdm.write(f"same, {len(old)} files: {command}")
    print(f"{len(commands) - differ} of {len(commands)} commands give the same numbers")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
