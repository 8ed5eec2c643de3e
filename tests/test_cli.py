"""The command line: who wins over whom, one sentence for every mistake, exit codes, and the choice of a device."""

import errno
import json
import os
import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.cli import parse, run_main
from common.device import choose_device
from common.errors import BadInput
from common.stopping import STOPS


@dataclass(frozen=True)
class Config:
    preset: Literal["quick", "default"] = "default"
    device: Literal["auto", "cpu"] = "auto"
    seed: int = 0
    """the first seed"""
    lr: float = 0.1
    widths: tuple[int, ...] = (1, 2)
    steps: int | None = None
    bias: bool = False
    name: str | None = None
    from_config: str | None = None


PRESETS: dict[str, dict[str, Any]] = {"quick": {"seed": 5, "widths": (9,)}, "default": {}}


def config(*arguments: str) -> Config:
    return parse(Config, PRESETS, list(arguments))


def refusal(*arguments: str) -> str:
    with pytest.raises(BadInput) as error:
        config(*arguments)
    sentence = str(error.value)
    assert sentence
    assert "\n" not in sentence
    assert not set(sentence) & set("│╭╮╰╯─\x1b")
    return sentence


@pytest.fixture
def saved(tmp_path):
    """Write a config.json with these arguments and return its path."""

    def write(**arguments: Any) -> str:
        (tmp_path / "config.json").write_text(json.dumps({"config": {"lr": 1}, "arguments": arguments}))
        return str(tmp_path / "config.json")

    return write


# ---------------------------------------------------------------- who wins


def test_without_flags_the_defaults_hold():
    assert config() == Config()


def test_a_preset_changes_the_defaults():
    assert config("--preset", "quick") == Config(preset="quick", seed=5, widths=(9,))


def test_a_flag_wins_over_the_preset_wherever_it_stands():
    expected = Config(preset="quick", seed=3, widths=(9,))
    assert config("--preset=quick", "--seed", "3") == expected
    assert config("--seed=3", "--preset", "quick") == expected


def test_a_flag_with_the_defaults_own_value_still_wins():
    assert config("--preset", "quick", "--seed", "0", "--widths", "1", "2").seed == 0


def test_the_command_line_of_this_process_is_the_default(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--seed", "4"])
    assert parse(Config, PRESETS).seed == 4


def test_from_config_wins_over_the_preset_and_loses_to_flags(saved):
    file = saved(preset="quick", seed=7, lr=0.5)
    expected = Config(preset="quick", seed=7, lr=0.5, widths=(9,), from_config=file)
    assert config("--from-config", file) == expected
    assert config("--from_config", file) == expected
    assert config(f"--from-config={file}", "--preset", "quick", "--lr", "0.25").lr == 0.25
    assert config("--from-config", file, "--seed", "8").seed == 8
    assert "exclude each other" in refusal("--from-config", file, "--preset", "default")


def test_from_config_repeats_what_was_saved(saved):
    first = Config(preset="quick", device="cpu", seed=2, lr=1e-4, widths=(3, 4), steps=10, bias=True, name="a")
    again = config("--from-config", file := saved(**asdict(first)))
    assert again == Config(**{**asdict(first), "from_config": file})


def test_from_config_reads_a_file_without_arguments(tmp_path):
    (tmp_path / "config.json").write_text('{"config": {"seed": 6, "widths": [4]}}')
    assert config("--from-config", str(tmp_path / "config.json")).widths == (4,)


def test_a_field_without_a_default_is_required_unless_the_preset_has_it():
    @dataclass(frozen=True)
    class Strict:
        text: str
        preset: Literal["kjv", "none"] = "none"

    presets: dict[str, dict[str, Any]] = {"kjv": {"text": "kjv.txt"}, "none": {}}
    assert parse(Strict, presets, ["--text", "a.txt"]) == Strict("a.txt")
    assert parse(Strict, presets, ["--preset", "kjv"]) == Strict("kjv.txt", "kjv")
    with pytest.raises(BadInput, match="--text") as error:
        parse(Strict, presets, [])
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--nope", "1"], "--nope"),
        (["stray"], "stray"),
        (["--seed", "x"], "--seed"),
        (["--seed", "1.5"], "--seed"),
        (["--seed"], "--seed"),
        (["--lr", "fast"], "--lr"),
        (["--widths", "1", "a"], "--widths"),
        (["--device", "tpu"], "tpu"),
        (["--preset", "huge"], "huge"),
        (["--preset"], "--preset"),
        (["--from-config"], "--from-config"),
    ],
)
def test_a_wrong_argument_is_named_in_one_sentence(arguments, named):
    assert named in refusal(*arguments)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(["--seed", "--preset", "quick", "--", "-", "", "1", "-1", "--lr=", "é\n│", "--no-bias"]))
)
def test_any_arguments_give_a_config_or_one_sentence(arguments):
    try:
        assert isinstance(config(*arguments), Config)
    except BadInput as error:
        assert "\n" not in str(error)  # noqa: PT017 - either outcome is right


