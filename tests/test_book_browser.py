"""The built site in a browser: nothing leaves it, nothing is cut, nothing is broken."""

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from setr_lib.training.record import ROOT

TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
PAGES = [entry["file"] for part in TOC["parts"] for entry in part["chapters"]]
CHAPTERS = [page for page in PAGES if (ROOT / f"{page}.ipynb").exists()]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The address of the site, built from the stored outputs."""
    out = tmp_path_factory.mktemp("site")
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = shutil.which("jupyter-book", path=beside)
    call = [command, "build", str(ROOT), "-W", "-n", "--keep-going", "--path-output", str(out)]
    subprocess.run(call, check=True, capture_output=True)
    handler = functools.partial(Quiet, directory=str(out / "_build/html"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def opened(site, chromium):
    """Open a page; (page, what it requested, bytes that came)."""
    contexts = []

    def open_page(name, width=1400, scheme="light"):
        context = chromium.new_context(
            viewport={"width": width, "height": 1000}, color_scheme=scheme
        )
        contexts.append(context)
        page, asked, sizes = context.new_page(), [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("response", lambda response: sizes.append(len(response.body())))
        page.goto(f"{site}/{name}.html", wait_until="networkidle")
        return page, asked, sum(sizes)

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("name", ["book/index", *PAGES])
def test_a_page_is_whole(opened, site, name):
    """No request leaves the site, nothing is missing, under 2 MB (3 with explorers)."""
    page, asked, size = opened(name)
    host = urlsplit(site).netloc
    assert [url for url in asked if urlsplit(url).netloc not in ("", host)] == []
    assert size < (3e6 if "heads" in name else 2e6), size
    assert page.locator(".katex-error").count() == 0
    formulae = page.locator("span.math, div.math").count()
    assert formulae == 0 or page.locator(".katex").count() >= formulae


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_shows_its_figure_first_and_cuts_no_code(opened, name):
    """The first figure begins within 1,000 px; code fits its box; alt texts are words."""
    page, _, _ = opened(name)
    tops = page.evaluate(
        """[...document.querySelectorAll(".cell_output img")].filter(i => i.offsetParent)
           .map(i => i.getBoundingClientRect().top)"""
    )
    assert not tops or tops[0] < 1000 or name not in FIRST, tops[0]
    cut = page.evaluate(
        """[...document.querySelectorAll("div.highlight pre")]
           .filter(p => p.offsetParent && p.scrollWidth > p.clientWidth + 1).length"""
    )
    assert cut == 0
    alts = page.evaluate("[...document.querySelectorAll('.cell_output img')].map(i => i.alt)")
    assert all(len(alt) > 20 and "_images" not in alt for alt in alts)


FIRST = {page for part in TOC["parts"] for page in (e["file"] for e in part["chapters"])
         if part["caption"] != "Deep dives"}  # fmt: skip


@pytest.mark.parametrize("name", ["book/index", "book/start", "book/patches", "book/mla"])
def test_a_page_fits_a_phone(opened, name):
    page, _, _ = opened(name, width=390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 391


def test_folds_speak_the_readers_words(opened):
    page, _, _ = opened("book/naive")
    words = set(page.locator("details.hide p.collapsed").all_inner_texts())
    assert words <= {"Reveal", "Set-up: run this first", "Show the solution", "Show the code"}
    assert "Show the solution" in {w.strip() for w in words}


def test_links_inside_the_site_lead_somewhere(opened, site):
    """Of the landing page: every link of the map, the paths and the contents."""
    page, _, _ = opened("book/index")
    links = page.evaluate(  # also of the drawn map, whose links have no text as their .href
        """[...document.querySelectorAll("a[href]")]
           .map(a => new URL(a.getAttribute("href"), document.baseURI).href)"""
    )
    ours = {link.split("#")[0] for link in links if link.startswith(site)}
    assert len(ours) > 30
    broken = [link for link in ours if page.request.get(link).status != 200]
    assert broken == []
    assert not any("OWNER" in link for link in links)


def test_line_drawings_live_in_the_dark(opened):
    """In dark mode a drawing is turned round; a picture keeps its colours."""
    page, _, _ = opened("book/start", scheme="dark")
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    drawing = page.locator("div.cell_output img[src$='.png']").first
    assert "invert" in drawing.evaluate("i => getComputedStyle(i).filter")
