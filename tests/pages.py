"""What a reader reads: README, the page of each project, and docs/."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT_PAGES = (
    "scaling_laws/README.md",
    "transformers/README.md",
    "transformers/noise_scale.md",
    "rl/README.md",
    "rl/procgen.md",
)
PAGES = ("README.md", "data/README.md", *PROJECT_PAGES, *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))


def page(name: str) -> str:
    """The text of a page."""
    return (ROOT / name).read_text(encoding="utf-8")


def one_line(text: str) -> str:
    """For sentences that wrap."""
    return " ".join(text.split())
