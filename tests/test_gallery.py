"""The page of all runs: whole whatever a run folder holds, in order, and true to the tables."""

import json
import os
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import common.run
from common import gallery
from common.errors import BadInput
from common.files import write_json, write_text
from common.gallery import card_of, gallery_page, reference_page, refresh, run_folders, thinned
from common.run import Run

EVIL = "\"><script>alert(1)</script><img src=x onerror=alert(1)>' onclick=alert(1) {{ 7 * 7 }}"


class Outline(HTMLParser):
    """What a browser would make of a page: elements with their attributes, the text, and what stands in scripts."""

    def __init__(self, page: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.scripts, self._in = "", [], ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._in = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in == "script":
            self.scripts[-1] += data
        else:
            self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def make_run(
    folder: Path, config: Any = None, summary: Any = None, metrics: str = "", figures: tuple[str, ...] = ()
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None:
        write_text(folder / "config.json", json.dumps(config))
    if summary is not None:
        write_text(folder / "summary.json", json.dumps(summary))
    if metrics:
        write_text(folder / "metrics.csv", metrics)
    for name in figures:
        (folder / name).write_bytes(b"")
    return folder


TABLE = "step,val_loss\n1,2.5\n2,1.25\n"


def plain_run(folder: Path, text: str) -> Path:
    config = {
        "config": {"task": text},
        "differs": {text: text},
        "command": text,
        "processor": text,
        "versions": {text: text},
        "date": "2026-11-28T06:00:00+00:00",
    }
    return make_run(
        folder, config, {"status": "ok", "headline": text}, TABLE.replace("val_loss", "val_loss,x"), ("a.png",)
    )


def test_nothing_of_a_run_becomes_a_part_of_the_page(tmp_path):
    """A folder's name, settings, command, headline and error are shown; none of them makes an element or an attribute."""
    plain, evil = tmp_path / "plain", tmp_path / "evil"
    plain_run(plain / "rl" / "a", "text")
    make_run(plain / "rl" / "b", {}, figures=("b.png",))
    write_text(plain / "rl" / "b" / "error.txt", "Traceback\ntext")
    name = EVIL.replace("/", "\u2215")
    plain_run(evil / "rl" / name, EVIL)
    make_run(evil / "rl" / "b", {}, figures=(f"{name}.png",))
    write_text(evil / "rl" / "b" / "error.txt", f"Traceback\n{EVIL}\u2028</script>")
    write_text(evil / "rl" / name / "metrics.csv", TABLE.replace("val_loss", "</script><script>alert(1)//"))
    outlines = [Outline(gallery_page(folder)) for folder in (plain, evil)]
    elements, hostile = (sorted((tag, *sorted(found)) for tag, found in one.elements) for one in outlines)
    assert elements == hostile
    assert outlines[1].count("script") == 2
    assert outlines[0].scripts[1] == outlines[1].scripts[1]  # ours, whatever the runs say
    assert "</script><script>alert(1)//" in json.loads(outlines[1].scripts[0])[f"rl/{name}"]
    assert outlines[1].text.count(EVIL) >= 4
    assert "49" not in outlines[1].text
    urls = [value for _, found in outlines[1].elements for key, value in found.items() if key in ("href", "src")]
    assert len(urls) == 4
    assert all(url and url.startswith("./rl/") and not set(url) & set("\"<>' ") for url in urls)


def test_the_page_asks_nobody_for_anything(tmp_path):
    plain_run(tmp_path / "rl" / "a", "text")
    page = gallery_page(tmp_path)
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "@import" not in page
    assert "url(" not in page


@pytest.mark.parametrize(
    "content", [b"", b"[1]", b"{", b"\xff\xfe", b"null", b'{"config": 3, "differs": [1], "versions": 7, "date": 5}']
)
@pytest.mark.parametrize("file", ["config.json", "summary.json", "metrics.csv", "error.txt"])
def test_a_damaged_folder_is_shown_with_what_is_known(tmp_path, file, content):
    run = plain_run(tmp_path / "rl" / "a", "text")
    (run / file).write_bytes(content)
    outline = Outline(gallery_page(tmp_path))
    assert outline.count("article") == 1
    assert card_of(run, tmp_path).title == "a"


def test_what_a_run_tells(tmp_path):
    run = plain_run(tmp_path / "transformers" / "shakespeare-quick-0123abcd-s0", "text")
    card = card_of(run, tmp_path)
    assert (card.project, card.task, card.status, card.headline) == ("transformers", "text", "ok", "text")
    assert card.date == "2026-11-28 06:00 UTC"
    assert card.figures == [("a.png", "./transformers/shakespeare-quick-0123abcd-s0/a.png")]
    assert card.metrics == {"step": [1, 2], "val_loss": [2.5, 1.25]}
    assert card_of(make_run(tmp_path / "rl" / "b", {}), tmp_path).status == "unfinished"
    write_text(tmp_path / "rl" / "b" / "error.txt", "Traceback\nValueError: a bug\n")
    assert card_of(tmp_path / "rl" / "b", tmp_path).status == "failed: ValueError: a bug"
    without = make_run(tmp_path / "rl" / "c", {}, {"status": "diverged", "eval_return_mean": 2.5, "steps": 7})
    assert (card_of(without, tmp_path).status, card_of(without, tmp_path).headline) == (
        "diverged",
        "eval_return_mean 2.5",
    )


def test_metrics_are_thinned_evenly_and_keep_both_ends(tmp_path):
    rows = [f"{step},{step / 7:.9f},nan" for step in range(1000)]
    write_text(tmp_path / "metrics.csv", "step,loss,never\n" + "\n".join(rows) + "\n")
    found = thinned(tmp_path / "metrics.csv", 11)
    assert found["step"] == [0, 100, 200, 300, 400, 500, 599, 699, 799, 899, 999]
    assert found["loss"][-1] == 142.71
    assert set(found) == {"step", "loss"}


def test_newest_first_and_neither_links_nor_folders_within_a_run(tmp_path):
    for day, name in enumerate(["old", "newest", "middle"]):
        date = f"2026-11-{[1, 3, 2][day]:02d}T00:00:00+00:00"
        make_run(tmp_path / "rl" / name, {"date": date})
    make_run(tmp_path / "rl" / "old" / "cells", {"date": "2027-01-01T00:00:00+00:00"})
    (tmp_path / "latest").symlink_to("rl/newest")
    page = gallery_page(tmp_path)
    assert sorted(path.name for path in run_folders(tmp_path)) == ["middle", "newest", "old"]
    places = [page.index(f"<h2>{name}</h2>") for name in ("newest", "middle", "old")]
    assert places == sorted(places)


def test_three_hundred_runs_are_no_burden(tmp_path):
    table = "step," + ",".join(f"c{i}" for i in range(12)) + "\n"
    table += "".join(f"{step},{','.join(str(step / (i + 1)) for i in range(12))}\n" for step in range(400))
    for i in range(300):
        make_run(tmp_path / "rl" / f"run-{i}", {"command": "python rl/vpg.py"}, {"status": "ok"}, table, ("a.png",))
    began = time.perf_counter()
    page = refresh(tmp_path)
    assert time.perf_counter() - began < 5
    assert page.stat().st_size < 6e6
    assert page.read_text().count("<article") == 300


# ---------------------------------------------------------------- when a run ends


def test_the_end_of_a_run_brings_the_page_up_to_date(tmp_path):
    run = Run(tmp_path / "rl" / "mine", {}, "cpu", results=tmp_path)
    assert not (tmp_path / "index.html").exists()
    run.finish(headline="all is well")
    run.close()
    assert "all is well" in (tmp_path / "index.html").read_text()


def test_a_page_that_cannot_be_written_is_one_sentence_and_costs_nothing(tmp_path, monkeypatch, capsys):
    def broken(_: Path) -> Path:
        raise ValueError("no template")

    monkeypatch.setattr(gallery, "refresh", broken)
    with Run(tmp_path / "rl" / "mine", {}, "cpu", results=tmp_path) as run:
        run.finish()
    assert capsys.readouterr().out == "the page of all runs cannot be written: ValueError: no template\n"
    assert (tmp_path / "rl" / "mine" / "summary.json").exists()


# ---------------------------------------------------------------- the committed results


def test_the_page_of_the_committed_results_is_what_the_generator_writes():
    reference = Path(common.run.__file__).resolve().parents[1] / "results" / "reference"
    assert (reference / "README.md").read_text(encoding="utf-8") == reference_page(reference)


def test_an_older_result_says_so(tmp_path):
    make_run(tmp_path / "rl" / "a", figures=("curve.png",))
    make_run(
        tmp_path / "rl" / "b",
        {"command": "python rl/vpg.py", "git_commit": "0" * 40, "git_dirty": False},
        {"headline": "a | b"},
    )
    entry = {
        "command": "python rl/compare.py",
        "commit": "abc",
        "machine": "two cores",
        "versions": "torch 2",
        "note": "why",
    }
    write_json(tmp_path / "older.json", {"rl/a": entry})
    page = reference_page(tmp_path)
    assert "`python rl/compare.py`; commit abc; two cores; torch 2; *older: why*" in page
    assert "`python rl/vpg.py`; commit 000000000000, clean" in page
    assert "a \\| b" in page
    assert "![curve of rl/a](rl/a/curve.png)" in page


def test_a_results_folder_that_is_none_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["gallery.py", "--results-dir", os.fspath(tmp_path / "absent")])
    with pytest.raises(BadInput, match="is no folder"):
        gallery.main()
