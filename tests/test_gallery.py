"""The page of all runs: whole whatever a run folder holds, in order, and true to the tables."""

import json
import os
import struct
import tempfile
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import common.run
from common import gallery
from common.errors import BadInput
from common.files import this_host, write_json, write_text
from common.gallery import Figure, card_of, gallery_page, reference_page, refresh, run_folders, thinned
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
    assert any("</script><script>alert(1)//" in metrics for metrics in json.loads(outlines[1].scripts[0]))
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


WORDS = st.text("a1é<&\ud800\u2028'\"", max_size=4)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.just(10**400),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(WORDS, part, max_size=3),
    max_leaves=4,
)
KEYS = ["config", "differs", "command", "date", "versions", "device", "cores", "git_commit", "git_dirty"]
TOLD = ["status", "headline", *gallery.TELLING]
TASK = st.dictionaries(st.sampled_from(["task", "env", "dataset"]), ANY_JSON)


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(st.sampled_from(KEYS), ANY_JSON) | st.fixed_dictionaries({"config": TASK}),
    st.dictionaries(st.sampled_from(TOLD), ANY_JSON),
)
def test_no_record_of_any_kind_breaks_the_page(config, summary):
    with tempfile.TemporaryDirectory() as results:
        make_run(Path(results) / "rl" / "a", config, summary, TABLE)
        outline = Outline(refresh(Path(results)).read_text(encoding="utf-8"))
    assert outline.count("article") == 1
    assert "cannot be read" not in outline.text


@pytest.mark.parametrize("date", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "yesterday"])
def test_a_date_beyond_the_calendar_is_that_of_the_files(tmp_path, date):
    run = make_run(tmp_path / "rl" / "a", {"date": date})
    assert card_of(run, tmp_path).seconds == (run / "config.json").stat().st_mtime


def test_a_table_that_is_none_is_left_out(tmp_path):
    write_text(tmp_path / "metrics.csv", f"step,loss\n1,{'9' * 140_000}\n")  # csv reads no longer field
    assert thinned(tmp_path / "metrics.csv") == {}


@pytest.mark.skipif(os.name == "nt" or os.uname().sysname == "Darwin", reason="file names are bytes on Linux alone")
def test_names_that_are_no_text_are_shown_and_lead_to_their_files(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/rl/\xff"))
    plain_run(folder, "text")
    plain_run(folder.with_name(os.fsdecode(b"\xfe")), "text")
    write_text(folder / "metrics.csv", "step,loss\n1,3\n")
    page = refresh(tmp_path).read_text(encoding="utf-8")
    assert page.count("<h2>?</h2>") == 2
    assert 'src="./rl/%FF/a.png"' in page
    assert page.index("%FE") < page.index("%FF")
    # In the order of the cards: their names do not tell them apart.
    assert [list(metrics) for metrics in json.loads(Outline(page).scripts[0])] == [
        ["step", "val_loss"],
        ["step", "loss"],
    ]


def test_a_folder_that_cannot_be_read_hides_no_other(tmp_path, monkeypatch):
    plain_run(tmp_path / "rl" / "a", "text")
    plain_run(tmp_path / "rl" / "b", "text")

    def gone(folder: Path, *_: Any) -> Any:
        if folder.name == "a":
            raise FileNotFoundError("it was here")
        return card_of(folder, tmp_path)

    monkeypatch.setattr(gallery, "card_of", gone)
    outline = Outline(gallery_page(tmp_path))
    assert outline.count("article") == 2
    assert "cannot be read (it was here)" in outline.text


def test_a_figure_keeps_its_room_and_a_tall_one_is_cut(tmp_path):
    run = make_run(tmp_path / "rl" / "a", {})
    (run / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 800, 300))
    (run / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 800, 1300))
    (run / "c.gif").write_bytes(b"GIF89a" + struct.pack("<HH", 600, 400) + bytes(14))
    figures = card_of(run, tmp_path).figures
    assert [(one.width, one.height, one.tall) for one in figures] == [
        (800, 300, False),
        (800, 1300, True),
        (600, 400, False),
    ]


def test_committed_results_have_what_older_json_says_and_no_date_of_a_checkout(tmp_path):
    make_run(tmp_path / "reference" / "rl" / "a", figures=("curve.png", "other.png"))
    make_run(tmp_path / "reference" / "rl" / "c", {"date": "2030-01-01T00:00:00+00:00"}, figures=("curve.png",))
    make_run(tmp_path / "rl" / "b", {"date": "2020-01-01T00:00:00+00:00"})
    entry = {"command": "python rl/compare.py", "commit": "abc", "machine": "two cores", "note": "why"}
    write_json(tmp_path / "reference" / "older.json", {"rl/a": entry})
    page = gallery_page(tmp_path)
    assert (
        page.index("<h2>b</h2>") < page.index("<h2>c</h2>") < page.index("<h2>a</h2>")
    )  # one's own before all of them
    assert page.count('class="figures several"') == page.count('class="figures"') == 1
    assert "<code>python rl/compare.py</code>" in page
    assert "<li>commit abc</li>\n<li>two cores</li>\n<li>older: why</li>" in page
    assert "<span>rl, committed</span>" in page


def test_what_a_run_tells(tmp_path):
    run = plain_run(tmp_path / "transformers" / "shakespeare-quick-0123abcd-s0", "text")
    card = card_of(run, tmp_path)
    assert (card.project, card.task, card.status, card.headline) == ("transformers", "text", "ok", "text")
    assert card.date == "2026-11-28 06:00 UTC"
    assert card.figures == [Figure("a.png", "./transformers/shakespeare-quick-0123abcd-s0/a.png")]
    assert card.metrics == {"step": [1, 2], "val_loss": [2.5, 1.25]}
    assert card_of(make_run(tmp_path / "rl" / "b", {}), tmp_path).status == "unfinished"
    write_text(tmp_path / "rl" / "b" / "error.txt", "Traceback\nValueError: a bug\n")
    assert card_of(tmp_path / "rl" / "b", tmp_path).status == "failed: ValueError: a bug"
    without = make_run(tmp_path / "rl" / "c", {}, {"status": "diverged", "eval_return_mean": 2.5, "steps": 7})
    assert (card_of(without, tmp_path).status, card_of(without, tmp_path).headline) == (
        "diverged",
        "eval_return_mean 2.5",
    )


def test_settings_are_written_as_a_person_would(tmp_path):
    differs = {"flops": 2e12, "lr": [0.001, 3e-4], "steps": 2_000_000, "train": True}
    card = card_of(make_run(tmp_path / "rl" / "a", {"differs": differs}), tmp_path)
    assert card.differs == {"flops": "2e+12", "lr": "0.001, 0.0003", "steps": "2000000", "train": "True"}


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
    stale = tmp_path / f".index.html.{this_host()}.99999999.tmp"
    stale.touch()
    run.finish(headline="all is well")
    run.close()
    assert not stale.exists()
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
