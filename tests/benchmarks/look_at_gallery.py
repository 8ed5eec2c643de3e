"""Open the gallery in a headless browser at two widths, use it as a person would, and keep pictures of what is seen.

    python tests/benchmarks/look_at_gallery.py results/index.html --out FOLDER [--browser PATH]

Needs Chromium and the package playwright, neither of which the project installs. Fails where the page asks a network for
anything, logs an error, is wider than its window, or does not do what its controls promise.
"""

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

WIDTHS = (400, 1280)


def use(page: Any, width: int, out: Path) -> None:
    """Filter, copy a command, tick two runs and compare them; a picture of each state."""
    page.set_viewport_size({"width": width, "height": 900})
    page.reload()
    page.evaluate("scrollTo(0, 0)")  # a reloaded page stays where it was
    page.wait_for_timeout(300)  # for the pictures that come into sight
    page.screenshot(path=out / f"gallery_{width}.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= width, f"wider than {width} pixels"
    total = page.locator("article").count()
    page.fill("#search", "no such run")
    assert page.locator("article:visible").count() == 0
    assert page.locator("#empty").is_visible()
    page.fill("#search", "")
    project = page.locator("#project option").nth(1).inner_text()
    page.select_option("#project", project)
    shown = page.locator("article:visible").count()
    assert 0 < shown <= total, (shown, total)
    assert page.locator("#count").inner_text() == f"{shown} of {total}"
    page.select_option("#project", "")
    button = page.locator("button.copy").first
    button.click()
    assert button.inner_text() == "copied"
    page.focus("#search")
    page.keyboard.press("Control+V")
    assert page.input_value("#search") == page.locator(".command code").first.inner_text()
    page.fill("#search", "")
    picks = page.locator("input.pick")
    if picks.count() >= 2:
        for i in (0, 1):
            picks.nth(i).check()
        assert page.locator("#chart").is_visible()
        assert page.locator("#rows tr").count() == 2
        for column in page.locator("#column option").all_inner_texts():
            page.select_option("#column", column)
        page.locator("#column").evaluate(
            "(select) => { select.selectedIndex = 0; select.dispatchEvent(new Event('input')); }"
        )
        page.screenshot(path=out / f"compared_{width}.png")
        page.click("#clear")
        assert not page.locator("#chart").is_visible()


def main() -> int:
    """Both widths, light and dark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--browser", default="/usr/bin/chromium")
    given = parser.parse_args()
    try:
        playwright: Any = importlib.import_module("playwright.sync_api")
    except ImportError:
        print("error: this needs the package playwright: pip install playwright", file=sys.stderr)
        return 2
    given.out.mkdir(parents=True, exist_ok=True)
    wrong: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=given.browser, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            page = browser.new_page(color_scheme=scheme)
            page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.on(
                "request", lambda ask: wrong.append(ask.url) if not ask.url.startswith(("file:", "data:")) else None
            )
            page.goto(given.page.resolve().as_uri())
            seconds = (
                page.evaluate("performance.timing.domContentLoadedEventEnd - performance.timing.navigationStart") / 1e3
            )
            print(f"{scheme}: {page.locator('article').count()} runs, {seconds:.2f} s to a page that can be used")
            (given.out / scheme).mkdir(exist_ok=True)
            for width in WIDTHS:
                use(page, width, given.out / scheme)
        browser.close()
    print("\n".join(wrong) or f"nothing went wrong; pictures: {given.out}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
