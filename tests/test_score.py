"""score.py on the runs of train.py."""

import json
from pathlib import Path
from typing import Any

import pytest

import score
from lm_commands import (
    INTEGERS,
    RUNS,
    TEXT,
    TINY,
    inline,
    one_sentence,
    summary_of,
)


def scored(monkeypatch: Any, capsys: Any, *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert inline(monkeypatch, *arguments, script=score) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("tokenizer", ["char", "word", "bpe"])
def test_score_reproduces_the_summary(plain_lm_folder, monkeypatch, capsys, tokenizer):
    assert inline(monkeypatch, *TINY, "--steps", "9", "--tokenizer", tokenizer) == 0
    (folder,) = RUNS.iterdir()
    summary = summary_of(folder.name)
    found = scored(monkeypatch, capsys)  # the latest run and its own validation text
    assert found["loss"] == pytest.approx(summary["val_loss"], abs=1e-5)
    assert found["loss_sliding"] == pytest.approx(summary["val_loss_sliding"], abs=1e-5)
    assert found["bits_per_char"] == pytest.approx(summary["val_bits_per_char"], abs=1e-5)
    assert found["characters"] == summary["val_characters"]
    Path("v.txt").write_text(TEXT[int(0.9 * len(TEXT)) :], encoding="utf-8")
    again = scored(monkeypatch, capsys, "--checkpoint", str(folder / "checkpoint.pt"), "--text", "v.txt")
    assert again == found
    # away from its folder a checkpoint scores a text still, but knows no text of its own
    (folder / "checkpoint.pt").rename("model.pt")
    assert scored(monkeypatch, capsys, "--checkpoint", "model.pt", "--text", "v.txt")["loss"] == found["loss"]
    assert inline(monkeypatch, "--checkpoint", "model.pt", script=score) == 2
    assert "give --text FILE" in one_sentence(capsys.readouterr().err)


def test_score_of_a_development_run_is_on_its_own_slice(plain_lm_folder, monkeypatch, capsys):
    assert inline(monkeypatch, *TINY, "--development", "--name", "a") == 0
    assert scored(monkeypatch, capsys)["loss"] == pytest.approx(summary_of("a")["val_loss"], abs=1e-5)


def test_what_cannot_be_scored_is_one_sentence(plain_lm_folder, monkeypatch, capsys):
    assert inline(monkeypatch, script=score) == 2
    assert "no run with a checkpoint.pt" in one_sentence(capsys.readouterr().err)
    assert inline(monkeypatch, "--task", "repeat", *INTEGERS, "--steps", "1", "--name", "integers") == 0
    assert inline(monkeypatch, *TINY, "--steps", "1", "--name", "a") == 0
    Path("binary").write_bytes(b"\xff\xfe\x80")
    Path("empty").write_text("")
    Path("runes").write_text("the ᚱ")
    Path("letter").write_text("t")
    for arguments, sentence in (
        (("--text", "absent"), "cannot read absent"),
        (("--text", "binary"), "binary is not UTF-8"),
        (("--text", "empty"), "empty is empty"),
        (("--text", "."), "cannot read ."),
        (("--text", "runes"), "characters that the training text has not: 'ᚱ'"),
        (("--text", "letter"), "at least 2 are needed"),
        (("--checkpoint", "absent.pt", "--text", "t.txt"), "absent.pt does not exist"),
        (("--checkpoint", "t.txt", "--text", "t.txt"), "t.txt is damaged or is not a checkpoint"),
        (("--checkpoint", str(RUNS / "integers/checkpoint.pt")), "was trained on integers (repeat)"),
        (("--device", "tpu"), "--device"),
    ):
        capsys.readouterr()
        assert inline(monkeypatch, *arguments, script=score) == 2
        out, err = capsys.readouterr()
        assert sentence in one_sentence(err)
        assert out == ""
    # A character of the validation text alone makes a vocabulary with single bytes, by which runes can be coded.
    Path("t.txt").write_text(TEXT + "voilà\n")
    assert inline(monkeypatch, *TINY, "--steps", "1", "--name", "b") == 0
    assert scored(monkeypatch, capsys, "--text", "runes")["characters"] == 4
