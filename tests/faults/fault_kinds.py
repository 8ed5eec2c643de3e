"""The faults, each a function that does it to a script in a working folder and then gives the same command again."""

import errno
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faults.damages import damage, put_code
from faults.process_groups import Ended, end, workers
from faults.tiny_commands import Script, copy_place, start
from faults.trials import Bench, Trial, UndisturbedFailed, Whole, again, check_end, last_line, sentence

SIGNALS = {"SIGINT": signal.SIGINT, "SIGTERM": signal.SIGTERM, "SIGHUP": signal.SIGHUP}
FULL = ("create", "write", "fsync", "replace")
Fault = Callable[[Bench, Trial, Path, random.Random], None]


# ---------------------------------------------------------------- while it runs


def moment(chance: random.Random, whole: Whole, fault: dict[str, Any]) -> tuple[str, float]:
    """A random moment of a run that has its folder: the n-th event, or so many seconds after the start."""
    if "signal" in fault:
        n = chance.randint(1, whole.events["all"])
        fault["signal"][1] = n
        return f"at event {n}", 0.0
    seconds = whole.begun + chance.random() * max(0.0, whole.ended - whole.begun - 0.3)
    return f"after {seconds:.2f} s of {whole.ended:.2f}", seconds


def stop(
    bench: Bench, trial: Trial, place: Path, number: int, who: str, chance: random.Random, more: Any = None
) -> Ended:
    """Start the command and send it a signal at a random moment; how it ended."""
    script, whole = trial.script, bench.whole(trial.script)
    by_event = chance.random() < 0.5 and (who != "worker" or script.workers_write)
    fault: dict[str, Any] = {**(more or {}), **({"signal": [number, 0, who]} if by_event else {})}
    told, seconds = moment(chance, whole, fault)
    trial.done.append(f"{signal.Signals(number).name} to the {who} {told}")
    log, began = bench.log(), time.monotonic()
    injected = bench.fault(place, **fault)
    process = start(script, place, log, injected)
    if not by_event:
        time.sleep(seconds)
        targets = workers(process.pid) if who == "worker" else [process.pid]
        trial.tried = bool(targets) and process.poll() is None
        if trial.tried:
            os.killpg(process.pid, number) if who == "group" else os.kill(chance.choice(targets), number)
    ended = end(process, log, began)
    if by_event:
        trial.tried = Path(json.loads(injected)["count"], "sent").exists()
    return ended


def kill_parent(bench: Bench, trial: Trial, place: Path, chance: random.Random) -> None:
    ended = stop(bench, trial, place, signal.SIGKILL, "parent", chance)
    if ended.left:
        trial.wrong.append(f"left alive: {len(ended.left)} processes")
    again(bench, trial, place)


def kill_worker(bench: Bench, trial: Trial, place: Path, chance: random.Random) -> None:
    check_end(trial, stop(bench, trial, place, signal.SIGKILL, "worker", chance))
    again(bench, trial, place)


def stop_with(name: str) -> Fault:
    def stopped(bench: Bench, trial: Trial, place: Path, chance: random.Random) -> None:
        ended = stop(bench, trial, place, SIGNALS[name], chance.choice(["parent", "group"]), chance)
        check_end(trial, ended)
        if ended.code == -SIGNALS[name] and (place / trial.script.folder() / "summary.json").exists():
            pass  # the run had ended, and Python was about to
        elif ended.code not in (0, 130) or (ended.code == 130 and "To go on: " not in ended.err):
            trial.wrong.append(f"{name}: it ends with {ended.code}: {last_line(ended)}")
        again(bench, trial, place)

    return stopped


def full_disk(kind: str) -> Fault:
    def full(bench: Bench, trial: Trial, place: Path, chance: random.Random) -> None:
        n = chance.randint(1, max(1, bench.whole(trial.script).events.get(kind, 1)))
        disk(bench, trial, place, [kind, n, errno.ENOSPC], f"full from {kind} {n} on")

    return full


def read_only(bench: Bench, trial: Trial, place: Path, chance: random.Random) -> None:
    n = chance.choice([0, chance.randint(1, bench.whole(trial.script).events["all"])])
    disk(bench, trial, place, ["all", n, errno.EROFS], f"read-only from event {n} on")


def disk(bench: Bench, trial: Trial, place: Path, fail: list[Any], told: str) -> None:
    trial.done.append(told)
    injected = bench.fault(place, fail=fail)
    ended = bench.run(trial.script, place, injected)
    events = Path(json.loads(injected)["count"], fail[0])
    trial.tried = events.exists() and events.stat().st_size >= fail[1]
    trial.done.append(f"code {ended.code} {sentence(ended.err)}".strip())
    check_end(trial, ended)
    if ended.code not in (0, 2):
        trial.wrong.append(f"it ends with {ended.code}: {last_line(ended)}")
    again(bench, trial, place)


def twice(bench: Bench, trial: Trial, place: Path, chance: random.Random) -> None:
    at_once(bench, trial, place, chance, "", ("in use",))


def two_different(bench: Bench, trial: Trial, place: Path, chance: random.Random) -> None:
    at_once(bench, trial, place, chance, trial.script.other, ("in use", "another configuration", "holds a run"))


