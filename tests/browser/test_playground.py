"""The page to try attachments, as those see it who use it. Every test has its own collection."""

import hashlib
import re

import pytest
from playwright.sync_api import expect

from tests.support.playground import RECORD_PROGRESS, Playground


DROP = """
([target, files]) => {
  const transfer = new DataTransfer();
  for (const [name, text] of files) transfer.items.add(new File([text], name));
  const init = { dataTransfer: transfer, bubbles: true, cancelable: true };
  for (const type of ["dragenter", "dragover", "drop"]) {
    document.querySelector(target).dispatchEvent(new DragEvent(type, init));
  }
}
"""


@pytest.fixture
def playground(page, try_out):
    return Playground(page, try_out)


def test_a_chosen_picture_becomes_a_record_with_its_thumbnail(playground, picture, screenshot):
    page = playground.page
    page.locator("#files").set_input_files(picture)
    expect(page.get_by_role("status")).to_have_text("sunrise.png is attached.")
    (record,) = playground.records()
    playground.assert_stored([picture.read_bytes()])

    card = playground.card("sunrise.png")
    expect(card.locator(".hash")).to_have_text(hashlib.sha256(picture.read_bytes()).hexdigest())
    expect(card.locator(".mimetype")).to_have_text("image/png")
    expect(card.locator(".id")).to_have_text(record["id"])
    expect(card.get_by_role("link")).to_have_attribute("href", record["attachment"]["location"])
    shown = card.locator("img").evaluate("async (i) => (await i.decode(), i.naturalWidth)")
    assert shown == 300
    playground.choose(("notes.txt", b"x" * 12_345))
    expect(playground.card("notes.txt").locator(".size")).to_have_text("12.3 kB")
    screenshot("playground")


def test_dropped_files_become_records_one_after_another(playground):
    files = [["one.txt", "one"], ["two.txt", "two"]]
    playground.page.evaluate(DROP, ["#drop", files])
    expect(playground.page.locator(".record .name")).to_have_text(["two.txt", "one.txt"])
    playground.assert_stored([b"one", b"two"])


def test_a_file_that_is_dropped_beside_the_field_is_uploaded_too(playground):
    playground.page.evaluate(DROP, ["h1", [["one.txt", "one"]]])
    expect(playground.page.locator(".record .name")).to_have_text(["one.txt"])


def test_names_of_files_are_shown_as_text(playground):
    name = '<img src=x onerror="window.broken=1"> & co.txt'
    playground.page.evaluate(DROP, ["#drop", [[name, "x"]]])
    expect(playground.page.locator(".record .name")).to_have_text([name])
    assert playground.page.evaluate("window.broken") is None


def throttled(page, bytes_per_second):
    page.context.new_cdp_session(page).send(
        "Network.emulateNetworkConditions",
        {
            "offline": False,
            "latency": 0,
            "downloadThroughput": -1,
            "uploadThroughput": bytes_per_second,
        },
    )


def test_the_progress_of_an_upload_is_shown(playground, screenshot):
    page = playground.page
    throttled(page, 4_000_000)
    page.evaluate(RECORD_PROGRESS)
    playground.choose(("large.txt", b"x" * 4_000_000))
    expect(page.locator("#uploads .state")).to_have_text(re.compile(r"[1-9]\d? %"))
    screenshot("playground-progress")
    expect(playground.card("large.txt").locator(".size")).to_have_text("4 MB")
    seen = page.evaluate("window.progress")
    assert seen == sorted(seen)
    assert len([part for part in seen if 0 < part < 1]) >= 2
    assert seen[-1] == 1
    expect(page.locator("#uploads li")).to_have_count(0)


