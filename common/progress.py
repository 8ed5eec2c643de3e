"""A progress bar on a terminal; elsewhere, in a log file say, a line of text now and then."""

import contextlib
import sys
import time
from typing import IO, Any

from tqdm import tqdm

LINE_SECONDS = 30.0


def tell(text: str, file: IO[str] | None = None) -> None:
    """A line above the bar, to standard output by default; nothing where nobody reads it any more, or its disk is full.

    What is only told is worth no run: a signal may have come because the terminal was closed, or have ended `tee` as well.
    """
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: a signal came in the middle of another write
        tqdm.write(text, file=file)


def progress_bar(**options: Any) -> tqdm:
    """A `tqdm` of these options, drawn where standard error is a terminal, else told by `ProgressLines`."""
    terminal = sys.stderr is not None and sys.stderr.isatty()
    return (tqdm if terminal else ProgressLines)(**options)


class ProgressLines(tqdm):
    """A line whenever another tenth is done or LINE_SECONDS have passed: a log is no place for carriage returns."""

    def __init__(self, **options: Any):
        self._told, self._told_at = time.monotonic(), 0.0
        self._tenth = self._tenths(options.get("initial", 0), options.get("total"))
        layout = options.get("bar_format")
        options |= {"bar_format": layout.replace("|{bar}|", "")} if layout else {"ncols": 0}
        super().__init__(**options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """A line where one is due."""
        tenth = self._tenths(self.n, self.total)
        if tenth > self._tenth or time.monotonic() - self._told >= LINE_SECONDS:
            self._tenth = tenth
            self._tell()

    def clear(self, *_: Any, **__: Any) -> None:
        """There is nothing to take away before another line is written."""

    def close(self) -> None:
        """The last line, where it says something new."""
        if not self.disable and self.n > max(self._told_at, self.initial):
            self._tell()
        self.sp = None  # tqdm then writes nothing of its own
        super().close()

    @staticmethod
    def _tenths(n: float, total: float | None) -> int:
        return int(10 * n / total) if total else 0

    def _tell(self) -> None:
        self._told, self._told_at = time.monotonic(), self.n
        with contextlib.suppress(OSError):  # a full disk, or a reader that has gone
            self.fp.write(f"{self}\n")
            self.fp.flush()
