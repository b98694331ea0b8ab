"""The page to try attachments, opened in a browser."""

import itertools

import requests
from playwright.sync_api import expect

from tests.support.users import basic_auth


COLLECTIONS = (f"photos{number}" for number in itertools.count())

RECORD_PROGRESS = """
() => {
  window.progress = [];
  new MutationObserver(() => {
    const bar = document.querySelector("#uploads progress");
    if (bar) window.progress.push(bar.value);
  }).observe(document.querySelector("#uploads"), {attributes: true, subtree: true});
}
"""


class Playground:
    """The opened page, and what the server has.

    :param url: the root of the API as the browser sees it.
    """

    def __init__(self, page, server, url=None):
        self.page = page
        self.server = server
        self.collection = next(COLLECTIONS)
        page.goto(f"{url or server.url}/__playground__/")
        self.open(self.collection)
        expect(page.get_by_text("No records yet.")).to_be_visible()

    def request(self, method, path="", **options):
        url = f"{self.server.url}/buckets/default/collections/{self.collection}/records{path}"
        headers = {"Authorization": basic_auth("alice")}
        answer = requests.request(method, url, headers=headers, timeout=10, **options)
        answer.raise_for_status()
        return answer.json()["data"]

    def records(self):
        return self.request("GET")

    def open(self, collection):
        self.page.get_by_label("Collection").fill(collection)
        self.page.get_by_role("button", name="Open").click()

    def assert_stored(self, contents):
        self.server.assert_stored(self.collection, contents)

    def choose(self, *files):
        self.page.locator("#files").set_input_files(
            [{"name": n, "mimeType": "text/plain", "buffer": content} for n, content in files]
        )

    def card(self, name):
        return self.page.locator(".record").filter(has=self.page.get_by_role("heading", name=name))
