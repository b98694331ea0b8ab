"""The nginx of the guide to production in front of its Kinto: Debian's nginx, like the browser."""

import hashlib
import json
import os
import re
import subprocess
import time

import pytest
import requests

from tests.support.app import ATTACHMENT
from tests.support.documentation import only, replaced
from tests.support.servers import eventually_answers, free_port
from tests.support.users import basic_auth
from tests.tus.client import Tus, wait_for
from tests.tus.target import Target


AROUND = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{printed}
}}
"""

FILES = {"Host": "files.example.com"}
API = {"Host": "kinto.example.com", "Authorization": basic_auth("admin")}


class Nginx:
    """:ivar url: where it answers, for both of its servers.
    :ivar temporary: the folder into which it would write bodies of requests.
    """

    def __init__(self, folder, kinto):
        folder.mkdir()
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.kinto = kinto
        self.temporary = folder / "body"
        printed = replaced(
            only("docs/how-to/production", "nginx", "server_name"),
            {
                "listen 80;": f"listen 127.0.0.1:{port};",
                "http://127.0.0.1:8888": f"http://127.0.0.1:{kinto.port}",
                "/srv/kinto/files": str(kinto.files),
            },
        )
        # As the workers are another user, who cannot enter the test's folder.
        user = "user root;" if os.geteuid() == 0 else ""
        configuration = folder / "nginx.conf"
        configuration.write_text(user + AROUND.format(folder=folder, printed=printed))
        self.process = subprocess.Popen(["nginx", "-p", folder, "-c", configuration])

    def api(self, method, path, **kwargs):
        return requests.request(
            method,
            f"{self.url}/v1{path}",
            headers=API,
            timeout=120,
            allow_redirects=False,
            **kwargs,
        )

    def attach(self, name, content):
        return self.api("POST", ATTACHMENT, files={"attachment": (name, content)})

    def file(self, attachment, **headers):
        path = attachment["location"].removeprefix("https://files.example.com")
        return requests.get(self.url + path, headers={**FILES, **headers}, timeout=60)

    def stop(self):
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture(scope="module")
def nginx(tmp_path_factory, production):
    nginx = Nginx(tmp_path_factory.mktemp("production-nginx") / "nginx", production)
    try:
        eventually_answers(nginx.url)
        for path in ("/buckets/blog", "/buckets/blog/collections/photos"):
            assert nginx.api("PUT", path).status_code == 201
        yield nginx
    finally:
        nginx.stop()


def stored(nginx):
    return [path for path in nginx.kinto.files.rglob("*") if path.is_file()]


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
    assert stored(nginx) == before


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


def test_private_files_are_not_served(nginx):
    private = nginx.kinto.files / "private"
    private.mkdir(exist_ok=True)
    (private / "secret.txt").write_text("secret")
    for path in ("private/secret.txt", "Private/secret.txt", "x/../private/secret.txt"):
        answer = requests.get(f"{nginx.url}/{path}", headers=FILES, timeout=10)
        assert answer.status_code == 404
