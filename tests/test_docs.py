"""The pages under docs say what is so."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "benchmarks/results").glob("*.md")))
PAGES = sorted((ROOT / "docs").glob("*.md"))


def test_rows_of_results():
    """Sees a measured row in a page that is in no committed results file."""
    lines = [line for page in PAGES for line in page.read_text(encoding="utf-8").splitlines()]
    rows = [line for line in lines if re.match(r"\|.* ± .*\|", line)]
    assert len(rows) > 20
    assert all(row in RESULTS for row in rows), [row for row in rows if row not in RESULTS]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page):
    """Sees a link to a file that is not there."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
