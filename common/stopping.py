"""What stops a run: Ctrl-C, SIGTERM, the terminal that is closed, and a parent process that is gone.

SIGINT, SIGTERM and SIGHUP mean the same. Outside a training loop they raise KeyboardInterrupt at once (`hear`); inside one
(`Interrupt`) the first lets the step be finished and saved. What may take long within a step, an evaluation say, asks
`leave_if_asked()` now and then: it is waited for, but not for long, and then made again from the last checkpoint.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from multiprocessing.connection import wait
from types import FrameType
from typing import Any, ClassVar

from common.progress import tell

STOPS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
PATIENCE = 5.0  # seconds that an evaluation may still take, so that its row is not lost
TOLD = "stopping: this step ends and is saved; once more stops at once"
LEFT = "the evaluation is left: it and what came after the last checkpoint, 30 s at most, are made again"


class Interrupt:
    """`with Interrupt() as stop:` the first signal only sets `stop.asked`, and says so; a second raises KeyboardInterrupt."""

    present: ClassVar["Interrupt | None"] = None

    def __init__(self) -> None:
        self.asked, self._since = False, 0.0

    def __enter__(self) -> "Interrupt":
        self._before = {number: signal.signal(number, self._note) for number in heard()}
        self._outer, Interrupt.present = Interrupt.present, self
        return self

    def __exit__(self, *_: object) -> None:
        Interrupt.present = self._outer
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked, self._since = True, time.monotonic()
        tell(TOLD, sys.stderr)

    def leave_if_asked(self, seconds: float = 0.0) -> None:
        """KeyboardInterrupt if there was a signal so long ago."""
        if self.asked and time.monotonic() - self._since >= seconds:
            raise KeyboardInterrupt


def leave_if_asked() -> None:
    """KeyboardInterrupt if there was a signal PATIENCE ago in the loop that this is called from; nothing outside of one."""
    if Interrupt.present:
        try:
            Interrupt.present.leave_if_asked(PATIENCE)
        except KeyboardInterrupt:
            tell(LEFT, sys.stderr)
            raise


def hear() -> None:
    """From now on each of the signals is a KeyboardInterrupt in this process."""
    for number in heard():
        signal.signal(number, _stop)


def be_deaf() -> None:
    """From now on the signals change nothing: what is left to do is to end."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)


def heard() -> list[int]:
    """The signals that this process listens to: not the end of the terminal where `nohup` has said so."""
    hang_up = getattr(signal, "SIGHUP", None)
    return [number for number in STOPS if number != hang_up or signal.getsignal(number) is not signal.SIG_IGN]


def end_with_parent() -> None:
    """In a worker process: be deaf to the signals, which the parent hears, and end when the parent does, however it does.

    A parent that is killed cannot end its workers, which would go on training for nobody.
    """
    be_deaf()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent.sentinel,), daemon=True).start()


def _end_after(sentinel: Any) -> None:
    wait([sentinel])
    os._exit(1)


def _stop(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt
