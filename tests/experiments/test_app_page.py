"""The app in a browser: choose, sample, move a slider; see new pictures or a message.

It also makes the picture in docs/app.md, from a trained run:

    pytest tests/experiments/test_app_page.py --app_model=RUN --screenshot=docs/app.png
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from tests.test_structure import ROOT

pytestmark = pytest.mark.slow
OLD = ROOT / "tests" / "runs" / "old_exports" / "format1"
PATIENCE = 300_000  # milliseconds; compilation is slow on a busy machine


@pytest.fixture(scope="module")
def address(tmp_path_factory, request):
    """The address of an app that runs alongside the tests."""
    pytest.importorskip("gradio", reason="Gradio is not installed")
    model = request.config.getoption("app_model") or OLD
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("app")
    command = [sys.executable, "-m", "experiments.app", f"--workdir={model}", f"--port={port}"]
    environment = os.environ | {"GRADIO_TEMP_DIR": str(folder / "uploads")}
    if model == OLD:
        environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(address, server, folder / "log")
        yield address
        assert "Traceback" not in (folder / "log").read_text()
    finally:
        server.terminate()
        server.wait(timeout=60)


def wait_for(address, server, log):
    end = time.monotonic() + PATIENCE / 1000
    while server.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(address, timeout=10):
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"no app answers: {log.read_text()}")


@pytest.fixture(scope="module")
def session():
    """A Chromium browser; tests are skipped if there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = next((p for n in ("chromium", "google-chrome") if (p := shutil.which(n))), None)
    if path is None:
        pytest.skip("no Chromium is installed")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Visit:
    """A page of the app, with a record of its errors."""

    def __init__(self, session, address):
        self.complaints = []
        self.tab = session.new_page(viewport={"width": 1180, "height": 900})
        self.tab.set_default_timeout(PATIENCE)
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("console", self._hear)
        self.tab.on("request", lambda request: self._see(request.url, address))
        self.tab.goto(address)
        self.button("Sample").wait_for()

    def button(self, name):
        return self.tab.get_by_role("button", name=name)

    def click(self, role, name):
        self.tab.get_by_role(role, name=name).click()

    def pictures(self):
        return self.tab.locator("#draws img").evaluate_all("all => all.map(i => i.src)")

    def wait_for_others(self, before):
        """Wait until the pictures differ from `before`, and return them."""
        shown = "[...document.querySelectorAll('#draws img')].map(i => i.src)"
        self.tab.wait_for_function(
            f"before => {{ const now = {shown}; return now.length && now.join() !== before }}",
            arg=",".join(before),
        )
        return self.pictures()

    def _hear(self, message):
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _see(self, url, address):
        if not url.startswith((address, "data:", "blob:")):
            self.complaints.append(f"asks for {url}")


@pytest.fixture
def visit(session, address):
    found = Visit(session, address)
    yield found
    found.tab.close()
    assert found.complaints == []


def test_choose_sample_and_move_a_slider(visit, request):
    tab = visit.tab
    visit.button("Sample").click()
    first = visit.wait_for_others([])
    tab.locator("#refinement_steps input[type=range]").focus()
    before = tab.locator("#refinement_steps input[type=range]").input_value()
    slide(tab, "refinement_steps", 0.35)
    assert tab.locator("#refinement_steps input[type=range]").input_value() != before
    refined = visit.wait_for_others(first)
    assert refined[:1] == first[:1]  # the observed picture
    slide(tab, "example", 0.5)
    other = visit.wait_for_others(refined)
    assert other[0] != refined[0]
    visit.click("tab", "Chain")
    animation = tab.locator("#chain img").first
    animation.wait_for()
    assert animation.evaluate("i => i.complete && i.naturalWidth > 0")
    assert tab.locator("#chain svg").count() >= 1
    visit.click("tab", "Energies")
    visit.button("Measure").click()
    tab.locator("#exchange td.least").first.wait_for()
    assert tab.locator("#exchange td").count() == 36
    assert tab.evaluate("document.documentElement.scrollWidth") == 1180
    if path := request.config.getoption("screenshot"):
        visit.click("tab", "Draws")
        tab.screenshot(path=path, full_page=True)


def slide(tab, name, share):
    """Drag a slider to this fraction of its range."""
    box = tab.locator(f"#{name} input[type=range]").bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.mouse.down()
    tab.mouse.move(box["x"] + box["width"] * share, box["y"] + box["height"] / 2)
    tab.mouse.up()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("wrong.png", b"no picture", r"m0: it is no picture: give PNG"),
        ("large.png", bytes(5 * 2**20), r"(?i)size|large"),
        ("wrong.txt", b"words", r"(?i)file type"),
    ],
)
def test_a_wrong_file_is_told_in_a_message(session, address, tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    visit = Visit(session, address)
    tab = visit.tab
    visit.button("Your own").click()
    tab.locator("#own_m0 input[type=file]").set_input_files(tmp_path / name)
    if name == "wrong.png":
        tab.locator("#own_m0").get_by_text("wrong").first.wait_for()
        visit.button("Sample").click()
    message = tab.get_by_test_id("toast-body").first
    message.wait_for()
    assert re.search(said, message.inner_text())
    assert "Traceback" not in tab.content()
    tab.close()
