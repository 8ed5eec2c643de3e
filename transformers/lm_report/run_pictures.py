"""All figures of a run of train.py from the tables that its folder keeps, at its end and whenever they are wanted again."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.errors import BadInput
from common.files import atomic_save, read_json, write_csv
from common.run import read_metrics
from decoder_model.decoder import Decoder
from lm_report import train_figures
from lm_settings.choices import INTEGER_TASKS
from lm_settings.train_settings import RECIPES
from texts.integer_tasks import IntegerTask

POSITIONS, ATTENTION = "by_position.csv", "attention.npz"


def keep_positions(folder: Path, by_position: np.ndarray) -> None:
    """by_position.csv: mean loss in nats per token of each place in the window, 1 being the first that is predicted."""
    write_csv(folder / POSITIONS, [{"position": i, "loss": float(loss)} for i, loss in enumerate(by_position, 1)])


def keep_attention(folder: Path, model: Decoder, task: IntegerTask) -> None:
    """attention.npz: the `tokens` (T,) of one fresh sequence, and of each layer the weights (heads, T, T)."""
    inputs = task.draw(1, 1 << 41).inputs[0]
    layers = {
        f"layer_{i}": weights.astype(np.float16)
        for i, weights in enumerate(train_figures.attention_maps(model, inputs), 1)
    }
    arrays: dict[str, Any] = {"tokens": inputs.cpu().numpy(), **layers}
    atomic_save(folder / ATTENTION, lambda file: np.savez_compressed(file, **arrays))


def figures_due(folder: Path) -> list[str]:
    """The figures that the folder's tables give and that are not there."""
    wanted = ["loss.png", *(["attention.png"] if (folder / ATTENTION).exists() else [])]
    return [name for name in wanted if not (folder / name).exists()]


def draw_run(folder: Path) -> None:
    """loss.png, and attention.png and noise.png where the run has them; BadInput where a table is missing."""
    for name in ("config.json", "metrics.csv", "summary.json"):
        if not (folder / name).exists():
            raise BadInput(f"{folder} has no {name}, which the figures are drawn from")
    config, summary = read_json(folder / "config.json")["config"], read_json(folder / "summary.json")
    metrics = read_metrics(folder / "metrics.csv")
    by_position = None
    if (folder / POSITIONS).exists():
        by_position = read_metrics(folder / POSITIONS)["loss"]
    else:
        print(f"{folder} keeps no {POSITIONS}, as runs do now: the panel of the loss by position is left out")
    if config["task"] in INTEGER_TASKS:
        task = integer_task(config)
        train_figures.integer_figure(metrics, by_position, task, folder / "loss", ended=True)
        context = task.context
        if (folder / ATTENTION).exists():
            with np.load(folder / ATTENTION) as kept:
                maps = [kept[f"layer_{i}"].astype(np.float32) for i in range(1, len(kept.files))]
                train_figures.attention_figure(maps, kept["tokens"].tolist(), task, folder / "attention")
    else:
        what = "development" if config["development"] else "validation"
        train_figures.text_figure(metrics, by_position, summary, config["task"], folder / "loss", what)
        context = config["context"]
    if "noise_trace" in metrics:
        train_figures.noise_figure(metrics, context, folder / "noise")


def integer_task(config: dict[str, Any]) -> IntegerTask:
    """The task of a config.json. Older ones leave out what the task's recipe has."""
    recipe = RECIPES[config["task"]]
    length, vocabulary = (config.get(name) or recipe[name] for name in ("length", "vocab"))
    return IntegerTask(config["task"], length, vocabulary, config["seed"], torch.device("cpu"))
