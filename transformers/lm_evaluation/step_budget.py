"""How many steps fit into `--minutes`: a guess from a short measurement, decided for good while training is under way.

The number is kept in plan.json, so that a run that was stopped, and one that repeats it, make exactly as many.
"""

import itertools
import math
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from common.device import configure_cpu, faster_threads, synchronize, threads_asked
from common.errors import BadInput
from common.files import load_checkpoint, read_json, read_record, write_record
from common.provenance import available_cores
from common.run import Run
from lm_evaluation.lm_losses import window_losses
from lm_evaluation.measurements import no_places_yet, predictions_to_make
from lm_evaluation.neighbours import MOST_PLACES
from lm_settings.train_settings import USUAL_STEPS, Settings
from optimisation.learning_rates import FLAT
from optimisation.lm_learner import Learner
from texts.tokenized_text import Text

ROWS = 24  # of metrics.csv, denser at the beginning
FEWEST_ROWS = 6  # of each of several nets
QUICK_SECONDS = 10.0  # of training that the quick preset gets at least, on a slow machine too
EPOCHS = 6.0  # readings of a text after which another net helps more
MOST_MEMBERS = 8
REVISE = 0.3  # of the planned steps, after which their number is decided for good; less than FLAT
FINISH_SECONDS = 4.0  # figures, the last checkpoint
SAMPLE_SECONDS = 1.0  # of each net, for its part in a sample of SAMPLE_TOKENS
COUNT_SECONDS = 2.5e-6  # a token, to count the n-gram that is mixed in
COMPARE_SECONDS = (1.6e-11, 1e-13)  # a pair of places, of which one in a hundred is looked at; and each channel of it
CALIBRATION_SECONDS = 0.7  # a guess is enough: `revise` decides

Update = Callable[[Learner, int, int], Tensor]  # train.py's step: what learns, the step's number, the steps in all


class Clock:
    """Seconds of training, and minutes since the command began; with those of earlier processes that were stopped."""

    def __init__(self, started: float):
        self._started = self._began = started
        self._seconds = self._minutes = 0.0

    def training_begins(self, seconds: float = 0.0, minutes: float = 0.0) -> None:
        """Now; earlier processes have trained for so many seconds, and took so many minutes."""
        self._began = time.perf_counter()
        self._seconds, self._minutes = seconds, minutes

    @property
    def seconds(self) -> float:
        return self._seconds + time.perf_counter() - self._began

    @property
    def minutes(self) -> float:
        return self._minutes + (time.perf_counter() - self._started) / 60


