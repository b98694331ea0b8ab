"""A browser: Debian's Chromium without a window, driven by Playwright."""

import functools
import http.server
import shutil
import struct
import threading
import zlib

import playwright.sync_api
import pytest

from tests.support.paths import ROOT
from tests.support.servers import TryOutServer


SCREENSHOTS = ROOT / "var" / "screenshots"


@pytest.fixture(scope="session")
def chromium(external):
    with playwright.sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"))
        yield browser
        browser.close()


@pytest.fixture
def page(chromium):
    """An empty page. What goes wrong in its scripts fails the test."""
    context = chromium.new_context(viewport={"width": 1100, "height": 900})
    context.set_default_timeout(15_000)
    page = context.new_page()
    page.script_errors = []
    page.on("pageerror", lambda error: page.script_errors.append(str(error)))
    # Choosers of files reach a test from here on. If expect_file_chooser() subscribed to them,
    # Chromium could learn of it after the key that opens the chooser.
    page.on("filechooser", lambda chooser: None)
    yield page
    context.close()
    assert page.script_errors == []


@pytest.fixture
def screenshot(page, request):
    """Take screenshots, to be looked at."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)

    def take(name, **options):
        page.screenshot(path=SCREENSHOTS / f"{name}.png", **options)

    return take


@pytest.fixture(scope="session")
def try_out(tmp_path_factory):
    """The Kinto of ``make serve``, which takes files of up to 30 MB here."""
    server = TryOutServer(tmp_path_factory.mktemp("try-out"), max_size_bytes=30_000_000)
    yield server.wait_until_ready()
    server.stop()


@pytest.fixture
def other_origin(tmp_path):
    """The URL of an empty page on a server of its own."""
    (tmp_path / "index.html").write_text("<!doctype html><title>Another origin</title>")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture
def picture(tmp_path):
    """A PNG that goes from one colour to another."""
    path = tmp_path / "sunrise.png"
    path.write_bytes(png(300, 200))
    return path


def png(width, height):
    """Return a picture in the format PNG (RFC 2083), of eight bits for red, green and blue."""
    rows = b"".join(
        b"\0" + bytes(v for x in range(width) for v in (240, 255 * x // width, 255 * y // height))
        for y in range(height)
    )
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR" + header), (b"IDAT" + zlib.compress(rows)), b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    )


def run(page, script, argument=None):
    """Run statements as the body of an asynchronous function, and return what they return."""
    return page.evaluate(f"async (argument) => {{ {script} }}", argument)
