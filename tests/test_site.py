"""The site of the documentation is built without a warning, and its pages load nothing from elsewhere."""

import json
import os
import re
import subprocess
import sys
from functools import partial
from html import unescape
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from test_page import FRAME, chromium, luminance

ROOT = Path(__file__).parents[1]
LOADING = {"src", "srcset", "data", "poster", "background", "action", "ping"}
ELSEWHERE = re.compile(r"^\s*(?:[a-z][a-z+.-]*:)?//", re.IGNORECASE)
IN_STYLE = re.compile(r"""(?:url\(|@import)\s*["']?((?:[a-z]+:)?//[^"')\s]+)""", re.IGNORECASE)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    answer = subprocess.run(command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return folder


class Loaded(HTMLParser):
    """What a page loads, or looks up, from another origin; links to follow are none of it."""

    def __init__(self, page):
        super().__init__()
        self.found, self.inside = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.inside = tag
        for name, value in attrs:
            loads = name in LOADING or (name in {"href", "xlink:href"} and tag not in {"a", "area"})
            if loads and ELSEWHERE.match(value or ""):
                self.found.append(value)
            self.found += IN_STYLE.findall(value or "") if name == "style" else []

    def handle_data(self, data):
        if self.inside == "style":
            self.found += IN_STYLE.findall(data)
        elif self.inside == "script":
            self.found += re.findall(r"https?://[^\"'\s]+", data)

    def handle_endtag(self, tag):
        self.inside = ""


def test_what_is_looked_for():
    """Sees a search for loads that finds none."""
    page = (
        '<link rel="preconnect" href="https://a.b"><script src="//c.d/e.js"></script>'
        '<a href="https://f.g">to follow</a>'
        '<img srcset="https://h.i/j.png 2x"><style>@import "https://k.l"; p { background: url(//m.n) }</style>'
        '<script>fetch("https://o.p")</script><p style="background: url(\'https://q.r\')">https://s.t</p>'
    )
    assert Loaded(page).found == [
        "https://a.b", "//c.d/e.js", "https://h.i/j.png 2x", "https://k.l", "//m.n", "https://o.p", "https://q.r",
    ]  # fmt: skip


def test_nothing_is_loaded_from_elsewhere(site):
    """Sees a warning of the build, a dead link, and a font, script, image or style of another origin."""
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    found = {str(page.relative_to(site)): Loaded(page.read_text("utf-8")).found for page in pages}
    found |= {path.name: IN_STYLE.findall(path.read_text("utf-8")) for path in site.rglob("*.css")}
    assert not {name: loads for name, loads in found.items() if loads}


def test_formulas_and_examples_are_converted(site):
    """Sees a formula that is left as TeX, and an example of a docstring that became a quotation."""
    for page in site.rglob("*.html"):
        text = re.sub(r"<(pre|code|script)\b.*?</\1>", "", page.read_text("utf-8"), flags=re.DOTALL)
        assert not re.search(r"arithmatex|\\\(|\\frac|merror|&gt;&gt;&gt;", text), page


MEASURE = """
<script>
addEventListener("load", () => setTimeout(() => {
  const ink = getComputedStyle(document.querySelector(".md-content p")).color;
  const paper = getComputedStyle(document.body).backgroundColor;
  const loaded = performance.getEntriesByType("resource").map((one) => one.name);
  const layout = { width: document.documentElement.scrollWidth, view: innerWidth, ink, paper, loaded };
  parent.postMessage(JSON.stringify(layout), "*");
}, 500));
</script>
"""


@pytest.fixture(scope="module")
def address(site):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=site))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.mark.page
@pytest.mark.parametrize("page", ["index", "concepts/parts", "results/budgets", "reference/optimizers", "convergence"])
def test_pages_fit_the_screen(site, address, page, tmp_path):
    """Sees a page wider than the screen of a phone, letters without contrast, and a load from elsewhere."""
    folder = (site / page).parent
    source = (site / f"{page}.html").read_text("utf-8")
    (folder / "measured.html").write_text(source.replace("</body>", f"{MEASURE}</body>"), encoding="utf-8")
    for width, switches in ((390, ()), (1200, ("--blink-settings=preferredColorScheme=0",))):
        (folder / "frame.html").write_text(FRAME.format(page="measured.html", width=width), encoding="utf-8")
        frame = f"{address}/{(folder / 'frame.html').relative_to(site)}"
        answer = chromium("--dump-dom", "--window-size=1300,6000", *switches, frame, profile=tmp_path / str(width))
        layout = json.loads(unescape(re.search(r"<pre[^>]*>(.*?)</pre>", answer.stdout, re.DOTALL)[1]))
        assert layout["view"] == width >= layout["width"]
        assert layout["loaded"]
        assert all(name.startswith(address) for name in layout["loaded"]), layout["loaded"]
        assert (luminance(layout["paper"]) < 0.5) == bool(switches)
        low, high = sorted((luminance(layout["ink"]), luminance(layout["paper"])))
        assert (high + 0.05) / (low + 0.05) >= 4.5


@pytest.mark.page
def test_search_needs_no_server(site, tmp_path):
    """Sees a search that finds nothing where the pages are opened as files."""
    asked = site / "asked.html"
    page = (site / "index.html").read_text("utf-8")
    asked.write_text(page, encoding="utf-8")
    answer = chromium("--dump-dom", f"{asked.as_uri()}?q=BudgetError", profile=tmp_path)
    assert re.search(r"<mark[^>]*>BudgetError</mark>", answer.stdout)
