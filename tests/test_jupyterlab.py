"""The explorer in a real JupyterLab with a kernel, driven by Chromium: run, click, save, reopen."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("jupyterlab", reason="no jupyterlab: pip install -r requirements.txt")
ROOT = Path(__file__).parents[1]
CELL = """
import sys; sys.path[:0] = ["tests", "."]
from test_explorer_browser import widget
explorer = widget()
explorer
"""
TOKEN = "for-this-test-only"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Its address; the server's folder has one notebook, which is not run yet."""
    folder = tmp_path_factory.mktemp("lab")
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [nbformat.v4.new_code_cell(CELL.strip())]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, folder / "one.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests"))),
        "JUPYTER_CONFIG_DIR": str(folder / ".config"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / ".settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / ".workspaces"),
        "JUPYTER_DATA_DIR": str(folder / ".data"),
    }
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1"),
        *(f"--port={port}", f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}"),
        "--LabApp.news_url=None",
    ]
    with (folder / "log.txt").open("w") as log:
        server = subprocess.Popen(command, env={**os.environ, **settings}, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/api?token={TOKEN}", timeout=2)
                break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail((folder / "log.txt").read_text()[-2000:])
        yield address, folder
    finally:
        server.terminate()
        server.wait(20)


def open_notebook(chromium, lab):
    page = chromium.new_page(viewport={"width": 1300, "height": 1000})
    page.set_default_timeout(60_000)
    page.goto(f"{lab[0]}/lab/tree/one.ipynb?token={TOKEN}&reset")
    page.wait_for_selector(".jp-NotebookPanel .jp-Cell")
    page.wait_for_selector("text=/Python 3.*\\| Idle/")  # else a cell is not run
    return page


def seen(page) -> list[str]:
    """Which explorers are on the screen, and what in their place says that there is none."""
    return page.evaluate(
        """() => [...document.querySelectorAll(".jp-OutputArea-output")]
          .filter((node) => node.offsetHeight > 4 && node.innerText !== undefined)
          .map((node) => node.querySelector(".setr-explorer-host")?.offsetHeight ? "explorer"
            : node.innerText.trim().slice(0, 60))
          .filter((text) => text)"""
    )


def until(page, condition, seconds=60):
    for _ in range(4 * seconds):
        if condition():
            return
        page.wait_for_timeout(250)
    raise AssertionError(seen(page))


HOST = "[...document.querySelectorAll('.setr-explorer-host')].find((h) => h.offsetHeight)"


def sentence(page) -> str:
    return page.evaluate(f"{HOST}?.shadowRoot.querySelector('[data-at=words]').textContent ?? ''")


def live(page) -> bool:
    """Whether the explorer on the screen is the one that a kernel answers."""
    return page.evaluate(f"{HOST}?.parentElement.explorer?.options.ask !== undefined")


def trouble(page) -> str:
    return page.evaluate(f"{HOST}?.shadowRoot.querySelector('[data-at=trouble]').textContent ?? ''")


def click_patch(page, x, y):
    box = page.evaluate(
        f"""(() => {{ const {{ x, y, width, height }} = {HOST}.shadowRoot
          .querySelector('[data-at=picture]').getBoundingClientRect();
          return [x, y, width, height]; }})()"""
    )
    page.mouse.click(box[0] + x * box[2], box[1] + y * box[3])


@pytest.mark.slow
def test_a_notebook_is_run_saved_closed_reopened_and_its_kernel_restarted(chromium, lab):
    page = open_notebook(chromium, lab)
    page.click(".jp-Cell .cm-content")
    page.keyboard.press("Shift+Enter")
    # The stored page stands alone until the kernel has answered the widget.
    until(page, lambda: live(page) and seen(page) == ["explorer"], 120)
    assert "row 1, column 2" in sentence(page)
    click_patch(page, 0.1, 0.1)
    until(page, lambda: "row 0, column 0" in sentence(page))
    # What saves a notebook saves it from within the explorer too.
    file = lab[1] / "one.ipynb"
    page.keyboard.press("Control+s")
    until(page, lambda: "data-payload" in file.read_text())
    # After a restart nobody answers: it says what to do, and shows no old number as a new one.
    before = sentence(page)
    kernels = json.load(urllib.request.urlopen(f"{lab[0]}/api/kernels?token={TOKEN}"))
    restart = f"{lab[0]}/api/kernels/{kernels[0]['id']}/restart?token={TOKEN}"
    urllib.request.urlopen(urllib.request.Request(restart, method="POST"))
    page.wait_for_timeout(3000)
    click_patch(page, 0.9, 0.9)
    until(page, lambda: "run the cell again" in trouble(page))
    assert sentence(page) == before
    # Closed and opened again, no kernel knows the widget; the page is there, and works.
    for one in json.load(urllib.request.urlopen(f"{lab[0]}/api/sessions?token={TOKEN}")):
        gone = f"{lab[0]}/api/sessions/{one['id']}?token={TOKEN}"
        urllib.request.urlopen(urllib.request.Request(gone, method="DELETE"))
    page.close()
    page = open_notebook(chromium, lab)
    until(page, lambda: "explorer" in seen(page))
    page.wait_for_timeout(5000)  # the widget manager gives up on the widget
    assert seen(page) == ["explorer"]
    click_patch(page, 0.9, 0.9)
    until(page, lambda: re.search(r"row 2, column 3", sentence(page)) is not None)
    page.close()


@pytest.mark.slow
def test_a_page_that_nbconvert_makes_of_a_run_shows_the_explorer(chromium, lab, tmp_path):
    """Its widget has no kernel, and without a network not even a manager."""
    path = shutil.which("jupyter-nbconvert", path=Path(sys.executable).parent) or shutil.which(
        "jupyter-nbconvert"
    )
    if path is None:
        pytest.skip("no nbconvert: pip install -r requirements.txt")
    shutil.copy(lab[1] / "one.ipynb", tmp_path / "two.ipynb")
    command = [path, "--to", "html", "--execute", str(tmp_path / "two.ipynb")]
    places = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": places}, capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-2000:]
    context = chromium.new_context(offline=True, viewport={"width": 1200, "height": 900})
    page = context.new_page()
    page.goto((tmp_path / "two.html").as_uri(), wait_until="domcontentloaded")
    until(page, lambda: "looks most at" in sentence(page))
    context.close()