def test_help_shows_the_defaults_of_the_preset_and_ends_well(capsys):
    with pytest.raises(SystemExit) as end:
        config("--preset", "quick", "--help")
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "the first seed" in text
    assert "(default: 5)" in text


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", "3", "null", "{}", '{"config": 3}', '{"arguments": [1]}', "\0", "a,b\n1,2\n"]
)
def test_a_file_that_is_no_config_is_named(tmp_path, content):
    (tmp_path / "c.json").write_text(content)
    assert "c.json is not the config.json of a run" in refusal("--from-config", str(tmp_path / "c.json"))


def test_a_binary_file_is_no_config(tmp_path):
    (tmp_path / "c.json").write_bytes(b"\xff\xfe\x80")
    assert "c.json is not the config.json of a run" in refusal("--from-config", str(tmp_path / "c.json"))


def test_a_missing_config_is_named(tmp_path):
    assert "c.json: No such file" in refusal("--from-config", str(tmp_path / "c.json"))
    assert "Is a directory" in refusal("--from-config", str(tmp_path))


def test_unknown_settings_of_a_config_are_named(saved):
    assert refusal("--from-config", saved(seed=1, momentum=0.9, beta=1)).endswith("does not know: beta, momentum")


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": "x"},
        {"seed": 1.5},
        {"seed": None},
        {"device": "tpu"},
        {"preset": "huge"},
        {"widths": [1, "a"]},
        {"lr": "x"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_setting_of_the_wrong_kind_in_a_config_is_named(saved, wrong):
    assert next(iter(wrong)) in refusal("--from-config", saved(**wrong))


# ---------------------------------------------------------------- how a script ends


def end_of(main: Any, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    with pytest.raises(SystemExit) as end:
        run_main(main)
    return end.value.code, capsys.readouterr().err


def raiser(error: BaseException) -> Any:
    def main() -> int:
        raise error

    return main


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1)])
def test_the_exit_code_is_what_main_returns(capsys, returned, code):
    assert end_of(lambda: returned, capsys) == (code, "")


def test_bad_input_is_one_sentence_and_code_2(capsys):
    assert end_of(raiser(BadInput("no data")), capsys) == (2, "error: no data\n")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_results_that_cannot_be_stored_are_one_sentence_and_code_2(capsys, code):
    error = OSError(code, os.strerror(code), "results/a.csv")
    assert end_of(raiser(error), capsys) == (2, f"error: cannot write results/a.csv: {os.strerror(code)}\n")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            OSError(errno.EMFILE, "Too many open files", "a.csv"),
            "too many open files at a.csv: raise the limit with `ulimit",
        ),
        (
            OSError(errno.ENFILE, "Too many open files"),
            "too many open files: raise the limit with `ulimit -n 4096`, or",
        ),
        (
            OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300),
            "is too long for this file system: choose a shorter",
        ),
        (MemoryError(), "not enough memory: an allocation failed"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "not enough memory: [Errno 12]"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8"),
            "not enough memory: [enforce fail]",
        ),
    ],
)
def test_what_the_machine_refuses_is_one_sentence_and_code_2(capsys, error, sentence):
    code, told = end_of(raiser(error), capsys)
    assert code == 2
    assert told.startswith("error: ")
    assert sentence in told
    assert told.count("\n") == 1


def test_a_file_that_cannot_be_read_is_not_said_to_be_unwritable(capsys, monkeypatch, tmp_path):
    (tmp_path / "a.txt").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.R_OK)  # root may read everything
    error = OSError(errno.EACCES, "Permission denied", str(tmp_path / "a.txt"))
    assert end_of(raiser(error), capsys) == (2, f"error: cannot read {tmp_path / 'a.txt'}: Permission denied\n")


