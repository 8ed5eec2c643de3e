"""Loss of a trained decoder on a whole text or on fresh integers, in fp32 unless said otherwise."""

import contextlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from decoder_model.decoder import Decoder
from texts.integer_tasks import EVALUATION, IntegerTask

TOKENS_AT_ONCE = 8192
SEQUENCES = 1024  # fresh ones that an integer task is measured on


@contextlib.contextmanager
def evaluating(model: Decoder, dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """No dropout, no gradients, activations in `dtype`; what was set before is set again."""
    was_training, compute = model.training, model.compute
    model.eval()
    model.compute = dtype
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
        model.compute = compute


def some_at_a_time(model: Decoder, windows: Tensor) -> Iterator[Tensor]:
    """Windows (W, T + 1) in parts (w, T + 1) of TOKENS_AT_ONCE, on the model's device."""
    for part in windows.split(max(1, TOKENS_AT_ONCE // windows.size(1))):
        yield part.to(model.embedding.device).long()


def losses_in(model: Decoder, states: Tensor, windows: Tensor) -> Tensor:
    """Nats of tokens 1 … T of windows (w, T + 1), predicted in the states (w, T, C): (w, T), on the CPU."""
    logits = model.logits(states).flatten(0, 1)
    return F.cross_entropy(logits, windows[:, 1:].flatten(), reduction="none").view(len(windows), -1).cpu()


def directions(states: Tensor) -> Tensor:
    """States (…, C) of length 1, as they are kept and compared: in bf16, on the CPU."""
    return F.normalize(states.float(), dim=-1).bfloat16().cpu()


def window_losses(model: Decoder, windows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Nats of tokens 1 … T of each window (W, T + 1), with nothing before its token 0: (W, T), on the CPU."""
    with evaluating(model, dtype):
        parts = some_at_a_time(model, windows)
        return torch.cat([losses_in(model, model.states(part[:, :-1]), part) for part in parts])


def window_directions(model: Decoder, windows: Tensor, dtype: torch.dtype) -> Tensor:
    """The directions of the states that predict tokens 1 … T of each window (W, T + 1): (W, T, C), on the CPU."""
    with evaluating(model, dtype):
        return torch.cat([directions(model.states(part[:, :-1])) for part in some_at_a_time(model, windows)])


@dataclass(frozen=True)
class Reading:
    """Of the tokens 1 … n - 1 of a text: nats (n - 1,), and the directions of the states that predict them."""

    losses: np.ndarray
    states: Tensor
    """(n - 1, C) in bf16, on the CPU"""

    def keep(self, start: int, new: int, end: int, losses: np.ndarray, states: Tensor) -> None:
        """Of a window that begins at `start`, with losses (T,) and states (T, C), take those from `new` on up to `end`."""
        self.losses[start + new : end] = losses[new : end - start]
        self.states[start + new : end] = states[new : end - start]


def token_losses(model: Decoder, ids: Tensor, context: int) -> tuple[np.ndarray, np.ndarray]:
    """Nats of tokens 1 … n - 1 of the text `ids` (n,), in windows that start cold and in sliding ones (`read_text`)."""
    cold, sliding = read_text(model, ids, context)
    return cold.losses, sliding.losses


def read_text(model: Decoder, ids: Tensor, context: int, dtype: torch.dtype = torch.float32) -> tuple[Reading, Reading]:
    """Each of the tokens 1 … n - 1 of the text `ids` (n,) predicted from those before it in its window, in two ways.

    Cold: windows of `context` predictions that do not overlap, so that a token has context / 2 tokens before it on
    average. Sliding: windows start context / 2 apart and each scores its second half (the first one all), so that every
    token but the first few has at least context / 2 tokens before it. An even context makes every second one cold.
    """
    stride = max(1, context // 2)
    n = len(ids) - 1
    starts = torch.tensor(sorted({*range(0, n, stride), *range(0, n, context)}))
    # The last windows reach beyond the text. They are filled up with copies of the last token, which, being later,
    # change nothing before them.
    windows = ids.cpu()[(starts[:, None] + torch.arange(context + 1)).clamp(max=n)]
    cold, sliding = (
        Reading(np.empty(n, dtype=np.float32), torch.empty(n, model.shape.width, dtype=torch.bfloat16))
        for _ in range(2)
    )
    at = iter(starts.tolist())
    with evaluating(model, dtype):
        for part in some_at_a_time(model, windows):
            states = model.states(part[:, :-1])
            losses, found = losses_in(model, states, part).numpy(), directions(states)
            for start, window, of_window in zip(itertools.islice(at, len(part)), losses, found, strict=True):
                end = min(start + context, n)
                if start % context == 0:
                    cold.keep(start, 0, end, window, of_window)
                if start % stride == 0:
                    sliding.keep(start, 0 if start == 0 else context - stride, end, window, of_window)
    return cold, sliding


@dataclass(frozen=True)
class IntegerScore:
    """Losses in nats: `loss` of all targets, `second_half_loss` and `accuracy` of those that are determined."""

    loss: float
    second_half_loss: float
    accuracy: float
    by_position: np.ndarray


def score_integers(model: Decoder, task: IntegerTask, count: int = SEQUENCES) -> IntegerScore:
    """The model on `count` sequences drawn for evaluation (a short task has so few that training has seen them too)."""
    by_position = np.zeros(task.context)
    scored_loss, scored, right, done = 0.0, 0, 0, 0
    with evaluating(model):
        while done < count:
            batch = min(count - done, max(1, TOKENS_AT_ONCE // task.context))
            sequences = task.draw(batch, EVALUATION + done)
            logits = model(sequences.inputs)
            loss = F.cross_entropy(logits.flatten(0, 1), sequences.targets.flatten(), reduction="none").view(batch, -1)
            mask = task.scored(sequences)
            by_position += loss.sum(0).cpu().numpy() / count
            scored_loss += float(loss[mask].sum())
            scored += int(mask.sum())
            right += int((logits.argmax(-1) == sequences.targets)[mask].sum())
            done += batch
    return IntegerScore(float(by_position.mean()), scored_loss / scored, right / scored, by_position)


def bits_per_character(nats: float, characters: int) -> float:
    """Total nats of a text to bits per character: nats / (characters ln 2), whatever the tokens."""
    return nats / (characters * math.log(2))
