"""The nginx of the guide to production in front of its Kinto: Debian's nginx, like the browser."""

import hashlib
import json
import os
import re
import time

import pytest
import requests

from tests.support.app import ATTACHMENT
from tests.support.documentation import blocks
from tests.support.nginx import API, FILES, Nginx, ProductionNginx
from tests.tus.client import Tus, wait_for
from tests.tus.target import Target


@pytest.fixture(scope="module")
def nginx(tmp_path_factory, production):
    with ProductionNginx(tmp_path_factory.mktemp("nginx") / "nginx", production) as nginx:
        nginx.create_collection()
        yield nginx


def stored(nginx):
    return {path for path in nginx.kinto.files.rglob("*") if path.is_file()}


def test_large_files_pass_nginx_and_too_large_ones_are_refused(nginx):
    content = os.urandom(50_000_000)
    attached = nginx.attach("film.pdf", content)
    assert attached.ok, attached.text
    assert attached.json()["hash"] == hashlib.sha256(content).hexdigest()
    assert attached.headers["Location"].startswith("https://kinto.example.com/v1/")
    served = nginx.file(attached.json())
    assert served.content == content
    before = stored(nginx)

    by_kinto = nginx.attach("film.pdf", os.urandom(52_428_801))
    assert by_kinto.status_code == 413
    assert by_kinto.json()["errno"] == 113
    by_nginx = nginx.api("POST", ATTACHMENT, data=b"x" * 62_914_561)
    assert by_nginx.status_code == 413
    assert "nginx" in by_nginx.text
    # The file that the record had before may be deleted meanwhile.
    assert stored(nginx) <= before


def test_files_are_served_with_headers_that_keep_them_from_running(nginx):
    attached = nginx.attach("page.html", b"<script>alert(1)</script>")
    assert attached.status_code == 400, "HTML is not among the default extensions"
    attached = nginx.attach("notes.txt", b"0123456789").json()
    headers = nginx.file(attached).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"] == "sandbox"
    assert headers["Content-Disposition"] == "inline"
    assert headers["Cache-Control"] == "public, max-age=31536000, immutable"
    table = nginx.attach("table.csv", b"a,b").json()
    assert nginx.file(table).headers["Content-Disposition"] == "attachment"


def test_a_part_of_a_file_is_served(nginx):
    attached = nginx.attach("notes.txt", b"0123456789").json()
    part = nginx.file(attached, Range="bytes=2-4")
    assert (part.status_code, part.content) == (206, b"234")


def test_what_is_still_being_received_is_not_served(nginx):
    secret = nginx.kinto.files / ".staging" / "secret.txt"
    secret.write_text("half a file")
    answer = requests.get(f"{nginx.url}/.staging/secret.txt", headers=FILES, timeout=10)
    assert answer.status_code == 404


def test_an_upload_reaches_kinto_while_it_is_sent_and_is_not_written_by_nginx(nginx):
    sizes = []

    def body():
        yield b'--b\r\nContent-Disposition: form-data; name="attachment"; filename="a.txt"\r\n\r\n'
        for _ in range(8):
            yield b"x" * 1_000_000
        staging = nginx.kinto.files / ".staging"
        deadline = time.monotonic() + 20
        while not any(sizes) and time.monotonic() < deadline:
            sizes.append(sum(path.stat().st_size for path in staging.iterdir()))
            time.sleep(0.05)
        assert not any(path.is_file() for path in nginx.temporary.rglob("*"))
        yield b"\r\n--b--\r\n"

    headers = {**API, "Content-Type": "multipart/form-data; boundary=b"}
    url = f"{nginx.url}/v1{ATTACHMENT}"
    attached = requests.post(url, data=body(), headers=headers, timeout=60)
    assert attached.ok, attached.text
    assert any(sizes)


def test_metrics_are_for_this_machine(nginx):
    answer = requests.get(f"{nginx.url}/v1/__metrics__", headers=API, timeout=10)
    assert re.search("kinto_request_summary_total", answer.text)


def test_a_resumable_upload_keeps_what_reached_nginx_before_the_line_broke(nginx):
    content = os.urandom(3_000_000)
    tus = Tus(
        Target(
            creation_url=lambda: f"{nginx.url}/v1{ATTACHMENT}/uploads",
            content=None,
            extensions=frozenset(),
            max_size=0,
            headers=API,
            metadata={"filename": "film.pdf"},
        )
    )
    created = tus.post(len(content))
    location = created.headers["Location"]
    assert location.startswith("https://kinto.example.com/v1/")
    upload = location.replace("https://kinto.example.com", nginx.url)
    pattern = f".uploads/{upload.rpartition('/')[2]}"

    def received():
        # HEAD would end the request that is being read.
        return sum(path.stat().st_size for path in nginx.kinto.files.glob(pattern))

    tus.patch_and_vanish(
        upload,
        0,
        content,
        after=2_000_000,
        meanwhile=lambda: wait_for(received, lambda size: size == 2_000_000),
    )
    offset = tus.offset(upload)
    assert offset == 2_000_000
    done = tus.patch(upload, offset, content[offset:], Prefer="return=representation")
    assert done.status == 200
    assert nginx.file(json.loads(done.body)).content == content
    assert not any(path.is_file() for path in nginx.temporary.rglob("*"))


def hide(folder):
    """Store what nobody may fetch by its name, and return the paths of its URLs."""
    for path in (folder / "private" / "secret.txt", folder / ".uploads" / "0a1b"):
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text("secret")
    folders = ("/private", "/Private", "//private", "/x/../private", "/x/%2e%2e/%70rivate")
    return (*(f"{folder}/secret.txt" for folder in folders), "/.uploads/0a1b")


def test_private_files_are_not_served(nginx):
    paths = hide(nginx.kinto.files)
    assert [path for path in paths if nginx.status(path, FILES) != 404] == []


@pytest.mark.external
def test_another_nginx_does_not_serve_private_files_with_the_printed_location(tmp_path):
    (printed,) = blocks("docs/how-to/private-files", "nginx")
    paths = hide(tmp_path / "files")
    root = f"server {{ listen 80; root {tmp_path}/files;"
    with Nginx(tmp_path / "open", f"{root} }}") as nginx:
        assert nginx.status("/private/secret.txt") == 200
    with Nginx(tmp_path / "closed", f"{root} {printed} }}") as nginx:
        assert [path for path in paths if nginx.status(path) != 404] == []