@pytest.mark.parametrize("number", STOPS)
def test_every_stop_is_the_same_outside_a_loop(number):
    body = f"os.kill(os.getpid(), {int(number)}) or time.sleep(9)"
    code = f"import os, time; from common.cli import run_main; run_main(lambda: {body})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.returncode == 130
    assert run.stderr.startswith("\nstopped; what is finished is saved. To go on: python")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_no_failure(closed):
    code = "from common.cli import run_main; run_main(lambda: print('done'))"
    run = subprocess.run(
        f"{sys.executable} -c {shlex.quote(code)} {closed}", shell=True, capture_output=True, text=True
    )
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_log_on_a_full_disk_is_one_sentence():
    code = "from common.cli import run_main; run_main(lambda: print('done'))"
    run = subprocess.run(
        f"{sys.executable} -c {shlex.quote(code)} > /dev/full", shell=True, capture_output=True, text=True
    )
    assert (run.returncode, run.stderr) == (2, "error: cannot write the output: No space left on device\n")


def test_a_script_of_another_checkout_is_refused(tmp_path, capsys, monkeypatch):
    """A second clone would silently run on the first one's `common`, and record its commit."""
    for file in ("common/provenance.py", "rl/vpg.py"):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).touch()
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "rl" / "vpg.py")])
    code, told = end_of(raiser(AssertionError("it must not begin")), capsys)
    assert code == 2
    assert "installed from another checkout" in told


def test_a_full_disk_without_a_file_name_is_one_sentence_too(capsys):
    error = OSError(errno.ENOSPC, "No space left on device")
    assert end_of(raiser(error), capsys) == (2, "error: cannot write the output: No space left on device\n")


@pytest.mark.parametrize("error", [ValueError("a bug"), FileNotFoundError(errno.ENOENT, "a bug", "x")])
def test_a_bug_keeps_its_traceback(error):
    with pytest.raises(type(error), match="a bug"):
        run_main(raiser(error))


@pytest.mark.parametrize("arguments", [["--seed", "3"], ["--text", "my poems.txt", "--name", "it's"]])
def test_ctrl_c_prints_the_command_that_goes_on_and_code_130(capsys, monkeypatch, arguments):
    monkeypatch.setattr(sys, "argv", ["../rl/vpg.py", *arguments])
    code, told = end_of(raiser(KeyboardInterrupt()), capsys)
    assert code == 130
    assert "Traceback" not in told
    line = told.strip().splitlines()[-1].partition("To go on: ")[2]
    assert shlex.split(line) == ["python", "../rl/vpg.py", *arguments]  # as typed: it works from the same folder


def test_output_cut_off_by_its_reader_is_no_traceback():
    code = "import sys; from common.cli import run_main; run_main(lambda: [print('x' * 99) for _ in range(9999)] and 0)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        told = process.stderr.read()
    assert process.returncode == 1
    assert told == b""


def test_another_pipe_that_breaks_is_not_taken_for_the_output():
    code = "from common.cli import run_main; run_main(lambda: (_ for _ in ()).throw(BrokenPipeError('a worker')))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 1
    assert "BrokenPipeError: a worker" in run.stderr


# ---------------------------------------------------------------- devices


@pytest.fixture
def present(monkeypatch):
    """Pretend that exactly these accelerators are here."""

    def pretend(*names: str) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in names)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in names)

    return pretend


@pytest.mark.parametrize(
    ("here", "chosen"), [((), "cpu"), (("mps",), "mps"), (("cuda",), "cuda"), (("cuda", "mps"), "cuda")]
)
def test_auto_takes_the_fastest_and_tiny_nets_stay_on_the_cpu(present, here, chosen):
    present(*here)
    device, reason = choose_device("auto")
    assert device.type == chosen
    assert ("no CUDA or MPS" in reason) == (not here)
    device, reason = choose_device("auto", tiny=True)
    assert device.type == "cpu"
    assert "too small" in reason


@pytest.mark.parametrize("name", ["cpu", "cuda", "mps"])
def test_a_named_device_is_taken_even_for_tiny_nets(present, name):
    present("cuda", "mps")
    device, reason = choose_device(name, tiny=True)
    assert (device.type, reason) == (name, "as asked")


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_missing_device_is_bad_input(present, name):
    present()
    with pytest.raises(BadInput, match=rf"--device {name}: .*no {name.upper()} device"):
        choose_device(name)


@pytest.mark.parametrize("name", ["tpu", "", "CPU", "cuda:7"])
def test_an_unknown_device_is_bad_input(name):
    with pytest.raises(BadInput, match=r"is unknown: choose auto, cpu, cuda or mps"):
        choose_device(name)
