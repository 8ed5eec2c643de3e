"""What train.py refuses, in one sentence."""

import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from common.errors import BadInput
from lm_commands import (
    INTEGERS,
    RUNS,
    TINY,
    inline,
    one_sentence,
    settings_of,
)

ROOT = Path(__file__).resolve().parent.parent

BAD = [
    (("--task", "tolstoy"), "--task"),
    (("--task", "text"), "--task text needs a file"),
    (("--task", "text", "--text", "absent.txt"), "cannot read absent.txt"),
    (("--task", "text", "--text", "data"), "cannot read data"),
    (("--task", "text", "--text", "empty.txt"), "empty.txt is empty"),
    (("--task", "text", "--text", "blank.txt"), "nothing but white space"),
    (("--task", "text", "--text", "latin.txt"), "latin.txt is not UTF-8"),
    (("--task", "text", "--text", "zero.txt"), "zero bytes"),
    (("--task", "text", "--text", "short.txt"), "short.txt is too short"),
    ((*TINY, "--context", "9999"), "with --context 9999 at least 29,997 are needed; --context "),
    (("--task", "shakespeare", "--text", "t.txt"), "--text goes with --task text"),
    (("--task", "repeat", "--text", "t.txt", *INTEGERS, "--steps", "1"), "--text goes with --task text"),
    ((*TINY, "--tokenizer", "syllable"), "--tokenizer"),
    ((*TINY, "--tokenizer", "bpe", "--vocab", "100"), "100"),
    ((*TINY, "--tokenizer", "word", "--vocab", "5"), "vocabulary of 5 cannot hold"),
    (("--task", "repeat", "--tokenizer", "bpe"), "--tokenizer is for texts"),
    ((*TINY, "--arch", "lstm"), "--arch"),
    ((*TINY, "--without", "attention"), "--without attention is unknown"),
    ((*TINY, "--arch", "vaswani", "--without", "shift"), "--without takes parts of --arch modern away"),
    ((*TINY, "--schedule", "linear"), "--schedule linear goes with --arch vaswani"),
    ((*TINY, "--minutes", "1"), "--steps and --minutes exclude each other"),
    ((*TINY[:-2], "--minutes", "0"), "--minutes must be positive"),
    ((*TINY[:-2], "--minutes", "nan"), "--minutes must be positive"),
    ((*TINY[:-2], "--minutes", "inf"), "--minutes must be positive"),
    ((*TINY, "--steps", "0"), "--steps must be positive"),
    ((*TINY, "--steps", "-4"), "--steps must be positive"),
    ((*TINY, "--layers", "0"), "--layers must be positive"),
    ((*TINY, "--heads", "0"), "--heads must be positive"),
    ((*TINY, "--width", "-16"), "--width must be positive"),
    ((*TINY, "--width", "24"), "--width 24 must be a multiple of 16"),
    ((*TINY, "--width", "48", "--heads", "5"), "twice --heads 5"),
    ((*TINY, "--context", "0"), "--context must be positive"),
    ((*TINY, "--batch", "0"), "--batch must be positive"),
    ((*TINY, "--lr-scale", "0"), "--lr-scale must be positive"),
    ((*TINY, "--lr-scale", "nan"), "--lr-scale must be positive"),
    ((*TINY, "--lr", "3e-4"), "--lr 0.0003: there is no single learning rate here"),
    ((*TINY, "--dropout", "1"), "--dropout must be at least 0 and below 1"),
    ((*TINY, "--dropout", "nan"), "--dropout must be at least 0 and below 1"),
    ((*TINY, "--batch", "5", "--track-noise"), "--track-noise halves the batch, and --batch 5 is odd"),
    ((*TINY, "--smoothing", "-0.1"), "--smoothing must be at least 0 and below 1"),
    ((*TINY, "--decay", "-1"), "--decay must not be negative"),
    ((*TINY, "--decay", "nan"), "--decay"),
    ((*TINY, "--decay", "inf"), "--decay"),
    ((*TINY, "--seed", "-1"), "--seed must not be negative"),
    ((*TINY, "--seed", str(2**64)), "--seed"),
    ((*TINY, "--device", "mps"), "no MPS device"),
    ((*TINY, "--precision", "fp8"), "--precision"),
    ((*TINY, "--name", "../escape"), "--name"),
    ((*TINY, "--data-dir", "nowhere"), "nowhere (--data-dir) does not exist"),
    (("--from-config", "absent.json"), "absent.json: No such file"),
    (("--from-config", "t.txt"), "t.txt is not the config.json of a run"),
    (("--task", "ascending", "--length", "2"), "--length 2 is too short"),
    (("--task", "ascending", "--length", "20", "--vocab", "19"), "--vocab 19 is too small"),
    (("--task", "repeat", "--length", "0"), "--length 0 is too short"),
    (("--task", "repeat", "--vocab", "1"), "--vocab 1 is too small"),
    (("--task", "induction", "--length", "7"), "--length 7 is too short"),
    (("--task", "induction", "--length", "64", "--vocab", "255"), "--vocab 255 is too small for induction"),
]


