"""One training run: a net of one width sees n_samples transformed digits once, and is tested at the end.

Everything that fixes the numbers of a run is here, in `convnet.py` and in `digits.py`; the name of a sweep's folder
depends on the text of these three files.
"""

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.device import configure_cpu, keep_freed_memory, synchronize
from common.errors import BadInput
from common.files import load_checkpoint, save_checkpoint
from convnet import ConvNet, macs_per_image, n_params, training_flops
from digits import gather, normalise, open_digits, training_order

# The learning rate's rule lr = LR0 (8 / width)^LR_WIDTH (20,000 / n_samples)^LR_SAMPLES, from
# results/reference/scaling_laws/tuning/tuning.csv (fit: `lr_rule` in tuning.py; tests recompute it).
LR0, LR_WIDTH, LR_SAMPLES = 0.00943, 0.621, -0.045
LR_MAX = 0.05
WARM_UP = 0.05  # fraction of the run: a fixed number of steps would tax the short runs (Porian et al. 2024)
ADAM_BETAS = (0.9, 0.99)  # runs of a few hundred steps: 0.999 would still remember the first gradients at the end
CHUNK_IMAGES = 4096  # images fetched from the memory map at a time
EVALUATION_BATCH = 500
CHECK_STEPS = 200  # between looks at whether the loss is still finite
CHECKPOINT_SECONDS = 30.0


def start_worker(threads: int) -> None:
    """What a worker process does once, before its first run."""
    configure_cpu(threads)
    keep_freed_memory()


def batch_size(n_samples: int) -> int:
    """4 … 64, close to 12 sqrt(n_samples / 10,000).

    A short run needs its steps: at 1,719 samples batch 64 has about four times the loss of batch 4, while at 110,000
    samples it loses nothing (results/reference/scaling_laws/tuning/batch.csv). With one batch size for all, the
    exponent of the data would be an exponent of optimisation steps.
    """
    exact = math.log2(12 * math.sqrt(n_samples / 10_000))
    return 2 ** min(6, max(2, round(exact)))


def seeds_together(width: int, batch: int, device: str) -> bool:
    """Whether the seeds of a cell train side by side in one `ConvNet`.

    On an accelerator always: a step there costs its launches. On a CPU while a step's activations of all seeds fit into
    a core's cache; three together then take 0.4 (small batches) to 0.9 of the time of three alone.
    """
    return device != "cpu" or width * batch <= 768


def learning_rate(
    width: int, n_samples: int, lr0: float = LR0, lr_width: float = LR_WIDTH, lr_samples: float = LR_SAMPLES
) -> float:
    """The peak learning rate of a run, by the rule above or by one with other constants."""
    return min(LR_MAX, lr0 * (8 / width) ** lr_width * (20_000 / n_samples) ** lr_samples)


def schedule(fraction: float) -> float:
    """Multiplier of the learning rate at a fraction of the run: linear warm-up, then linear decay to 0 at its end."""
    return min(fraction / WARM_UP, (1 - fraction) / (1 - WARM_UP))


