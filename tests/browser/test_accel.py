"""nginx sends the downloads that Kinto permits, as the guide to production has it."""

import os
import subprocess

import pytest
import requests

from kinto_attachment.http.representation import disposition
from tests.browser.test_behind_nginx import AROUND
from tests.support.app import ATTACHMENT
from tests.support.documentation import only, replaced
from tests.support.servers import eventually_answers, free_port
from tests.support.users import ALICE, BOB


CONTENT = "Grüße\n".encode() * 100_000
SERVER = """
server {{
    listen 127.0.0.1:{port};
    location / {{
        proxy_pass http://127.0.0.1:{kinto};
        proxy_set_header Host $http_host;
    }}
{printed}
}}
"""


@pytest.fixture
def url(serve, tmp_path):
    """The URL of nginx in front of a Kinto with a private file."""
    settings = {"downloads": "private", "deliver": "accel", "accel_prefix": "/internal/"}
    kinto = serve("granian", **{f"attachment__{name}": v for name, v in settings.items()})
    port, folder = free_port(), tmp_path / "nginx"
    folder.mkdir()
    printed = replaced(
        only("docs/how-to/production", "nginx", "internal;"),
        {"/srv/kinto/files": str(tmp_path / "files")},
    )
    server = SERVER.format(port=port, kinto=kinto.port, printed=printed)
    # As the workers are another user, who cannot enter the test's folder.
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(user + AROUND.format(folder=folder, printed=server))
    process = subprocess.Popen(["nginx", "-p", folder, "-c", folder / "nginx.conf"])
    try:
        url = f"http://127.0.0.1:{port}"
        eventually_answers(url)
        for path in ("/buckets/blog", "/buckets/blog/collections/photos"):
            requests.put(f"{url}/v1{path}", headers=ALICE, timeout=30).raise_for_status()
        files = {"attachment": ("Grüße.txt", CONTENT, "text/plain")}
        attached = requests.post(f"{url}/v1{ATTACHMENT}", files=files, headers=ALICE, timeout=30)
        attached.raise_for_status()
        yield url
    finally:
        process.terminate()
        process.wait(20)


def test_nginx_sends_what_kinto_permits(url):
    download = f"{url}/v1{ATTACHMENT}"
    response = requests.get(download, headers=ALICE, timeout=30)
    assert response.content == CONTENT
    assert "X-Accel-Redirect" not in response.headers
    expected = {
        "Content-Type": "text/plain; charset=utf-8",
        "Content-Disposition": disposition("Grüße.txt", "text/plain"),
        "Cache-Control": "private, no-cache",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox",
        "Accept-Ranges": "bytes",
    }
    assert {name: response.headers[name] for name in expected} == expected
    assert response.headers["Repr-Digest"].startswith("sha-256=:")
    assert "Authorization" in response.headers["Vary"]
    part = requests.get(download, headers={**ALICE, "Range": "bytes=1-3"}, timeout=30)
    assert (part.status_code, part.content) == (206, CONTENT[1:4])
    known = {**ALICE, "If-None-Match": response.headers["ETag"]}
    assert requests.get(download, headers=known, timeout=30).status_code == 304
    head = requests.head(download, headers=ALICE, timeout=30)
    assert (head.status_code, head.headers["Content-Length"]) == (200, str(len(CONTENT)))
    other_page = {**ALICE, "Origin": "https://app.test"}
    response = requests.get(download, headers=other_page, timeout=30)
    assert response.headers["Access-Control-Allow-Origin"] in ("*", "https://app.test")


def test_nginx_sends_nothing_else(url, tmp_path):
    (path,) = (tmp_path / "files").rglob("private/*.txt")
    for headers, status in ((BOB, 403), ({}, 401)):
        response = requests.get(f"{url}/v1{ATTACHMENT}", headers=headers, timeout=30)
        assert response.status_code == status
    for prefix in ("/internal/", "/internal//", "/v1/../internal/", "/private/"):
        response = requests.get(f"{url}{prefix}private/{path.name}", headers=ALICE, timeout=30)
        assert response.status_code == 404


def test_a_link_is_answered_by_kinto(url):
    link = requests.get(f"{url}/v1{ATTACHMENT}/link", headers=ALICE, timeout=30).json()
    assert link["location"].startswith(url)
    assert requests.get(link["location"], timeout=30).content == CONTENT
