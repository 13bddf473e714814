"""The report in a real browser: laid out, readable, without overflow. Run with `pytest -m page`; needs chromium."""

import json
import re
import shutil
import struct
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from sharpless.report.html import render
from sharpless.report.runs import read_runs
from sharpless.report.summary import summarize
from synthetic_runs import METHODS, MSE, make_record, write_records

pytestmark = pytest.mark.page

MEASURE = """
<script>
addEventListener("load", () => {
  const box = (element) => {
    const { x, y, width, height } = element.getBoundingClientRect();
    return { x, y, width, height, text: element.textContent.trim() };
  };
  const figures = [...document.querySelectorAll("figure svg")].map((svg) => ({
    ...box(svg),
    name: svg.getAttribute("aria-label"),
    texts: [...svg.querySelectorAll("text")].map((text) => ({
      ...box(text),
      size: parseFloat(getComputedStyle(text).fontSize) * svg.getScreenCTM().a,
    })),
  }));
  const sticky = [...document.querySelectorAll("section > .scroll")].map((region) => {
    region.scrollLeft = 200;
    const name = region.querySelector("tbody th").getBoundingClientRect().x - region.getBoundingClientRect().x;
    region.scrollLeft = 0;
    return name;
  });
  const colors = [...document.querySelectorAll("p, li, h1, h2, td, th, figcaption, summary, footer, svg text")]
    .map((element) => element instanceof SVGElement ? getComputedStyle(element).fill : getComputedStyle(element).color);
  const contrast = { paper: getComputedStyle(document.body).backgroundColor, inks: [...new Set(colors)] };
  const scrolling = [...document.querySelectorAll(".scroll")].filter((it) => it.scrollWidth > it.clientWidth).length;
  const width = document.documentElement.scrollWidth;
  const layout = { sticky, contrast, scrolling, width, view: innerWidth, figures };
  parent.postMessage(JSON.stringify(layout), "*");
});
</script>
"""
# A frame, because headless Chromium has no window as narrow as a phone.
FRAME = """
<!doctype html><body style="margin: 0"><pre hidden></pre>
<iframe src="{page}" style="width: {width}px; height: 6000px; border: 0"></iframe>
<script>
addEventListener("message", (event) => {{ document.querySelector("pre").textContent = event.data; }});
</script>
"""


def chromium(*arguments: str, profile: Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.fail("chromium is not on the PATH: install it, or leave these tests out with -m 'not page'")
    switches = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr",
        "--virtual-time-budget=5000", f"--user-data-dir={profile}",
    ]  # fmt: skip
    return subprocess.run([program, *switches, *arguments], capture_output=True, text=True, timeout=600, check=True)


SIX = ("sgd", "sgd-long", "sam", "rst", "g-rst", "thrifty")
STUDIES: dict[str, tuple[tuple[str, ...], int, dict[str, Any]]] = {
    "six methods": (SIX, 5, {}),
    "one seed": (SIX, 1, {}),
    "an error, ρ chosen": (tuple(METHODS), 5, {"metric": MSE, "chosen": True, "task": "my_task.py:train"}),
    "validation": (tuple(METHODS), 3, {"split": "validation", "data": {"fingerprint": "0123456789abcdef" * 4}}),
}


@pytest.fixture(scope="module", params=STUDIES)
def folder(request, tmp_path_factory):
    methods, seeds, changes = STUDIES[request.param]
    records = [make_record(method, seed, **changes) for method in methods for seed in range(seeds)]
    folder = write_records(tmp_path_factory.mktemp("comparison"), records)
    runs = read_runs(folder)
    page = render(runs, summarize(runs))
    measured = page.replace("</body>", f"{MEASURE}</body>")
    (folder / "report.html").write_text(page, encoding="utf-8")
    (folder / "measured.html").write_text(measured, encoding="utf-8")
    (folder / "printed.html").write_text(measured.replace("@media print", "@media screen"), encoding="utf-8")
    return folder


def measure(folder: Path, page: str, width: int, *switches: str) -> dict[str, Any]:
    """Return what the browser makes of a page in a view of this width."""
    frame = folder / f"frame-{width}.html"
    frame.write_text(FRAME.format(page=page, width=width), encoding="utf-8")
    answer = chromium("--dump-dom", "--window-size=1300,6000", *switches, frame.as_uri(), profile=folder / "profile")
    measured: dict[str, Any] = json.loads(unescape(re.search(r"<pre[^>]*>(.*?)</pre>", answer.stdout)[1]))
    assert measured["view"] == width
    return measured