def test_a_cancelled_upload_leaves_nothing(playground):
    page = playground.page
    throttled(page, 1_000_000)
    playground.choose(("large.txt", b"x" * 4_000_000), ("next.txt", b"next"))
    expect(page.locator("#uploads .state").first).to_have_text(re.compile(r"[1-9]\d? %"))
    page.get_by_role("button", name="Cancel the upload of large.txt").click()
    expect(page.locator(".record .name")).to_have_text(["next.txt"])
    playground.assert_stored([b"next"])


def test_a_file_is_replaced(playground):
    playground.choose(("one.txt", b"one"))
    card = playground.card("one.txt")
    with playground.page.expect_file_chooser() as chooser:
        card.get_by_role("button", name="Replace… (one.txt)").click()
    chooser.value.set_files([{"name": "two.txt", "mimeType": "text/plain", "buffer": b"two"}])
    expect(playground.page.locator(".record .name")).to_have_text(["two.txt"])
    playground.assert_stored([b"two"])
    (record,) = playground.records()
    assert record["attachment"]["filename"] == "two.txt"


def test_a_file_is_deleted_and_its_record_takes_another(playground, screenshot):
    page = playground.page
    playground.choose(("one.txt", b"one"))
    page.get_by_role("button", name="Delete file (one.txt)").click()
    card = playground.card("No file")
    expect(card).to_be_visible()
    expect(page.get_by_role("status")).to_have_text("one.txt is deleted; the record stays.")
    playground.assert_stored([])
    assert playground.records()[0]["attachment"] is None
    screenshot("playground-no-file")

    with page.expect_file_chooser() as chooser:
        card.get_by_role("button", name="Attach…").click()
    chooser.value.set_files([{"name": "two.txt", "mimeType": "text/plain", "buffer": b"two"}])
    expect(page.locator(".record .name")).to_have_text(["two.txt"])
    playground.assert_stored([b"two"])


def test_a_record_is_deleted_with_its_file(playground):
    playground.choose(("one.txt", b"one"))
    playground.page.get_by_role("button", name="Delete record (one.txt)").click()
    expect(playground.page.get_by_text("No records yet.")).to_be_visible()
    assert playground.records() == []
    playground.assert_stored([])


def test_a_refusal_is_shown_in_the_words_of_the_api(playground, screenshot, tmp_path):
    page = playground.page
    large = tmp_path / "large.bin"
    large.write_bytes(b"x" * 30_000_001)
    page.locator("#files").set_input_files(large)
    expect(page.locator("#uploads .failed .state")).to_contain_text("the limit is 30000000")
    screenshot("playground-refused")
    assert playground.records() == []
    playground.assert_stored([])
    page.get_by_role("button", name="Dismiss the message on large.bin").click()
    expect(page.locator("#uploads li")).to_have_count(0)


def test_deleting_a_record_that_was_changed_meanwhile_shows_a_message(playground):
    playground.choose(("one.txt", b"one"))
    expect(playground.card("one.txt")).to_be_visible()
    (record,) = playground.records()
    playground.request("PATCH", f"/{record['id']}", json={"data": {"title": "changed"}})
    playground.page.get_by_role("button", name="Delete record (one.txt)").click()
    expect(playground.page.get_by_role("status")).to_contain_text("was changed meanwhile")
    playground.assert_stored([b"one"])


def test_opening_a_missing_collection_shows_a_message(playground):
    page = playground.page
    page.get_by_label("Bucket").fill("nowhere")
    page.get_by_role("button", name="Open").click()
    expect(page.get_by_role("status")).to_contain_text("This user may not do that here.")
    expect(page.get_by_text("No records yet.")).to_be_hidden()


def respond_instead_of_kinto(page, count):
    """Answer so many requests for a record in the place of Kinto."""
    bodies = ["<html>"] * count

    def answer(route):
        if route.request.method == "GET" and bodies:
            route.fulfill(body=bodies.pop())
        else:
            route.fallback()

    page.route("**/records/*", answer)


