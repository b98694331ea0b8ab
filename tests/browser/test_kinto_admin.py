"""kinto-admin, the web UI of Kinto, with a collection whose records have attachments."""

import subprocess
import sys
import zipfile

import kinto_http
import pytest
from playwright.sync_api import expect

from tests.support.servers import assert_eventually, files_in
from tests.support.settings import base_settings


KINTO_WITH_ADMIN = "kinto==25.0.0"
"""The last one whose wheel has a build of kinto-admin."""

BUILD = "kinto/plugins/admin/build/"


@pytest.fixture(scope="session")
def admin_assets(tmp_path_factory):
    """The folder of a build of kinto-admin."""
    folder = tmp_path_factory.mktemp("kinto-admin")
    download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", KINTO_WITH_ADMIN]
    subprocess.run(download, cwd=folder, check=True, timeout=120)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder, [name for name in wheel.namelist() if name.startswith(BUILD)])
    return folder / BUILD


@pytest.fixture
def client(serve, admin_assets):
    """A client of a server with kinto-admin and a collection whose records have attachments."""
    server = serve(
        "waitress",
        includes=f"{base_settings()['kinto.includes']} kinto.plugins.admin",
        admin_assets_path=str(admin_assets),
        attachment__serve_files="true",
        attachment__extensions="any",
    )
    client = kinto_http.Client(
        server_url=server.url, auth=("alice", "secret"), bucket="blog", collection="photos"
    )
    client.create_bucket()
    schema = {"type": "object", "properties": {"title": {"type": "string"}}}
    client.create_collection(
        data={"attachment": {"enabled": True}, "schema": schema, "displayFields": ["title"]}
    )
    return client


@pytest.fixture
def admin(page, client):
    """kinto-admin with alice logged in, as a function that opens its pages."""
    url = f"{client.session.server_url}/admin/"
    page.goto(url)
    # kinto-admin logs errors until a user is logged in.
    expect(page.get_by_role("button", name="Sign in using Anonymous")).to_be_visible()
    page.script_errors.clear()
    page.get_by_label("Basic Auth").check()
    page.get_by_label("Username").fill("alice")
    page.get_by_label("Password").fill("secret")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("Connected as")).to_be_visible()

    def open_page(path):
        page.goto(f"{url}#/buckets/blog/collections/photos/records/{path}")

    return open_page


def test_kinto_admin_attaches_replaces_and_deletes_a_file(
    admin, page, client, tmp_path, picture, screenshot
):
    def stored():
        return [path.stat().st_size for path in files_in(tmp_path / "files")]

    admin("create")
    page.get_by_label("title").fill("Spring")
    page.get_by_label("File attachment").set_input_files(
        {"name": "one.txt", "mimeType": "text/plain", "buffer": b"one"}
    )
    page.get_by_role("button", name="Create record").click()
    expect(page.locator("table")).to_contain_text("Spring")
    (created,) = client.get_records()
    assert (created["title"], created["attachment"]["filename"]) == ("Spring", "one.txt")
    assert stored() == [3]

    admin(f"{created['id']}/attributes")
    expect(page.get_by_text("Attachment information")).to_be_visible()
    page.get_by_label("File attachment").set_input_files(picture)
    page.get_by_role("button", name="Update record").click()
    expect(page.locator("table")).to_contain_text("Spring")
    (replaced,) = client.get_records()
    assert (replaced["id"], replaced["title"]) == (created["id"], "Spring")
    assert replaced["attachment"]["filename"] == "sunrise.png"
    assert_eventually(stored, [picture.stat().st_size])

    admin(f"{created['id']}/attributes")
    preview = page.locator(".attachment-img img")
    expect(preview).to_be_visible()
    assert preview.evaluate("async (i) => (await i.decode(), i.naturalWidth)") == 300
    screenshot("kinto-admin", full_page=True)
    page.get_by_role("button", name="Delete this attachment").click()
    expect(page.get_by_text("Attachment information")).to_have_count(0)
    (detached,) = client.get_records()
    assert detached["attachment"] is None
    assert_eventually(stored, [])