@pytest.mark.parametrize(("arguments", "sentence"), BAD, ids=lambda value: " ".join(value[-4:]) if value else "")
def test_bad_arguments_get_one_sentence_and_leave_nothing(lm_folder, monkeypatch, capsys, arguments, sentence):
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    Path("empty.txt").write_text("")
    Path("blank.txt").write_text(" \n" * 200)
    Path("latin.txt").write_bytes("où ".encode("latin-1") * 100)
    Path("zero.txt").write_bytes(b"abc\0" * 100)
    Path("short.txt").write_text("to be\n")
    assert inline(monkeypatch, *arguments) == 2
    assert sentence in one_sentence(capsys.readouterr().err)
    assert not Path("results").exists()


def test_tinyshakespeare_without_file_and_network(lm_folder, monkeypatch, capsys):
    def no_network(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError(socket.gaierror(-3, "Temporary failure in name resolution"))

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    assert inline(monkeypatch, "--task", "tinyshakespeare", "--steps", "1") == 2
    told = one_sentence(capsys.readouterr().err)
    assert "tinyshakespeare is missing: cannot download" in told
    assert "--task shakespeare, which needs no network" in told
    assert not Path("results").exists()
    assert not list(Path("data").iterdir())


def test_results_folder_that_cannot_be_written(plain_lm_folder, monkeypatch, capsys):
    Path("results").write_text("a file, not a folder")
    assert inline(monkeypatch, *TINY) == 2
    assert "cannot write" in one_sentence(capsys.readouterr().err)
    assert Path("results").read_text() == "a file, not a folder"


def test_a_damaged_checkpoint_of_an_unfinished_run_is_one_sentence(plain_lm_folder, monkeypatch, capsys):
    assert inline(monkeypatch, *TINY, "--name", "a") == 0
    (RUNS / "a/summary.json").unlink()
    for damage in (b"not a checkpoint", (RUNS / "a/checkpoint.pt").read_bytes()[:500]):
        (RUNS / "a/checkpoint.pt").write_bytes(damage)
        assert inline(monkeypatch, *TINY, "--name", "a") == 2
        assert "checkpoint.pt is damaged" in one_sentence(capsys.readouterr().err)


def test_a_bad_configuration_is_refused_before_anything_is_imported_or_read():
    with pytest.raises(BadInput, match="exclude each other"):
        settings_of("--steps", "3", "--minutes", "2")


def test_the_scripts_start_from_a_foreign_folder(tmp_path):
    command = [sys.executable, ROOT / "transformers/train.py", "--help"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    for flag in ("--task", "--text", "--minutes", "--steps", "--tokenizer", "--arch", "--preset", "--from-config"):
        assert flag in run.stdout
    assert not list(tmp_path.iterdir())
