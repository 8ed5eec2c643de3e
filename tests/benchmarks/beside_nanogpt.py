"""tinyshakespeare at equal wall-clock: nanoGPT's own CPU recipe, then ours with the same minutes. Run by hand:

    python tests/benchmarks/beside_nanogpt.py --nanogpt PATH_TO_ITS_CHECKOUT

nanoGPT runs its own code with the flags of its README, in a copy of the checkout, timed as a whole process. Then
`transformers/train.py --task tinyshakespeare --minutes M` runs with M a little below that time, once per seed. Both
models are measured by one evaluator: the whole validation text in cold windows of each model's own context. Finished
runs are kept; the same command goes on. Writes beside_nanogpt.csv into results/reference/transformers/.
"""

import argparse
import importlib.util
import pickle
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "transformers"))

from common.data import data_root
from common.files import read_json, write_csv, write_json
from common.run import read_metrics
from texts.corpora import load_corpus
from texts.vocabulary import build

FLAGS = (
    "--device=cpu --compile=False --eval_iters=20 --log_interval=1 --block_size=64 --batch_size=12 --n_layer=4 "
    "--n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0"
).split()
OUT = ROOT / "results" / "reference" / "transformers"
RUNS = ROOT / "results" / "transformers"


def run_nanogpt(checkout: Path, folder: Path, seed: int) -> dict[str, Any]:
    """Its recipe as a whole process, its own estimate at the end, and the common evaluator's loss."""
    copy = folder / "checkout"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns(".git", "assets"))
    corpus = load_corpus("tinyshakespeare", data_root(None))
    vocabulary = build("char", corpus.train + corpus.validation)
    data = copy / "data" / "shakespeare_char"
    for name, text in (("train", corpus.train), ("val", corpus.validation)):
        vocabulary.encode(text).astype(np.uint16).tofile(data / f"{name}.bin")
    (data / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": vocabulary.size}))
    train_script = copy / "train.py"
    train_script.write_text(
        train_script.read_text().replace("torch.manual_seed(1337", f"torch.manual_seed({1337 + seed}")
    )
    started = time.perf_counter()
    command = [sys.executable, "train.py", "config/train_shakespeare_char.py", *FLAGS]
    run = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - started
    own = [float(loss) for loss in re.findall(r"step \d+: train loss [\d.]+, val loss ([\d.]+)", run.stdout)]
    spec = importlib.util.spec_from_file_location("nanogpt_model", copy / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["nanogpt_model"] = module
    spec.loader.exec_module(module)
    saved = torch.load(copy / "out-shakespeare-char" / "ckpt.pt", map_location="cpu", weights_only=True)
    model = module.GPT(module.GPTConfig(**saved["model_args"])).eval()
    model.load_state_dict(saved["model"])
    ids = torch.from_numpy(vocabulary.encode(corpus.validation))
    total, n = 0.0, len(ids) - 1
    with torch.no_grad():
        for start in range(0, n, 64):
            inputs, targets = ids[start : min(start + 64, n)], ids[start + 1 : min(start + 64, n) + 1]
            total += float(F.cross_entropy(model(inputs[None], targets[None])[0][0], targets, reduction="sum"))
    return {"seconds": seconds, "own_val_loss": own[-1], "val_loss": total / n}


def nanogpt(checkout: Path, seed: int) -> dict[str, Any]:
    """The result of one run, kept."""
    folder = RUNS / f"nanogpt-s{seed}"
    file = folder / "result.json"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, run_nanogpt(checkout, folder, seed))
    return read_json(file)


def ours(minutes: float, seed: int, reach: float) -> dict[str, Any]:
    """One run of train.py as a whole process, and when it first had `reach` on its validation curve."""
    name = f"beside-nanogpt-s{seed}"
    command = [sys.executable, str(ROOT / "transformers/train.py"), "--task", "tinyshakespeare", "--name", name]
    command += ["--minutes", f"{minutes:.4f}", "--seed", str(seed)]
    started = time.perf_counter()
    file = RUNS / name / "wall.json"
    if not file.exists():
        subprocess.run(command, check=True)
        write_json(file, {"seconds": time.perf_counter() - started})
    summary, metrics = read_json(RUNS / name / "summary.json"), read_metrics(RUNS / name / "metrics.csv")
    reached = metrics["minutes"][np.flatnonzero(metrics["val_loss"] <= reach)]
    return {
        "seconds": max(read_json(file)["seconds"], summary["total_seconds"]),  # also where the run was interrupted
        "val_loss": summary["val_loss"],
        "val_loss_sliding": summary["val_loss_sliding"],
        "seconds_to_nanogpt": 60 * float(reached[0]) if len(reached) else None,
        "tokens": summary["tokens"],
        "n_params": summary["n_params"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, required=True, help="a checkout of karpathy/nanoGPT")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--margin", type=float, default=0.96, help="our minutes, as a part of nanoGPT's")
    options = parser.parse_args()
    rows = [{"system": "nanoGPT", "seed": 0, **nanogpt(options.nanogpt.resolve(), 0)}]
    budget = rows[0]["seconds"]
    for seed in range(options.seeds):
        minutes = options.margin * budget / 60
        rows.append({"system": "ours", "seed": seed, **ours(minutes, seed, rows[0]["own_val_loss"])})
    write_csv(OUT / "beside_nanogpt.csv", rows)
    for row in rows:
        print(row)
    mine = [row for row in rows if row["system"] == "ours"]
    print(
        f"nanoGPT {rows[0]['val_loss']:.3f} in {budget:.0f} s; ours {statistics.mean(r['val_loss'] for r in mine):.3f} in "
        f"{max(r['seconds'] for r in mine):.0f} s at most, and nanoGPT's own {rows[0]['own_val_loss']:.3f} after "
        f"{max(r['seconds_to_nanogpt'] for r in mine):.0f} s at most (n = {len(mine)})"
    )


if __name__ == "__main__":
    main()