@dataclass(frozen=True)
class Plan:
    """`steps` in all. For `--minutes` it is decided twice: a first guess, and after `revised_at` steps for good."""

    steps: int
    first_steps: int
    revised_at: int | None = None
    final: bool = True
    deadline_minutes: float = 0.0
    """when training is to end, in minutes since the command began; 0 where the steps were given"""
    most_each: int = 0
    """steps beyond which more would do a net no good; 0: none"""
    members: int = 1
    """nets that are trained one after the other, with as many steps each"""
    threads: int = 0
    """of the CPU: sums over another number of them are not the same to the bit; 0 on an accelerator"""

    @property
    def steps_each(self) -> int:
        """The steps of one net."""
        return self.steps // self.members

    @cached_property
    def rows(self) -> list[int]:
        """The steps after which a row of metrics.csv is written, about ROWS, denser where a net begins."""
        of_each = max(FEWEST_ROWS, ROWS // self.members)

        def of_all(each: int) -> set[int]:
            places = {max(1, round(each * (i / of_each) ** 1.5)) for i in range(1, of_each + 1)}
            return {member * each + place for member in range(self.members) for place in places}

        first, last = of_all(self.first_steps // self.members), of_all(self.steps_each)
        cut = self.revised_at or 0
        return sorted({row for row in first if row <= cut} | {row for row in last if row > cut})


def make_plan(learner: Learner, run: Run, clock: Clock, update: Update) -> Plan:
    """The number of steps: given, or as many as fit into `--minutes`; kept in plan.json, so that a rerun is exact.

    `--from-config` takes the plan beside that config.json; where code or settings differ, its number of steps.
    """
    settings = learner.settings
    file = run.folder / "plan.json"
    given = Path(settings.from_config).parent / "plan.json" if settings.from_config else file
    if plan := kept_plan(run, file) or kept_plan(run, given):
        use_threads(plan, learner)
        keep_plan(run, plan)
        return plan
    if (run.folder / "checkpoint.pt").exists():  # plan.json has been lost; a checkpoint holds its plan too
        plan = Plan(**load_checkpoint(run.folder / "checkpoint.pt", ("plan",))["plan"])
        use_threads(plan, learner)
        keep_plan(run, plan)
        return plan
    twin = Learner(settings, learner.text, learner.device, learner.model.compute)
    threads = choose_threads(twin, update)
    if steps := settings.steps or steps_of(given, settings):
        members = max(1, settings.members)
        if steps % members:
            raise BadInput(f"--steps {steps} cannot be shared by --members {members}: give a multiple")
        plan = Plan(steps, steps, members=members, threads=threads)
    else:
        plan = plan_for_minutes(learner, run, clock, twin, update, threads)
    keep_plan(run, plan)
    return plan


def choose_threads(twin: Learner, update: Update) -> int:
    """Threads for training on a CPU: those asked for, else one or all, whichever is faster now; 0 elsewhere."""
    if twin.device.type != "cpu":
        return 0
    count = itertools.count()
    if asked := threads_asked(twin.settings.threads or None):
        threads, why = asked
        configure_cpu(threads)
    else:
        threads, why = faster_threads(lambda: update(twin, next(count), 1000), available_cores())
    print(f"threads: {threads} ({why})")
    return threads


def use_threads(plan: Plan, learner: Learner) -> None:
    """As many as the plan was made with, so that its numbers come again to the bit."""
    if learner.device.type == "cpu" and plan.threads:
        configure_cpu(plan.threads)


def steps_of(file: Path, settings: Settings) -> int:
    """The steps that another run's plan.json came to, where that is repeated and no other time was asked for; else 0."""
    if not settings.from_config or not file.exists():
        return 0
    kept = read_json(file)
    try:
        steps, minutes = int(kept["steps"]), kept["config"]["minutes"]
    except (KeyError, TypeError, ValueError):
        raise BadInput(f"{file} is damaged: delete it, or give --steps") from None
    if minutes != settings.minutes:
        return 0
    print(f"NOTE: {steps:,} steps, as in {file}, though not all is as it was there")
    return steps


def plan_for_minutes(learner: Learner, run: Run, clock: Clock, twin: Learner, update: Update, threads: int) -> Plan:
    """As many steps as fit into `--minutes`, from a short measurement on a twin that is thrown away.

    BadInput that names a budget which would do, where none fits.
    """
    settings = learner.settings
    step_seconds, token_seconds = calibrate(twin, update)
    members = settings.members or 1
    deadline, left = time_to_train(learner, clock, members, token_seconds)
    if not settings.members and (members := members_for(learner, int(left / step_seconds))) > 1:
        deadline, left = time_to_train(learner, clock, members, token_seconds)
    most = steps_of_use(learner) if members == MOST_MEMBERS and not settings.members else 0
    steps = min(int(left / step_seconds) // members, most or sys.maxsize) * members
    if steps < 1:
        run.close()
        shutil.rmtree(run.folder)  # nothing is in it yet, and another budget may want its name
        needed = math.ceil(11 * (settings.minutes + (2 * ROWS * step_seconds - left) / 60)) / 10  # with some to spare
        raise BadInput(
            f"--minutes {settings.minutes:g} is too short: start-up and evaluation alone take that long here; "
            f"from --minutes {needed:g} on there is time for some steps"
        )
    usual = round(USUAL_STEPS[settings.task] * settings.minutes)
    if steps < usual / 4 and settings.preset != "quick":
        print(
            f"NOTE: about {steps:,} steps fit into {settings.minutes:g} minutes here, where {usual:,} are usual: this "
            "machine is slow or busy, or the net large; more --minutes, or --steps, would train as long"
        )
    # While the learning rate is flat, the number of steps has had no influence yet and can still be corrected. The
    # paper's schedule is never flat: there the first guess stays.
    revised_at = None if learner.paper else int(REVISE * steps / members) or None
    return Plan(
        steps,
        steps,
        revised_at,
        final=revised_at is None,
        deadline_minutes=deadline,
        members=members,
        most_each=most,
        threads=threads,
    )


def time_to_train(learner: Learner, clock: Clock, members: int, token_seconds: float) -> tuple[float, float]:
    """When training has to end, in minutes since the command began, and the seconds that are left for its steps."""
    last, point = predictions_to_make(learner)
    finish = FINISH_SECONDS + members * (last * token_seconds + SAMPLE_SECONDS)
    if learner.text is not None:
        finish += COUNT_SECONDS * len(learner.text.learnt)
        finish += len(no_places_yet(learner, members)) * neighbour_seconds(learner, learner.text, token_seconds)
    deadline = learner.settings.minutes - finish / 60
    left = 60 * (deadline - clock.minutes) - ROWS * point * token_seconds
    return deadline, max(left, QUICK_SECONDS) if learner.settings.preset == "quick" else left


def neighbour_seconds(learner: Learner, text: Text, token_seconds: float) -> float:
    """One net's: to read what is kept of the training text, and to compare with it two readings of the validation text."""
    kept = min(MOST_PLACES, len(text.learnt))
    faster = 3 if learner.dtype == torch.bfloat16 else 1  # than the predictions in fp32, of which token_seconds is
    pair = COMPARE_SECONDS[0] + COMPARE_SECONDS[1] * learner.settings.width
    return kept * token_seconds / faster + pair * kept * 2 * len(text.validation)


def kept_plan(run: Run, file: Path) -> Plan | None:
    """The plan in a file, if that is there and for the numbers of this run."""
    kept = read_json(file) if file.exists() else None
    if not isinstance(kept, dict) or kept.get("config") != run.config:
        return None
    kept = read_record(file)
    del kept["config"]
    if set(kept) != {field.name for field in fields(Plan)}:
        raise BadInput(f"{file} is damaged: delete it and run the command again")
    return Plan(**kept)


def keep_plan(run: Run, plan: Plan) -> None:
    """Write plan.json."""
    write_record(run.folder / "plan.json", {**asdict(plan), "config": run.config})


def decide(plan: Plan, run: Run, learner: Learner, clock: Clock, done: int) -> Plan:
    """The plan for good, now that so many steps are done; kept."""
    synchronize(learner.device)
    pace = clock.seconds / done  # of a step with its share of the rows
    plan = revise(plan, done, clock.minutes, pace)
    keep_plan(run, plan)
    return plan


def revise(plan: Plan, done: int, minutes: float, step_seconds: float) -> Plan:
    """The plan again, from the speed of the steps `done` in so many `minutes` since the command began.

    The flat part of the schedule must not have ended, so the run never gets much shorter than it is.
    """
    left = int(60 * (plan.deadline_minutes - minutes) / step_seconds)
    each = max(min((done + left) // plan.members, plan.most_each or sys.maxsize), math.ceil(done / FLAT) + 1)
    return replace(plan, steps=plan.members * each, final=True)


def members_for(learner: Learner, steps: int) -> int:
    """How many nets to train in so many steps: a text gives a net EPOCHS times its length to learn, and no more."""
    if learner.text is None or learner.paper:
        return 1
    return min(MOST_MEMBERS, max(1, round(steps / steps_of_use(learner))))


def steps_of_use(learner: Learner) -> int:
    """The steps in which a text is read EPOCHS times."""
    assert learner.text is not None
    return max(1, round(EPOCHS * len(learner.text.learnt) / learner.tokens_per_step))


def calibrate(twin: Learner, update: Update) -> tuple[float, float]:
    """Seconds of a training step and of one prediction in fp32, measured on a twin that is thrown away."""
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 4 or (time.perf_counter() - began < CALIBRATION_SECONDS and len(times) < 400):
        start = time.perf_counter()
        update(twin, len(times), 1000)
        synchronize(twin.device)
        times.append(time.perf_counter() - start)
    context = twin.model.shape.context
    windows = torch.zeros(max(1, 8192 // context), context + 1, dtype=torch.uint8)
    start = time.perf_counter()
    window_losses(twin.model, windows)
    return statistics.mean(times[3:]), (time.perf_counter() - start) / windows[:, 1:].numel()
