"""A figure that is drawn while its run goes on, for a small share of the run's time."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.cli import shown
from common.progress import tell


class LiveFigure:
    """`update()` draws `path` again where that keeps all drawing within `share` of the time since this was made.

    `draw()` writes the file and returns True, or returns False where there is nothing to see yet. Nothing is drawn in
    the first `after` seconds. When the figure first exists, a line says where. A drawing that fails is told once and ends
    the drawing, not the run: a picture of the way is worth no run.
    """

    def __init__(self, path: Path, draw: Callable[[], bool], share: float = 0.02, after: float = 10.0):
        self.path, self.draw, self.share, self.after = path, draw, share, after
        self.began = time.perf_counter()
        self.seconds = 0.0  # spent on drawing
        self.drawn = self.failed = False

    def due(self) -> bool:
        """Whether there is time for a drawing now."""
        elapsed = time.perf_counter() - self.began
        return not self.failed and elapsed >= self.after and self.seconds <= self.share * elapsed

    def update(self) -> None:
        """Draw if it is due."""
        if not self.due():
            return
        began = time.perf_counter()
        try:
            drawn = self.draw()
        except Exception as error:  # whatever a plotting library throws: the run is worth more
            self.failed = True
            tell(f"{self.path.name} cannot be drawn while the run goes on: {type(error).__name__}: {error}")
            return
        self.seconds += time.perf_counter() - began
        if drawn and not self.drawn:
            self.drawn = True
            tell(f"first figure: open {shown(self.path)}")


def attempt(draw: Callable[[], Any], name: str) -> None:
    """Call `draw()`, at the end of a run whose numbers are kept: what goes wrong with a picture is told in one sentence."""
    try:
        draw()
    except Exception as error:  # whatever a plotting library throws
        tell(f"{name} cannot be drawn: {type(error).__name__}: {error}")
