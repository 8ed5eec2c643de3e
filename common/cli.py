"""One frozen dataclass -> the command line of a script, with presets, `--from-config`, and one-sentence errors."""

import argparse
import contextlib
import dataclasses
import io
import json
import os
import re
import select
import shlex
import sys
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

import tyro

# Before anything imports matplotlib, which would load what the environment names, a notebook's backend say, and fail where
# that is not installed. Every script imports this file first.
os.environ["MPLBACKEND"] = "Agg"

from common.errors import BadInput, is_limit, limit_sentence
from common.provenance import ROOT
from common.stopping import be_deaf, hear

Config = TypeVar("Config")


def parse(
    cls: type[Config],
    presets: Mapping[str, Mapping[str, Any]],
    arguments: list[str] | None = None,
    description: str = "",
) -> Config:
    """The configuration from the command line: explicit flags win over `--from-config`, that over the preset.

    `cls` is a frozen dataclass whose fields have defaults; a field without one is required. `--from-config FILE` takes
    a run's config.json; fields that `cls` lacks are refused. BadInput, with one sentence, for anything wrong.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset")
    first.add_argument("--from-config", "--from_config")
    first.exit_on_error = False
    with contextlib.suppress(argparse.ArgumentError), contextlib.redirect_stderr(io.StringIO()):
        known = first.parse_known_args(arguments)[0]
        values = _from_file(cls, known.from_config) if known.from_config else {}
        if known.from_config and known.preset and known.preset != values.get("preset", known.preset):
            raise BadInput(
                f"--preset {known.preset} and --from-config exclude each other: the file's settings win, "
                f"which are of --preset {values['preset']}"
            )
        preset = known.preset or values.get("preset")
        if preset is not None and preset in presets:
            values = {**presets[preset], **values, "preset": preset}
        required = [f for f in dataclasses.fields(cls) if _required(f) and f.name not in values]  # type: ignore[arg-type]
        if not required:
            return _tyro(cls, arguments, description, cls(**values))
    return _tyro(cls, arguments, description, None)


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _tyro(cls: type[Config], arguments: list[str], description: str, default: Config | None) -> Config:
    told = io.StringIO()
    options = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(told):
            return tyro.cli(cls, args=arguments, description=description, **options)  # type: ignore[call-overload]
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise BadInput(_one_sentence(told.getvalue())) from None


def _one_sentence(box: str) -> str:
    """What tyro prints in a box, as one line: the box's frame, its rulers and the pointer to --help left out."""
    lines = [re.sub(r"[│|╭╮╰╯─]+", " ", re.sub(r"\x1b\[[0-9;]*m", "", line)).strip() for line in box.splitlines()]
    text = " ".join(line for line in lines if line and line not in ("Parsing error", "Required options"))
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"^(Parsing error|Value error|Invalid choice|Unrecognized options) (?=\w)", "", text)
    text = re.sub(r" Argument helptext:.*", "", text)
    return f"{re.split(r' For full helptext', text)[0].strip()} (see --help)"


def _from_file(cls: type, file: str) -> dict[str, Any]:
    try:
        record = json.loads(Path(file).read_text(encoding="utf-8"))
        values = dict(record.get("arguments") or record["config"])
    except OSError as error:
        raise BadInput(f"--from-config {file}: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError, ValueError):
        raise BadInput(f"--from-config {file} is not the config.json of a run") from None
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise BadInput(f"--from-config {file} has settings that this script does not know: {', '.join(unknown)}")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    hints = typing.get_type_hints(cls)
    wrong = [name for name, value in values.items() if not _fits(value, hints[name])]
    if wrong:
        raise BadInput(f"--from-config {file} has a wrong value for {', '.join(wrong)}")
    return values


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value from JSON is of a field's type: a plain one, Literal, a union, or a tuple of one type."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return value in options
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in options)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, options[0]) for item in value)
    return type(value) is hint or (hint is float and type(value) is int)


def run_main(main: Callable[[], int | None]) -> None:
    """Run a script's `main` and exit: its own code, 2 with one sentence for bad input, 130 with the resume line."""
    prepare_streams()
    hear()
    try:
        check_checkout(Path(sys.argv[0]))
        code = main()
    except BadInput as error:
        code = refuse(str(error))
    except BrokenPipeError:
        if not output_is_gone():
            raise
        discard(sys.stdout)
        code = 1
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):  # the terminal may be what has gone
            print(f"\nstopped; what is finished is saved. To go on: {resume_line()}", file=sys.stderr)
        code = 130
    except (OSError, MemoryError, RuntimeError) as error:
        if not is_limit(error):
            raise
        code = refuse(limit_sentence(error))
    be_deaf()  # a Ctrl-C that comes now would end the interpreter, and with it the exit code
    try:
        sys.stdout.flush()
    except OSError as error:  # a full disk behind `> log.txt`: what was computed is in its folder all the same
        discard(sys.stdout)
        code = code or refuse(f"cannot write the output: {error.strerror or error}")
    try:
        sys.stderr.flush()
    except OSError:  # the interpreter would try again at its end, and make 120 of the exit code
        discard(sys.stderr)
    sys.exit(code or 0)


def refuse(sentence: str) -> int:
    """Say what is wrong; exit code 2."""
    with contextlib.suppress(OSError):
        print(f"error: {sentence}", file=sys.stderr)
    return 2


def prepare_streams() -> None:
    """Streams that no letter and no closed end can make fail."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed with `>&-`
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (for the life of the process)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without Greek letters is no reason to fail


def output_is_gone() -> bool:
    """Whether the reader of our output, `head` say, has closed it: other pipes can break too."""
    if not hasattr(select, "poll"):
        return True
    asked = select.poll()
    asked.register(sys.stdout.fileno(), 0)
    return any(found & select.POLLERR for _, found in asked.poll(0))


def discard(stream: IO[str]) -> None:
    """Nobody reads this stream any more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def check_checkout(script: Path) -> None:
    """BadInput where `script` stands in another checkout than the `common` that it has imported."""
    top = script.resolve().parent.parent
    if top != ROOT and (top / "common" / "provenance.py").is_file():
        raise BadInput(f"`common` is installed from another checkout, {ROOT}: install this one with `pip install -e .`")


def resume_line() -> str:
    """The same command as it was typed: it finds the same folder, skips what is done and goes on."""
    return shlex.join(["python", *sys.argv])


def shown(path: Path) -> str:
    """A path as short as it can be typed from here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def figures(folder: Path, main: str) -> str:
    """`open results/x/loss.png; also attention.png`: the pictures of a run folder, the `main` one first; "" for none."""
    found = sorted(path.name for path in folder.iterdir() if path.suffix in (".png", ".gif"))
    if not found:
        return ""
    first = main if main in found else found[0]
    rest = [name for name in found if name != first]
    return f"open {shown(folder / first)}" + (f"; also {', '.join(rest)}" if rest else "")