def test_a_response_that_is_not_from_kinto_does_not_delay_other_uploads(playground):
    page = playground.page
    respond_instead_of_kinto(page, 1)
    playground.choose(("one.txt", b"one"), ("two.txt", b"two"))
    expect(page.locator("#uploads .failed .state")).to_have_text(
        "The answer is not one of Kinto's."
    )
    expect(page.locator(".record .name")).to_have_text(["two.txt"])
    playground.assert_stored([b"one", b"two"])


def test_a_replaced_file_that_cannot_be_shown_has_a_message(playground):
    playground.choose(("one.txt", b"one"))
    card = playground.card("one.txt")
    expect(card).to_be_visible()
    respond_instead_of_kinto(playground.page, 1)
    with playground.page.expect_file_chooser() as chooser:
        card.get_by_role("button", name="Replace… (one.txt)").click()
    chooser.value.set_files([{"name": "two.txt", "mimeType": "text/plain", "buffer": b"two"}])
    expect(playground.page.locator("#uploads .failed .name")).to_have_text("two.txt")
    playground.assert_stored([b"two"])


def test_a_file_is_replaced_where_it_was_when_another_collection_is_open_meanwhile(playground):
    playground.choose(("one.txt", b"one"))
    page = playground.page
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Replace… (one.txt)").click()
    playground.open("elsewhere")
    expect(page.get_by_text("No records yet.")).to_be_visible()
    chooser.value.set_files([{"name": "two.txt", "mimeType": "text/plain", "buffer": b"two"}])
    expect(page.get_by_role("status")).to_have_text("two.txt is attached.")
    expect(page.locator(".record")).to_have_count(0)
    playground.assert_stored([b"two"])
    assert [record["attachment"]["filename"] for record in playground.records()] == ["two.txt"]


def test_records_whose_attachments_are_odd_are_shown(playground):
    odd = [
        {"filename": "no url", "location": "http://[", "mimetype": 5},
        {"filename": "no page", "location": "javascript:alert(1)", "mimetype": "image/png"},
        {"filename": 7, "location": 7, "mimetype": "image/png", "size": "large"},
        {"original": "?"},
        "text",
    ]
    for attachment in odd:
        playground.request("POST", json={"data": {"attachment": attachment}})
    playground.open(playground.collection)
    expect(playground.page.locator(".record")).to_have_count(len(odd))
    for name in ("no url", "no page"):
        link = playground.card(name).locator(".name a")
        assert link.get_attribute("href") is None


def test_more_records_than_a_page_holds_are_shown_when_asked_for(playground):
    playground.choose(*((f"{number}.txt", b"x") for number in range(26)))
    page = playground.page
    expect(page.locator(".record")).to_have_count(26)
    page.get_by_role("button", name="Open").click()
    expect(page.locator(".record")).to_have_count(24)
    page.get_by_role("button", name="Show more").click()
    expect(page.locator(".record")).to_have_count(26)
    expect(page.get_by_role("button", name="Show more")).to_be_hidden()


def test_everything_is_reached_with_the_keyboard_alone(playground, screenshot):
    page = playground.page
    page.get_by_label("User").focus()
    for name in ("password", "bucket", "collection"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.name") == name
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "files"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files([{"name": "one.txt", "mimeType": "text/plain", "buffer": b"one"}])
    expect(playground.card("one.txt")).to_be_visible()
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.textContent"))
    assert reached == ["one.txt", "Replace…", "Delete file", "Delete record"]
    screenshot("playground-focus")
    page.keyboard.press("Enter")
    expect(page.get_by_text("No records yet.")).to_be_visible()
    assert page.evaluate("document.activeElement.id") == "records-heading"
    playground.assert_stored([])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone(playground, picture, screenshot, scheme):
    page = playground.page
    page.set_viewport_size({"width": 360, "height": 740})
    page.emulate_media(color_scheme=scheme)
    page.locator("#files").set_input_files(picture)
    expect(playground.card("sunrise.png")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    screenshot(f"playground-phone-{scheme}", full_page=True)