@pytest.fixture(scope="module", params=[1200, 390])
def layout(request, folder):
    return measure(folder, "measured.html", request.param)


def test_paper_is_wide_enough(folder):
    """Sees: a table that is cut at the edge of a printed page, where nothing scrolls."""
    layout = measure(folder, "printed.html", 718)  # of A4, within the margins of Chromium
    assert layout["width"] <= layout["view"]


def test_no_sideways_scroll(layout):
    """Sees: a table, a figure or a long word that makes the whole page wider than the screen."""
    assert layout["width"] <= layout["view"]


def test_tables_are_whole_on_a_desk(layout):
    """Sees: a last column that has to be scrolled to where there is room, and none where there is not."""
    assert (layout["scrolling"] == 0) == (layout["view"] == 1200)


def test_names_stay_in_sight(layout):
    """Sees: the names of the methods scrolled away where the table is wider than the screen."""
    assert all(abs(name) <= 1 for name in layout["sticky"])


def test_letters_stand_out(folder):
    """Sees: text too faint to read on its paper, in light or in dark, in figures as well."""
    for switches in ((), ("--blink-settings=preferredColorScheme=0",)):
        contrast = measure(folder, "measured.html", 1200, *switches)["contrast"]
        paper = luminance(contrast["paper"])
        assert (paper < 0.5) == bool(switches)
        for ink in contrast["inks"]:
            low, high = sorted((luminance(ink), paper))
            assert (high + 0.05) / (low + 0.05) >= 4.5, ink


def luminance(color: str) -> float:
    """Return the relative luminance of a color as the browser names it, by WCAG 2."""
    channels = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_figures_are_laid_out(layout):
    """Sees: a figure of no height, one that is cut at the edge, and letters too small to read on a phone."""
    assert len(layout["figures"]) == 6 + any(figure["name"].startswith("Validation") for figure in layout["figures"])
    for figure in layout["figures"]:
        assert figure["width"] >= 300
        assert figure["height"] >= 100
        assert figure["x"] >= 0
        assert figure["x"] + figure["width"] <= layout["view"]
        assert min(text["size"] for text in figure["texts"]) >= 9


def test_no_text_is_covered_or_cut(layout):
    """Sees: labels over each other or beyond the figure, with the fonts that the browser really has."""
    for figure in layout["figures"]:
        for i, text in enumerate(figure["texts"]):
            assert inside(text, figure), text["text"]
            over = [other["text"] for other in figure["texts"][:i] if overlap(text, other)]
            assert not over, f"{figure['name']}: {text['text']!r} over {over}"


def inside(text: dict[str, Any], figure: dict[str, Any]) -> bool:
    return (
        text["x"] >= figure["x"] - 1
        and text["y"] >= figure["y"] - 1
        and text["x"] + text["width"] <= figure["x"] + figure["width"] + 1
        and text["y"] + text["height"] <= figure["y"] + figure["height"] + 1
    )


def overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two texts touch; the empty upper and lower fifth of a line box does not count."""
    sideways = min(one["x"] + one["width"], other["x"] + other["width"]) - max(one["x"], other["x"])
    upright = min(one["y"] + one["height"], other["y"] + other["height"]) - max(one["y"], other["y"])
    return sideways > 0 and upright > 0.4 * min(one["height"], other["height"])


def test_console_is_silent(folder):
    """Sees: an error or a warning that the browser writes about the page."""
    answer = chromium("--dump-dom", (folder / "report.html").as_uri(), profile=folder / "profile")
    assert "Statistical methods" in answer.stdout
    assert "CONSOLE" not in answer.stderr


@pytest.mark.parametrize("width", [1200, 500])
def test_page_is_painted(folder, width):
    """Sees: a page that is laid out but stays blank."""
    shot = folder / f"{width}.png"
    page = (folder / "report.html").as_uri()
    chromium(f"--screenshot={shot}", f"--window-size={width},2000", page, profile=folder / "profile")
    image = shot.read_bytes()
    assert struct.unpack(">II", image[16:24]) == (width, 2000)
    assert len(image) > 50_000
