"""What a run ends with: its numbers, its figures, its sample, and one sentence."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from anchors import longest_match
from common.files import write_text
from common.run import Run, read_metrics
from evaluation import bits_per_character, evaluating, score_integers, token_losses
from noise_tracking import noise_summary
from sample import generate
from tasks import INTEGER_TASKS, IntegerTask, mix
from training import Text, Training

if TYPE_CHECKING:
    from train import Config

SAMPLE_TOKENS = 600


def text_summary(training: Training, text: Text, to_beat: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray, str]:
    """The numbers of a text run, the cold losses by position in the window (T,), and a sample."""
    context = training.model.shape.context
    cold, sliding = token_losses(training.model, text.validation, context)
    whole = cold[: len(cold) // context * context]
    by_position = whole.reshape(-1, context).mean(0) if len(whole) else cold
    prompt = text.vocabulary.encode("\n") if "\n" in text.corpus.train else text.train[:1].cpu().numpy()
    random = torch.Generator().manual_seed(mix(training.config.seed, 0))
    model = training.model.cpu()
    with evaluating(model):
        ids = [
            int(i) for i in generate(model, torch.from_numpy(prompt).long()[None], SAMPLE_TOKENS, 0.8, random=random)
        ]
    sample = text.vocabulary.decode(ids)
    match, recited = longest_match(sample, text.corpus.train)
    numbers = {
        "val_loss": float(cold.mean()),
        "val_loss_sliding": float(sliding.mean()),
        "val_bits_per_char": bits_per_character(float(cold.sum()), text.characters),
        "val_bits_per_char_sliding": bits_per_character(float(sliding.sum()), text.characters),
        "val_tokens": len(cold),
        "val_characters": text.characters,
        "sample_longest_match": match,
        "sample_longest_match_text": recited,
        **to_beat,
    }
    return numbers, by_position, sample


def integer_summary(training: Training, task: IntegerTask) -> tuple[dict[str, Any], np.ndarray]:
    """The numbers of an integer run beside its exact floor, and the losses by position (T,)."""
    score = score_integers(training.model, task)
    numbers = {
        "val_loss": score.loss,
        "floor": float(task.floors.mean()),
        "second_half_loss": score.second_half_loss,
        "accuracy": score.accuracy,
    }
    return numbers, score.by_position


def headline(config: "Config", summary: dict[str, Any]) -> str:
    """One sentence: what was reached, beside what there is to compare it with."""
    if summary["status"] != "ok":
        return (
            f"{config.task}: diverged, the loss is not finite or worse than at the start; try --lr below {config.lr:g}"
        )
    if config.task in INTEGER_TASKS:
        return (
            f"{config.task}: loss {summary['val_loss']:.4f} nats per token (exact floor {summary['floor']:.4f}), "
            f"second half {summary['second_half_loss']:.4f}, accuracy {100 * summary['accuracy']:.2f}% (n = 1 run)"
        )
    per_char = math.log(2) * summary["val_bits_per_char"]
    where = "development" if config.development else "validation"
    return (
        f"{config.task}: {where} loss {summary['val_loss']:.4f} nats per token, {per_char:.4f} per character "
        f"({summary['val_bits_per_char']:.3f} bits; n = 1 run). Per character: {anchor_words(summary)}"
    )


def anchor_words(anchors: dict[str, Any]) -> str:
    """`5-gram 1.669, xz 1.746, PPMd 1.406`: nats per character, PPMd only where it is installed."""
    words = f"{anchors['ngram_order']}-gram {anchors['ngram_nats_per_char']:.3f}, xz {anchors['xz_nats_per_char']:.3f}"
    ppmd = anchors["ppmd_nats_per_char"]
    return words if ppmd is None else f"{words}, PPMd {ppmd:.3f}"


def draw_so_far(run: Run, training: Training, text: Text | None, to_beat: dict[str, Any]) -> bool:
    """loss.png of a run that still goes on; False before its third row."""
    import lmplots  # here, as below: what ends earlier needs no figures

    metrics = read_metrics(run.folder / "metrics.csv")
    if len(metrics["step"]) < 3:
        return False
    if text is None:
        assert isinstance(training.task, IntegerTask)
        lmplots.integer_figure(metrics, None, training.task, run.folder / "loss")
    else:
        numbers = {**to_beat, "val_tokens": len(text.validation) - 1, "val_characters": text.characters}
        lmplots.text_figure(metrics, None, numbers, training.config.task, run.folder / "loss", measured_on(training))
    return True


def measured_on(training: Training) -> str:
    """Which text the losses are of."""
    return "development" if training.config.development else "validation"


def report(run: Run, training: Training, text: Text | None, to_beat: dict[str, Any]) -> dict[str, Any]:
    """Final evaluation, sample and figures; the summary's numbers."""
    import lmplots

    metrics = read_metrics(run.folder / "metrics.csv")
    noise: dict[str, Any] = {}
    if training.tracker:
        context = training.model.shape.context
        noise = noise_summary(metrics, context)
        lmplots.noise_figure(metrics, context, run.folder / "noise")
    if text is None:
        assert isinstance(training.task, IntegerTask)
        numbers, by_position = integer_summary(training, training.task)
        lmplots.integer_figure(metrics, by_position, training.task, run.folder / "loss")
        lmplots.attention_figure(training.model, training.task, run.folder / "attention")
    else:
        numbers, by_position, sample = text_summary(training, text, to_beat)
        write_text(run.folder / "sample.txt", sample)
        what = measured_on(training)
        lmplots.text_figure(metrics, by_position, numbers, training.config.task, run.folder / "loss", what)
        print(f"\n{sample.strip()}\n")
        print(
            f"longest verbatim match of this sample with the training text: {numbers['sample_longest_match']} "
            f"characters, {numbers['sample_longest_match_text']!r}"
        )
    return numbers | noise