def run_generator(*key: int) -> torch.Generator:
    """Random numbers of a run's weights, order and subset: neither two seeds nor two cells of one seed share any."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))


def train_cell(
    folder: str,
    arm: str,
    width: int,
    n_samples: int,
    seeds: Sequence[int],
    lr: float,
    batch: int,
    dropout: float,
    split: str,
    device: str,
    checkpoint: str,
) -> dict[str, Any]:
    """Train and test one net per seed, side by side; return {"rows": their rows of runs.csv}.

    Each seed has its own weights, order and subset. `folder` is a prepared folder of digits with its copies, `split`
    names the evaluation set (test, or tune where hyper-parameters are chosen), `checkpoint` the file in which a run of
    more than 30 s saves its state: started again, it goes on from there to the same numbers.
    """
    pool_size = len(np.load(Path(folder) / "pool_labels.npy", mmap_mode="r"))
    copies = -(-n_samples // pool_size)
    digits = open_digits(folder, copies)
    generators = [run_generator(width, n_samples, seed) for seed in seeds]
    torch.manual_seed(seeds[0])  # dropout draws from the global generator
    net = ConvNet(width, len(seeds), dropout)
    net.init_weights(generators)
    net.place(torch.device(device))
    orders = [training_order(n_samples, pool_size, generator) for generator in generators]
    order = Order(*(torch.stack(part, 1) for part in zip(*orders, strict=True)))
    train_losses, seconds = train(net, digits.copies, digits.pool_labels, order, lr, batch, Path(checkpoint))
    held_out = {"tune": (digits.tune_images, digits.tune_labels), "test": (digits.test_images, digits.test_labels)}
    losses, accuracies = evaluate(net, *held_out[split])
    seconds /= len(seeds)  # of one net
    rows = [
        {
            "arm": arm,
            "status": "ok" if math.isfinite(loss) else "diverged",
            "width": width,
            "n_params": n_params(width),
            "macs": macs_per_image(width),
            "n_samples": n_samples,
            "n_unique": min(n_samples, pool_size),
            "copies": copies,
            "batch_size": batch,
            "steps": -(-n_samples // batch),
            "lr": lr,
            "dropout": dropout,
            "seed": seed,
            "flops": training_flops(width, n_samples),
            f"{split}_loss": finite(loss),
            f"{split}_accuracy": accuracy,
            "train_loss": finite(train_loss),
            "seconds": round(seconds, 4),
            "images_per_second": round(n_samples / seconds, 1),
            "device": device,
        }
        for seed, loss, accuracy, train_loss in zip(seeds, losses, accuracies, train_losses, strict=True)
    ]
    return {"rows": rows}


def finite(value: float) -> float | None:
    """The value, or None for nan and infinity, which JSON does not have."""
    return value if math.isfinite(value) else None


class Order(NamedTuple):
    """Which image each of K nets sees when: copy and image indices, each (n_samples, K)."""

    copy: Tensor
    image: Tensor


def train(
    net: ConvNet,
    copies: list[np.ndarray],
    labels: np.ndarray,
    order: Order,
    lr: float,
    batch: int,
    checkpoint: Path | None = None,
) -> tuple[list[float], float]:
    """One pass over the images that `order` names; each net's mean loss in the last tenth of the steps, and seconds.

    Adam with the learning rate `lr` times `schedule`. Stops early when no net's loss is finite any more.
    """
    device = net.conv1.weight.device
    target = torch.from_numpy(np.asarray(labels, dtype=np.int64))[order.image]  # (n_samples, K)
    steps = -(-len(target) // batch)
    optimizer = Adam(net)
    first, before, late = _resume(checkpoint, net, optimizer)
    late_steps = range(math.floor(0.9 * steps), steps)
    chunk_steps = max(1, CHUNK_IMAGES // (batch * net.members))
    images: Iterator[Tensor] = iter(())
    targets: Iterator[Tensor] = iter(())
    net.train()
    started = saved = time.perf_counter()
    for step in range(first, steps):
        if step == first or step % chunk_steps == 0:
            end = (step // chunk_steps + 1) * chunk_steps * batch
            rows = slice(step * batch, end)
            images = iter(gather(copies, order.copy[rows], order.image[rows]).to(device).split(batch))
            targets = iter(target[rows].to(device).split(batch))
        losses = cross_entropy(net(normalise(next(images))), next(targets).T)  # (K,)
        losses.sum().backward()  # the nets share no weight: each gets the gradient of its own loss
        optimizer.step(lr * schedule((step + 0.5) / steps))
        if step in late_steps:
            late = late + losses.detach()
        # Asking for a number waits for an accelerator, so this is done rarely.
        if step % CHECK_STEPS == CHECK_STEPS - 1:
            if not bool(losses.isfinite().any()):
                late = late + math.nan
                break
            if checkpoint and time.perf_counter() - saved > CHECKPOINT_SECONDS:
                saved = time.perf_counter()
                _save(checkpoint, optimizer, step + 1, before + saved - started, late)
    synchronize(device)
    seconds = before + time.perf_counter() - started
    return (late / len(late_steps)).tolist(), seconds


class Adam:
    """Adam (Kingma & Ba 2015, algorithm 1) over all parameters of a net as one vector.

    The parameters and their gradients become views into two flat tensors, so that a step is six operations, however
    many layers there are: `torch.optim.Adam` spends up to a quarter of a small net's step on getting to them.
    """

    def __init__(self, net: torch.nn.Module, betas: tuple[float, float] = ADAM_BETAS, eps: float = 1e-8):
        parameters = list(net.parameters())
        sizes = [parameter.numel() for parameter in parameters]
        self.betas, self.eps, self.steps = betas, eps, 0
        self.weights = parameters[0].new_zeros(sum(sizes), requires_grad=False)
        self.gradient, self.mean, self.square = (torch.zeros_like(self.weights) for _ in range(3))
        begin = 0
        for parameter, size in zip(parameters, sizes, strict=True):
            place = (parameter.size(), parameter.stride(), begin)  # a view keeps the layer's memory format
            view = self.weights.as_strided(*place)
            view.copy_(parameter.detach())
            parameter.data, parameter.grad = view, self.gradient.as_strided(*place)
            begin += size

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """One update from the gradients that backward() has added up, which are then zero again."""
        self.steps += 1
        first, second = self.betas
        self.mean.lerp_(self.gradient, 1 - first)
        self.square.mul_(second).addcmul_(self.gradient, self.gradient, value=1 - second)
        spread = self.square.sqrt().div_(math.sqrt(1 - second**self.steps)).add_(self.eps)
        self.weights.addcdiv_(self.mean, spread, value=-lr / (1 - first**self.steps))
        self.gradient.zero_()

    def state(self) -> dict[str, Any]:
        """All that a checkpoint needs, the weights included."""
        return {"weights": self.weights, "mean": self.mean, "square": self.square, "steps": self.steps}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a `state()`."""
        for name in ("weights", "mean", "square"):
            getattr(self, name).copy_(state[name])
        self.steps = state["steps"]


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy in nats of each net, (K,): logits (K, B, 10), target (K, B)."""
    members, batch, classes = logits.shape
    losses = F.cross_entropy(logits.reshape(-1, classes), target.reshape(-1), reduction="none")
    return losses.view(members, batch).mean(1)


def _save(path: Path, optimizer: Adam, step: int, seconds: float, late: Tensor) -> None:
    state = {"step": step, "seconds": seconds, "late": late.cpu(), "rng": torch.get_rng_state()}
    save_checkpoint(path, {**state, "adam": optimizer.state()})


def _resume(path: Path | None, net: ConvNet, optimizer: Adam) -> tuple[int, float, Tensor]:
    """The first step to take, the seconds already trained, and the sum of late losses."""
    device = net.conv1.weight.device
    if path is None or not path.exists():
        return 0, 0.0, torch.zeros(net.members, device=device)
    try:
        state = load_checkpoint(path)
    except BadInput:  # damaged since it was written: the run starts again
        path.unlink()
        return 0, 0.0, torch.zeros(net.members, device=device)
    optimizer.load(state["adam"])
    torch.set_rng_state(state["rng"])
    return state["step"], state["seconds"], state["late"].to(device)


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


def measure_speed(width: int, batch: int, members: int, device: str, seconds: float = 0.3) -> dict[str, float]:
    """Training images per second of `members` nets on random digits, for the plan's estimate: a job of the pool."""
    generator = torch.Generator().manual_seed(0)
    net = ConvNet(width, members)
    net.init_weights([generator] * members)
    net.place(torch.device(device))
    copies = [torch.randint(0, 256, (2048, 28, 28), generator=generator, dtype=torch.uint8).numpy()]
    labels = torch.randint(0, 10, (2048,), generator=generator).numpy()

    def one_pass(n_samples: int) -> float:
        order = training_order(n_samples, 2048, generator)
        together = Order(*(part[:, None].expand(-1, members) for part in order))
        return train(net, copies, labels, together, 1e-3, batch)[1]

    one_pass(5 * batch)  # warm up
    passes = spent = 0.0
    while spent < seconds:
        spent += one_pass(512)
        passes += 1
    images = 512 * members * passes
    return {"width": width, "batch_size": batch, "members": members, "images_per_second": images / spent}
