"""What keeps a training loop's results while it runs, so that the loop itself is only about learning."""

import contextlib
import time
from collections.abc import Callable
from typing import Any

from common.live import LiveFigure
from common.progress import progress_bar
from common.run import Run
from common.stopping import Interrupt


class Keeper:
    """The progress bar, the rows, the checkpoints, the figure on the way and Ctrl-C of one training loop.

        with Keeper(run, total, state, done) as keep:
            while keep.done < keep.total:
                ...                                # learn
                keep.made(done)
                keep.row("loss 1.23", step=done, loss=1.23)   # where one is due
                keep.save()                        # writes a checkpoint where one is due

    `state()` is what a checkpoint holds, or None where nothing is worth keeping and the last one stays. A checkpoint is
    written every `seconds`, at the end, and on Ctrl-C and the like, which `save` then passes on. `quiet` shows no bar and is
    deaf to them: a worker's parent hears them.
    """

    def __init__(
        self,
        run: Run,
        total: int,
        state: Callable[[], dict[str, Any] | None],
        done: int = 0,
        seconds: float = 30.0,
        figure: LiveFigure | None = None,
        quiet: bool = False,
        **bar: Any,
    ):
        self.run, self.state, self.done, self.seconds = run, state, done, seconds
        self.figure = None if quiet else figure
        self._stop = Interrupt()
        self._hearing = contextlib.nullcontext() if quiet else self._stop
        options = {"unit": "step", "smoothing": 0.05, **bar}
        self._bar = progress_bar(total=total, initial=min(done, total), disable=quiet, **options)
        self._saved = time.perf_counter()

    def __enter__(self) -> "Keeper":
        self._hearing.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._bar.close()
        self._hearing.__exit__(*exception)

    @property
    def total(self) -> int:
        """Where the loop ends; a plan that is revised on the way sets it anew."""
        return self._bar.total

    @total.setter
    def total(self, total: int) -> None:
        self._bar.total = total

    def made(self, done: int) -> None:
        """The loop has come to `done`, which may be a little beyond the total."""
        self._bar.update(min(done, self.total) - self._bar.n)
        self.done = done

    def row(self, told: str, **row: float) -> None:
        """A row of metrics.csv, what the bar tells of it, and the figure again where that is due."""
        self.run.log(**row)
        self._bar.set_postfix_str(told, refresh=False)
        if self.figure and self.done < self.total:
            self.figure.update()

    def save(self) -> None:
        """A checkpoint where one is due; KeyboardInterrupt after it if there was a Ctrl-C."""
        if self._stop.asked or time.perf_counter() - self._saved > self.seconds or self.done >= self.total:
            if (state := self.state()) is not None:
                self.run.save(self.done, state)
            self._saved = time.perf_counter()
            self._stop.leave_if_asked()
