"""What a run of train.py ends with: its numbers, its figures, its sample, and one sentence."""

import math
from pathlib import Path
from typing import Any

from common.files import write_text
from common.live import attempt
from common.run import Run, read_metrics
from gradient_noise.noise_tracking import noise_summary
from lm_evaluation.measurements import integer_summary, text_summary
from lm_evaluation.mixture import Mixture
from lm_settings.choices import INTEGER_TASKS
from lm_settings.train_settings import Settings
from optimisation.lm_learner import Learner
from texts.integer_tasks import IntegerTask


def headline(settings: Settings, summary: dict[str, Any]) -> str:
    """One sentence: what was reached, beside what there is to compare it with."""
    if summary["status"] != "ok":
        why = "diverged, the loss is not finite or worse than at the start"
        return f"{settings.task}: {why}; try --lr-scale below {settings.lr_scale:g}"
    if settings.task in INTEGER_TASKS:
        # Guessing one of V integers costs log V nats; what a run has learnt beyond their frequencies lies far below.
        chance = (
            " It has learnt nothing: that is chance." if summary["val_loss"] > 0.97 * math.log(settings.vocab) else ""
        )
        return (
            f"{settings.task}: loss {summary['val_loss']:.4f} nats per token (exact floor {summary['floor']:.4f}), "
            f"second half {summary['second_half_loss']:.4f}, accuracy {100 * summary['accuracy']:.2f}% (n = 1 run).{chance}"
        )
    per_char = math.log(2) * summary["val_bits_per_char"]
    beaten = ""
    if per_char > summary["ngram_nats_per_char"] + 1e-6:  # rounding
        beaten = (
            f". It is above its own {summary['ngram_order']}-gram: more --minutes, or a smaller net, would do better"
        )
    return (
        f"{settings.task}: {measured_on(settings)} loss {summary['val_loss']:.4f} nats per token, "
        f"{per_char:.4f} per character ({summary['val_bits_per_char']:.3f} bits; n = 1 run). "
        f"Per character: {anchor_words(summary)}{beaten}"
    )


def anchor_words(anchors: dict[str, Any]) -> str:
    """`static 7-gram 1.516; adaptive PPMd 1.406`: nats per character, of compressors the better one that there is."""
    static = f"static {anchors['ngram_order']}-gram {anchors['ngram_nats_per_char']:.3f}"
    adaptive = [
        f"{name} {anchors[key]:.3f}"
        for name, key in (("PPMd", "ppmd_nats_per_char"), ("xz", "xz_nats_per_char"))
        if anchors[key] is not None
    ]
    return f"{static}; adaptive {adaptive[0]}"


def draw_so_far(run: Run, learner: Learner, to_beat: dict[str, Any]) -> bool:
    """loss.png of a run that still goes on; False before its third row."""
    from lm_report import train_figures  # here, as below: what ends earlier needs no figures

    metrics = read_metrics(run.folder / "metrics.csv")
    if len(metrics["step"]) < 3:
        return False
    text = learner.text
    if text is None:
        assert isinstance(learner.task, IntegerTask)
        train_figures.integer_figure(metrics, None, learner.task, run.folder / "loss")
    else:
        numbers = {**to_beat, "val_tokens": len(text.validation) - 1, "val_characters": text.characters}
        what = measured_on(learner.settings)
        train_figures.text_figure(metrics, None, numbers, learner.settings.task, run.folder / "loss", what)
    return True


def measured_on(settings: Settings) -> str:
    """Which text the losses are of."""
    return "development" if settings.development else "validation"


def report(run: Run, learner: Learner, to_beat: dict[str, Any], mixture: Mixture | None) -> dict[str, Any]:
    """Final evaluation and sample, with the tables that figures are drawn from; the summary's numbers."""
    from lm_report.run_pictures import keep_attention, keep_positions

    metrics = read_metrics(run.folder / "metrics.csv")
    noise = noise_summary(metrics, learner.model.shape.context) if learner.tracker else {}
    if learner.text is None:
        assert isinstance(learner.task, IntegerTask)
        numbers, by_position = integer_summary(learner, learner.task)
        keep_attention(run.folder, learner.model, learner.task)
    else:
        assert mixture is not None
        numbers, by_position, sample = text_summary(learner, learner.text, mixture, to_beat)
        write_text(run.folder / "sample.txt", sample)
        print(f"\n{sample.strip()}\n")
        print(
            f"longest verbatim match of this sample with the training text: {numbers['sample_longest_match']} "
            f"characters, {numbers['sample_longest_match_text']!r}"
        )
    keep_positions(run.folder, by_position)
    return numbers | noise


def draw(folder: Path) -> None:
    """All figures of a run folder from its tables; BadInput where one is missing."""
    from lm_report.run_pictures import draw_run

    draw_run(folder)


def draw_missing(folder: Path) -> None:
    """What a finished run lacks of its figures, and say so."""
    from lm_report.run_pictures import figures_due

    if due := figures_due(folder):
        print(f"drawn again, since missing: {', '.join(due)}")
        attempt(lambda: draw(folder), due[0])
