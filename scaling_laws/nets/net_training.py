"""One training run: K nets side by side see their images once, and are tested at the end.

for x, y in batches(order):
    losses = cross_entropy(net(x), y)               one for each net
    losses.sum().backward()
    adam.step(lr * schedule(done / steps))
"""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.device import synchronize
from nets.cell_progress import CellProgress
from nets.convnet import ConvNet
from nets.digits import gather, normalise
from nets.flat_adam import Adam
from nets.learning_rate import USUAL, WARM_UP, Variant, schedule

CHUNK_IMAGES = 4096  # images fetched from the memory map at a time
EVALUATION_BATCH = 500
CHECK_STEPS = 200  # between looks at whether the loss is still finite


class Order(NamedTuple):
    """Which image each of K nets sees when: copy and image indices, each (n_samples, K)."""

    copy: Tensor
    image: Tensor


class Trained(NamedTuple):
    """Each net's mean loss in the last tenth of the steps, the seconds, and the tests on the way, each (2, K)."""

    late_losses: list[float]
    seconds: float
    tested: list[Tensor]


def side_by_side(orders: Sequence[tuple[Tensor, Tensor]]) -> Order:
    """The order of K nets from that of each, two tensors (n_samples,)."""
    return Order(*(torch.stack(part, 1) for part in zip(*orders, strict=True)))


def batches(
    copies: list[np.ndarray], target: Tensor, order: Order, batch: int, first: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images (B, K, 28, 28) in uint8 and labels (K, B) of every step from `first` on; target (n_samples, K)."""
    chunk = batch * max(1, CHUNK_IMAGES // (batch * target.shape[1]))
    begin = first * batch
    while begin < len(target):
        end = (begin // chunk + 1) * chunk  # a run that goes on fetches the rest of the chunk that it stopped in
        images = gather(copies, order.copy[begin:end], order.image[begin:end]).to(device)
        targets = target[begin:end].to(device)
        yield from zip(images.split(batch), (part.T for part in targets.split(batch)), strict=True)
        begin = end


def train(
    net: ConvNet,
    copies: list[np.ndarray],
    labels: np.ndarray,
    order: Order,
    lr: float,
    batch: int,
    checkpoint: Path | None = None,
    variant: Variant = USUAL,
    test: Callable[[], Tensor] | None = None,
) -> Trained:
    """One pass over the images that `order` names.

    Adam with the learning rate `lr` times `schedule`. Stops early when no net's loss is finite any more. `test` tests the
    nets after the numbers of samples that the `variant` names: loss and accuracy of each, (2, K).
    """
    device = net.conv1.weight.device
    target = torch.from_numpy(np.asarray(labels, dtype=np.int64))[order.image]  # (n_samples, K)
    steps = -(-len(target) // batch)
    warm_up = variant.warm_up_steps / steps if variant.warm_up_steps else WARM_UP
    test_steps = {-(-n // batch) for n in variant.tested_after}
    late_steps = range(math.floor(0.9 * steps), steps)
    optimizer = Adam(net)
    progress = CellProgress(checkpoint, optimizer, net.members)
    first = progress.step
    net.train()
    for step, (x, y) in enumerate(batches(copies, target, order, batch, first, device), first):
        losses = cross_entropy(net(normalise(x)), y)  # (K,)
        losses.sum().backward()  # the nets share no weight: each gets the gradient of its own loss
        optimizer.step(lr * schedule((step + 0.5) / steps, warm_up, not variant.constant_rate))
        if step in late_steps:
            progress.late = progress.late + losses.detach()
        if test is not None and step + 1 in test_steps:
            progress.tested.append(test().cpu())
            net.train()
        # Asking for a number waits for an accelerator, so this is done rarely.
        if step % CHECK_STEPS == CHECK_STEPS - 1:
            if not bool(losses.isfinite().any()):
                progress.late = progress.late + math.nan
                break
            progress.save(step + 1)
    synchronize(device)
    return Trained((progress.late / len(late_steps)).tolist(), progress.seconds, progress.tested)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy in nats of each net, (K,): logits (K, B, 10), target (K, B)."""
    members, batch, classes = logits.shape
    losses = F.cross_entropy(logits.reshape(-1, classes), target.reshape(-1), reduction="none")
    return losses.view(members, batch).mean(1)


@torch.no_grad()
def evaluate(net: ConvNet, images: np.ndarray, labels: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean cross-entropy in nats and accuracy of each net over all of `images`, clean."""
    net.eval()
    device = net.conv1.weight.device
    loss = correct = torch.zeros(net.members, device=device)
    for begin in range(0, len(images), EVALUATION_BATCH):
        rows = slice(begin, begin + EVALUATION_BATCH)
        x = normalise(torch.from_numpy(np.array(images[rows])).to(device)[:, None])
        y = torch.from_numpy(np.array(labels[rows], dtype=np.int64)).to(device)
        logits = net(x.expand(-1, net.members, -1, -1).contiguous())  # (K, B, 10)
        loss = loss + cross_entropy(logits, y.expand(net.members, -1)) * len(y)
        correct = correct + (logits.argmax(2) == y).sum(1)
    return (loss / len(images)).tolist(), (correct / len(images)).tolist()
