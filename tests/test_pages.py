"""The pages as texts: README is short, every link and path leads somewhere, and its numbers are those of the pages."""

import re

import pytest

from pages import PAGES, PROJECT_PAGES, ROOT, one_line, page


def test_readme_is_read_to_its_end():
    assert len(page("README.md").encode()) <= 12_000
    assert page("README.md").count("\n") <= 170


def anchors(name: str) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    titles = re.findall(r"^#+ (.*)$", page(name), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(name):
    links = re.findall(r"\]\(([^)\s]+)\)", page(name))
    for link in links:
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = (ROOT / name).parent / file if file else ROOT / name
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.resolve().relative_to(ROOT).as_posix()), link


@pytest.mark.parametrize("name", PAGES)
def test_every_path_and_script_that_is_named_is_there(name):
    folders = "scaling_laws|transformers|rl|common|tests|docs|data|results/reference"
    paths = re.findall(rf"(?<![\w/.])(?:{folders})/[\w./-]*\w\.(?:py|csv|md|json|png)", page(name))
    assert paths or name.startswith("docs/")
    for path in paths:
        assert (ROOT / path).exists(), path


def numbers(text: str) -> list[str]:
    """Numbers with an interval, and plain ones of three digits or more, as they are written."""
    text = re.sub(r"\]\([^)]*\)|`[^`]*`|https?://\S+", " ", text)  # neither links nor commands
    return re.findall(r"-?[\d,.]*\d \[-?[\d.]+, -?[\d.]+\]|(?<![\w.,-])\d{1,3}(?:,\d{3})+|(?<![\w.,])\d+\.\d{3}", text)


def test_readmes_numbers_are_those_of_the_pages():
    """Which others recompute from the committed runs."""
    readme = page("README.md")
    findings = readme[: readme.index("## Install")] + readme[readme.index("## What was found") :]
    pages = one_line(" ".join(map(page, PROJECT_PAGES)))
    found = numbers(one_line(findings))
    assert len(found) > 20
    assert [number for number in found if number not in pages] == []
