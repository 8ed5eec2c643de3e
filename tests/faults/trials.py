"""One trial: a fault, then the same command, and its remedy where it names one, until the numbers are there or are not."""

import json
import re
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults.kept_numbers import differences, numbers
from faults.process_groups import Ended, end
from faults.tiny_commands import Script, copy_place, make_place, start

TRIES = 4  # of the command after a fault: each may name one remedy


class UndisturbedFailed(Exception):
    """The command alone does not end well here."""


@dataclass
class Trial:
    """What was done to a script, what it said, and what is wrong with that (nothing, if it survived)."""

    script: Script
    fault: str
    seed: int
    done: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    tried: bool = True
    """False where the fault did not come about: the run had ended before, or there was no such file"""

    @property
    def line(self) -> str:
        return f"{self.script.key} | {self.fault} | seed {self.seed} | {'; '.join(self.done)} | {'; '.join(self.wrong)}"


@dataclass(frozen=True)
class Whole:
    """The undisturbed run: its numbers, when it had its folder and when it ended, and how many events there were."""

    numbers: dict[str, Any]
    begun: float
    ended: float
    events: dict[str, int]


class Bench:
    """Working folders under `root`, and what is the same for all trials of a script: made once, when first asked for."""

    def __init__(self, root: Path):
        self.root = root
        self.empty = make_place(root / "empty")
        self.stopped: dict[tuple[str, int], list[tuple[Path, str]]] = {}
        self._wholes: dict[tuple[str, str], Whole] = {}
        self.count = 0

    def log(self) -> Path:
        self.count += 1
        return self.root / f"log{self.count}"

    def fault(self, place: Path, **more: Any) -> str:
        """`FAULT` for a command in a working folder."""
        count = Path(f"{place}-count{self.count}")
        count.mkdir(exist_ok=True)
        return json.dumps({"watch": [f"{place}/results", f"{place}/cache"], "count": str(count), **more})

    def run(self, script: Script, place: Path, fault: str = "", name: str = "a", more: str = "") -> Ended:
        log, began = self.log(), time.monotonic()
        return end(start(script, place, log, fault, name, more), log, began)

    def whole(self, script: Script, more: str = "") -> Whole:
        """The undisturbed run."""
        if (script.key, more) not in self._wholes:
            place = copy_place(self.empty, self.root / f"whole-{script.key}{len(more)}")
            log, began = self.log(), time.monotonic()
            process = start(script, place, log, self.fault(place), more=more)
            config = place / script.folder() / "config.json"
            while not config.exists() and process.poll() is None:
                time.sleep(0.01)
            begun = time.monotonic() - began
            ended = end(process, log, began)
            if ended.code != 0:
                raise UndisturbedFailed(f"undisturbed, {script.key} ends with {ended.code}: {ended.err}")
            count = next(self.root.glob(f"{place.name}-count*"))
            events = {file.name: file.stat().st_size for file in count.iterdir()}
            self._wholes[script.key, more] = Whole(numbers(script, place), begun, ended.seconds, events)
        return self._wholes[script.key, more]

    def finished(self, script: Script) -> Path:
        """The folder of the undisturbed run, not to be changed."""
        self.whole(script)
        return self.root / f"whole-{script.key}0"


# ---------------------------------------------------------------- the same command again


def again(bench: Bench, trial: Trial, place: Path, name: str = "a", more: str = "") -> None:
    """Give the command until it succeeds, doing what it says in between; then compare the numbers."""
    told = ""
    for _ in range(TRIES):
        ended = bench.run(trial.script, place, name=name, more=more)
        check_end(trial, ended)
        if ended.code == 0:
            compare(bench, trial, place, name, more)
            return
        told = last_line(ended)
        if ended.code == 2:
            remedy = remedy_of(ended.err, place, name)
            trial.done.append(f"told: {sentence(ended.err)}")
            if remedy is None:
                trial.wrong.append("no remedy in it")
                return
            name = remedy
        elif ended.code != 1 or "tries" not in ended.out + ended.err:
            trial.wrong.append(f"the same command ends with {ended.code}: {told}")
            return
    trial.wrong.append(f"{TRIES} times the same command and its remedy did not help: {told}")


def compare(bench: Bench, trial: Trial, place: Path, name: str, more: str) -> None:
    script = trial.script
    if script.asks_plan:  # undisturbed, with as many steps
        folder = place / script.folder(name)
        bench.run(script, place, name="whole", more=f"--from-config {folder}/config.json")
        if not (place / script.folder("whole") / "summary.json").exists():
            trial.wrong.append("its plan cannot be run again")
            return
        expected = numbers(script, place, "whole")
    else:
        expected = bench.whole(script, more).numbers
    try:
        found = numbers(script, place, name)
    except Exception as error:
        trial.wrong.append(f"its files cannot be read: {type(error).__name__}: {error}"[:200])
        return
    trial.wrong += differences(found, expected)
    summary = json.loads((place / script.folder(name) / "summary.json").read_text())
    if summary.get("total_seconds", 1e9) < summary.get("train_seconds", 0):
        trial.wrong.append("total_seconds is less than train_seconds")
    if left := [path.name for path in (place / "results").rglob("*.tmp")]:
        trial.wrong.append(f"left in the folder: {left}")


def check_end(trial: Trial, ended: Ended) -> None:
    """No traceback, nobody left alive, an end at all, and one sentence where the code is 2."""
    if "Traceback" in ended.err + ended.out:
        trial.wrong.append(f"a traceback, with code {ended.code}: {last_line(ended)}")
    if ended.left:
        trial.wrong.append(f"left alive: {len(ended.left)} processes")
    if ended.code is None:
        trial.wrong.append("it never ends")
    if ended.code == 2 and ended.err.count("error: ") != 1:
        trial.wrong.append(f"code 2 without one sentence: {last_line(ended)}")


def sentence(err: str) -> str:
    return next((line for line in err.splitlines() if line.startswith("error: ")), "")


def last_line(ended: Ended) -> str:
    lines = (ended.err.replace("\r", "\n").strip() or ended.out.strip()).splitlines()
    return lines[-1].strip()[:200] if lines else "(silence)"


def remedy_of(err: str, place: Path, name: str) -> str | None:
    """Do what a sentence says; the name to go on with, or None where it says nothing that can be done."""
    told = sentence(err)
    named = [place / word.strip("'\":;,.()") for word in told.split()[1:]]
    known = [path for path in named if path.is_relative_to(place) and path != place and path.exists()]
    if "put it back, or delete the folder" in told:
        shutil.rmtree((place / told.split()[1]).parent)
        return name
    if "delete" in told and known:
        path = next((path for path in known if str(path.relative_to(place)) in told.split("delete", 1)[1]), known[0])
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return name
    if re.search(r"(choose|give|take) .*--name|another --name", told):
        return name + "b"
    if any(words in told for words in ("cannot write", "in use", "what is saved stays")):
        return name
    return None
