"""Private files in a browser, which shows them through links that need no credentials."""

import io
import re
import wave
from urllib.parse import urlsplit

import pytest
import requests
from playwright.sync_api import expect

from tests.browser.conftest import run
from tests.support.fake_kinto import FlakyProxy
from tests.support.playground import Playground
from tests.support.s3 import eventually
from tests.support.servers import TryOutServer
from tests.support.users import basic_auth


INCLUDES = "kinto.plugins.default_bucket kinto_attachment kinto_attachment.playground"

SHOW = """
    const element = document.createElement(argument.tag);
    element.id = "shown";
    document.body.append(element);
    const events = argument.tag === "img" ? ["load", "error"] : ["canplay", "error"];
    return new Promise((resolve) => {
      for (const type of events) element.addEventListener(type, () => resolve(type));
      element.src = argument.url;
    });
"""

ENDS_LATER = re.compile(r"expires=\d{10}")

SEEK = """
    const player = document.querySelector("#shown");
    const seeked = new Promise((resolve) => player.addEventListener("seeked", resolve));
    player.currentTime = argument;
    await seeked;
    return player.currentTime;
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = TryOutServer(tmp_path_factory.mktemp("private"), downloads="private")
    yield server.wait_until_ready()
    server.stop()


def upload(server, name, content, mimetype):
    """Attach a file to a record of Alice, and return the URL of the attachment."""
    url = f"{server.url}/buckets/default/collections/private/records/{name[0]}/attachment"
    headers = {"Authorization": basic_auth("alice")}
    files = {"attachment": (name, content, mimetype)}
    requests.post(url, files=files, headers=headers, timeout=30).raise_for_status()
    return url


def ask_for_link(url, user="alice"):
    headers = {"Authorization": basic_auth(user)}
    return requests.get(f"{url}/link", headers=headers, timeout=30)


def tone(seconds):
    """Return a WAV of silence, 88 kB for each second."""
    file = io.BytesIO()
    with wave.open(file, "wb") as audio:
        audio.setnchannels(1)
        audio.setsampwidth(2)
        audio.setframerate(44_100)
        audio.writeframes(bytes(88_200 * seconds))
    return file.getvalue()


def show(page, tag, url):
    return run(page, SHOW, {"tag": tag, "url": url})


def test_an_image_is_shown_by_link_and_not_without_credentials(page, server, other_origin, picture):
    url = upload(server, "picture.png", picture.read_bytes(), "image/png")
    page.goto(other_origin)
    assert show(page, "img", url) == "error"
    assert ask_for_link(url, "bob").status_code in (403, 404)
    link = ask_for_link(url).json()["location"]
    assert show(page, "img", link) == "load"
    assert show(page, "img", link.replace("signature=", "signature=0")) == "error"
    assert show(page, "img", f"{link}0") == "error"


def test_a_player_seeks_in_a_file_by_link(page, server, other_origin):
    content = tone(180)
    url = upload(server, "tone.wav", content, "audio/wav")
    with FlakyProxy(server.url, lambda handler, number: False) as proxy:
        page.goto(other_origin)
        link = ask_for_link(url.replace(server.url, proxy.url)).json()["location"]
        assert urlsplit(link).netloc == urlsplit(proxy.url).netloc
        assert show(page, "audio", link) == "canplay"
        assert run(page, SEEK, 170) == 170
        ranges = [headers["Range"] for headers in proxy.headers if "Range" in headers]
    begins = [int(value.removeprefix("bytes=").split("-")[0]) for value in ranges]
    assert any(begin > 160 * 88_200 for begin in begins)


@pytest.fixture
def playground(page, server):
    return Playground(page, server)


def shown(card):
    return card.locator("img").evaluate("async (image) => (await image.decode(), image.src)")


def test_the_page_shows_a_private_image_by_a_link(playground, picture, screenshot):
    playground.page.locator("#files").set_input_files(picture)
    card = playground.card("sunrise.png")
    expect(card).to_be_visible()
    (record,) = playground.records()
    location = record["attachment"]["location"]
    assert location.endswith(f"/records/{record['id']}/attachment")
    assert requests.get(location, timeout=30).status_code == 401
    assert "/__files__/private/" in shown(card)
    screenshot("playground-private")
    with playground.page.context.expect_page() as opened:
        card.get_by_role("link").click()
    opened.value.wait_for_load_state()
    assert "signature=" in opened.value.url


def test_the_page_shows_a_private_image_of_a_bucket(page, serve, bucket, picture):
    server = serve("waitress", includes=INCLUDES, **bucket.settings(downloads="private"))
    playground = Playground(page, server)
    page.locator("#files").set_input_files(picture)
    card = playground.card("sunrise.png")
    expect(card.locator("img")).to_have_attribute("src", re.compile("X-Amz-Signature="))
    assert shown(card).startswith(bucket.endpoint_url)
    playground.request("DELETE")
    assert eventually(lambda: bucket.keys() == [])


def test_the_page_asks_for_another_link_when_one_has_ended(playground, picture):
    page = playground.page
    ended = [f"{playground.server.url}/__files__/private/any.png?expires=1&signature=0"]

    def answer(route):
        if ended:
            route.fulfill(json={"location": ended.pop(), "expires": 1})
        else:
            route.fallback()

    page.route("**/attachment/link", answer)
    page.locator("#files").set_input_files(picture)
    card = playground.card("sunrise.png")
    expect(card.locator("img")).to_have_attribute("src", ENDS_LATER)
    assert "expires=1&" not in shown(card)
    assert ended == []


def test_an_image_that_no_link_shows_has_a_badge(playground, picture):
    page = playground.page
    asked = []

    def answer(route):
        asked.append(route.request.url)
        url = f"{playground.server.url}/__files__/private/any.png?expires=1&signature=0"
        route.fulfill(json={"location": url, "expires": 1})

    page.route("**/attachment/link", answer)
    page.locator("#files").set_input_files(picture)
    expect(playground.card("sunrise.png").locator(".badge")).to_have_text("png")
    assert len(asked) == 2
