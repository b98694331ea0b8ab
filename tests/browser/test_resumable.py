"""Resumable uploads from a page of another origin, by tus-js-client and Uppy as documented."""

import os
from pathlib import Path

import pytest
import requests

from tests.browser.conftest import run
from tests.support.documentation import only, replaced
from tests.support.fake_kinto import BreakingLine
from tests.support.node import install
from tests.support.users import basic_auth


GUIDE = "docs/how-to/resumable-uploads"
MIB = 1 << 20
SIZE = 3 * MIB
COLLECTION = "/buckets/default/collections/photos/records"
ALICE = {"Authorization": basic_auth("alice")}


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """The folder of the packages that the pages load."""
    folder = install(Path(__file__).parent / "npm", tmp_path_factory.mktemp("npm"))
    return folder / "node_modules"


@pytest.fixture
def film(tmp_path):
    film = tmp_path / "film.mp4"
    film.write_bytes(os.urandom(SIZE))
    return film


@pytest.fixture
def open_page(page, other_origin, film, packages):
    """Open a page with tus-js-client, on which the film is chosen."""

    def open_page():
        page.goto(other_origin)
        page.add_script_tag(path=packages / "tus-js-client" / "dist" / "tus.min.js")
        page.set_content('<input type="file" id="input">')
        page.locator("#input").set_input_files(film)

    return open_page


@pytest.fixture
def client(page, open_page):
    open_page()
    return page


@pytest.fixture(autouse=True)
def empty_collection(try_out):
    yield
    requests.delete(f"{try_out.url}{COLLECTION}", headers=ALICE, timeout=30).raise_for_status()


def documented(server, chunk=MIB, options="", after=""):
    """Return the code of the guide, so that it ends when the upload does, with the methods of the
    requests.

    :param options: more of them.
    :param after: statements to be run after each chunk.
    """
    code = replaced(
        only(GUIDE, "javascript", "tus.Upload"),
        {
            "const upload =": "upload =",
            "http://localhost:8888": server.url.removesuffix("/v1"),
            "16 * 1024 * 1024": str(chunk),
            "metadata: {": f"{options} onAfterResponse, onChunkComplete, metadata: {{",
            "(error) => console.error(error)": "reject",
            '() => console.log("attached")': "resolve",
        },
    )
    return f"""
        const file = document.querySelector("#input").files[0];
        const methods = [];
        const onAfterResponse = (request) => methods.push(request.getMethod());
        let upload;
        await new Promise(async (resolve, reject) => {{
          const onChunkComplete = () => {{ {after} }};
          {code}
        }});
        return methods;
    """


def record(server):
    url = f"{server.url}{COLLECTION}/first"
    return requests.get(url, headers=ALICE, timeout=30).json()["data"]


def test_tus_js_client_uploads_in_chunks_across_origins(client, try_out, film):
    assert run(client, documented(try_out)) == ["POST", "PATCH", "PATCH", "PATCH"]
    try_out.assert_stored("photos", [film.read_bytes()])
    assert record(try_out)["title"] == "Spring"
    assert record(try_out)["attachment"]["mimetype"] == "video/mp4"


@pytest.mark.parametrize(
    ("options", "methods"),
    [("", ["POST", "PATCH"]), ("uploadDataDuringCreation: true,", ["POST"])],
    ids=["whole", "creation with data"],
)
def test_tus_js_client_uploads_in_one_piece(client, try_out, film, options, methods):
    code = documented(try_out, chunk="Infinity", options=options)
    assert run(client, code) == methods
    try_out.assert_stored("photos", [film.read_bytes()])


def test_tus_js_client_uploads_an_empty_file(client, try_out, tmp_path):
    empty = tmp_path / "empty.mp4"
    empty.touch()
    client.locator("#input").set_input_files(empty)
    assert run(client, documented(try_out)) == ["POST"]
    try_out.assert_stored("photos", [b""])


def test_a_paused_upload_continues(client, try_out, film):
    pause = "if (methods.length === 2) upload.abort().then(() => upload.start());"
    methods = run(client, documented(try_out, after=pause))
    assert methods == ["POST", "PATCH", "HEAD", "PATCH", "PATCH"]
    try_out.assert_stored("photos", [film.read_bytes()])


def test_an_upload_continues_when_the_page_is_opened_again(client, try_out, film, open_page):
    leave = "if (methods.length === 2) upload.abort().then(resolve);"
    assert run(client, documented(try_out, after=leave)) == ["POST", "PATCH"]
    open_page()
    assert run(client, documented(try_out)) == ["HEAD", "PATCH", "PATCH"]
    try_out.assert_stored("photos", [film.read_bytes()])


def test_an_upload_continues_after_the_line_broke(client, try_out, film):
    with BreakingLine(try_out.url, breaks=2) as line:
        methods = run(client, documented(line))
    assert line.left == 0
    assert (methods.count("POST"), methods.count("PATCH")) == (1, 3)
    assert "HEAD" in methods
    try_out.assert_stored("photos", [film.read_bytes()])


def test_uppy_uploads_each_file_to_a_record_of_its_own(page, try_out, other_origin, packages, film):
    page.goto(other_origin)
    page.add_script_tag(path=packages / "uppy" / "dist" / "uppy.min.js")
    example = replaced(
        only(GUIDE, "javascript", "new Uppy"),
        {
            "http://localhost:8888": try_out.url.removesuffix("/v1"),
            "16 * 1024 * 1024": str(MIB),
            "new Uppy(": "new Uppy.Uppy(",
            "use(Tus,": "use(Uppy.Tus,",
        },
    )
    page.set_content('<input type="file" id="input" multiple>')
    other = film.with_name("other.mp4")
    other.write_bytes(os.urandom(SIZE))
    page.locator("#input").set_input_files([film, other])
    result = run(
        page,
        f"""
        {example}
        const done = new Promise((resolve) => uppy.on("complete", resolve));
        uppy.addFiles([...document.querySelector("#input").files].map((data) => ({{
          name: data.name, type: data.type, data
        }})));
        const {{ successful, failed }} = await done;
        return [successful.length, failed.length];
        """,
    )
    assert result == [2, 0]
    try_out.assert_stored("photos", sorted([film.read_bytes(), other.read_bytes()]))