def at_once(
    bench: Bench, trial: Trial, place: Path, chance: random.Random, other: str, sentences: tuple[str, ...]
) -> None:
    """Two commands, the second one up to the whole time of the first one later."""
    whole = bench.whole(trial.script)
    later = chance.choice([0.0, 0.2, chance.random() * whole.ended])
    trial.done.append(f"a second one {later:.2f} s later")
    commands = []
    for more in ("", other):
        log = bench.log()
        commands.append((start(trial.script, place, log, more=more), log, time.monotonic(), more))
        time.sleep(later if more == "" and len(commands) == 1 else 0)
    won = []
    for process, log, began, more in commands:
        ended = end(process, log, began)
        check_end(trial, ended)
        if ended.code == 0:
            won.append(more)
        elif ended.code != 2 or not any(word in ended.err for word in sentences):
            trial.wrong.append(f"one of the two ends with {ended.code}: {last_line(ended)}")
    if not won or (other and len(won) > 1):
        trial.wrong.append(f"{len(won)} of the two succeeded")
    again(bench, trial, place, more=won[0] if won else "")


def clock_back(bench: Bench, trial: Trial, place: Path, chance: random.Random) -> None:
    """In the middle of a run that is then killed, and whose files seem to be of the future."""
    n = chance.randint(1, bench.whole(trial.script).events["all"])
    back = -chance.choice([60.0, 86400.0, 1e8])
    trial.done.append(f"clock {back:.0f} s from event {n} on")
    stop(bench, trial, place, signal.SIGKILL, "parent", chance, {"clock": [back, n]})
    again(bench, trial, place)


FAULTS: dict[str, Fault] = {
    "SIGKILL of the parent": kill_parent,
    "SIGKILL of a worker": kill_worker,
    **{name: stop_with(name) for name in SIGNALS},
    **{f"disk full at {kind}": full_disk(kind) for kind in FULL},
    "read-only": read_only,
    "two identical commands": twice,
    "two different commands, one name": two_different,
    "clock set back": clock_back,
}


# ---------------------------------------------------------------- damage to what lies on the disk


def stopped_place(bench: Bench, trial: Trial, pattern: str, place: Path, chance: random.Random) -> bool:
    """Make `place` one where the command was killed at a random moment and a file of this pattern is there.

    Killed places serve all trials of a script and seed; False where none has such a file.
    """
    script, kept = trial.script, bench.stopped.setdefault((trial.script.key, trial.seed), [])
    shutil.rmtree(place)
    while True:
        usable = [one for one in kept if list(one[0].glob(pattern))]
        if usable and (len(kept) >= 4 or chance.random() < 0.5):
            found, told = chance.choice(usable)
            copy_place(found, place)
            trial.done.append(told)
            return True
        if len(kept) == 10:
            return False
        stopped = copy_place(bench.empty, bench.root / f"stopped-{script.key}-{trial.seed}-{len(kept)}")
        quiet = Trial(script, "", 0)
        stop(bench, quiet, stopped, signal.SIGKILL, "parent", random.Random(stopped.name))
        if (stopped / script.folder() / "summary.json").exists():
            shutil.rmtree(stopped / "results")
        kept.append((stopped, quiet.done[0]))


def damaged(way: str, pattern: str, after_end: bool) -> Fault:
    def spoil(bench: Bench, trial: Trial, place: Path, chance: random.Random) -> None:
        if after_end:
            shutil.rmtree(place)
            copy_place(bench.finished(trial.script), place)
        elif not stopped_place(bench, trial, pattern, place, chance):
            trial.tried = False
            return
        files = sorted(place.glob(pattern))
        if not files:
            trial.tried = False
            return
        file = chance.choice(files)
        trial.done.append(put_code(file, chance) if way == "code" else damage(file, way, chance))
        again(bench, trial, place)
        if list(place.rglob("touched")):
            trial.wrong.append("THE CODE WAS RUN")

    return spoil


def faults_of(script: Script, ways: tuple[str, ...]) -> dict[str, Fault]:
    """All that is tried on a script."""
    found = {name: fault for name, fault in FAULTS.items() if script.workers or "worker" not in name}
    found = {name: fault for name, fault in found.items() if name in (script.only or FAULTS)}
    for after_end, patterns in ((False, script.unfinished), (True, script.finished)):
        for pattern in patterns:
            state = "finished: " if after_end else ""
            folder, name = pattern.replace("cells/*/", "cells/").split("/")[-2:]
            short = f"a run's {name}" if folder == "C*" else f"{folder}/{name}" if name[0] == "*" else name
            # A finished run may do without its checkpoint, which takes room: the command says that it is gone, and no more.
            kept = [way for way in ways if (after_end, name, way) != (True, "checkpoint.pt", "deleted")]
            found |= {f"{state}{short} {way}": damaged(way, pattern, after_end) for way in kept}
    return found | ({"a file with code": damaged("code", script.code, False)} if script.code else {})


def carry_out(bench: Bench, script: Script, fault: str, act: Fault, seed: int) -> Trial:
    """One trial, whose chances are those of its seed; its folders are removed if it survived."""
    trial = Trial(script, fault, seed)
    chance = random.Random(f"{script.key} {fault} {seed}")
    place = copy_place(bench.empty, bench.root / f"trial{bench.count}")
    try:
        act(bench, trial, place, chance)
    except UndisturbedFailed as error:
        trial.wrong.append(str(error))
    for path in bench.root.glob(f"{place.name}*"):
        shutil.rmtree(path, ignore_errors=True)
    return trial
