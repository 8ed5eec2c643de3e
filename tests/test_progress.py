"""What a run shows while it goes on: a bar on a terminal, lines in a log."""

import io

import pytest

from common import progress
from common.progress import ProgressLines, progress_bar


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def lines_of(file: io.StringIO) -> list[str]:
    text = file.getvalue()
    assert "\r" not in text
    return text.splitlines()


def test_a_log_has_a_line_for_each_tenth(clock):
    file = io.StringIO()
    with ProgressLines(total=200, unit="step", file=file, mininterval=0.0, miniters=1) as bar:
        for _ in range(200):
            bar.update()
    lines = lines_of(file)
    assert [line.split("%")[0].strip() for line in lines] == [str(n) for n in range(10, 101, 10)]
    assert " 20/200 [" in lines[0]


def test_a_slow_run_is_heard_of_every_half_minute(clock):
    file = io.StringIO()
    with ProgressLines(total=1000, file=file, mininterval=0.0, miniters=1) as bar:
        for _ in range(50):
            clock[0] += 10
            bar.update()
    lines = lines_of(file)
    assert len(lines) == 17  # every third step, and the end
    assert " 50/1000 [" in lines[-1]


def test_what_was_done_before_is_no_news_and_a_disabled_bar_is_silent(clock):
    file = io.StringIO()
    ProgressLines(total=10, initial=10, file=file).close()
    with ProgressLines(total=2, disable=True, file=file) as bar:
        bar.update(2)
    assert lines_of(file) == []


def test_a_layout_loses_its_bar_alone(clock):
    file = io.StringIO()
    layout = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
    with ProgressLines(total=2.5, desc="sweep", bar_format=layout, file=file, mininterval=0.0, miniters=0) as bar:
        bar.update(1.25)
    (line,) = lines_of(file)
    assert line.startswith("sweep:  50% 00:0")
    assert "1.25" not in line


def test_only_a_terminal_gets_a_bar(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    bar = progress_bar(total=1)
    assert not isinstance(bar, ProgressLines)
    bar.close()
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert isinstance(progress_bar(total=1), ProgressLines)
