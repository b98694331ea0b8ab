"""Digests of the request and of the file: verified while the bytes pass, and refused when wrong."""

import base64
import gzip
import hashlib
import io

import pytest
from pyramid.httpexceptions import HTTPBadRequest

from kinto_attachment.form import digests
from kinto_attachment.form.digests import Hashes
from tests.support.app import ATTACHMENT, RECORD, App
from tests.support.forms import BOUNDARY, file_part, multipart, part
from tests.support.users import ALICE


CONTENT = b"once upon a time"
OTHER = b"twice upon a time"
ALGORITHMS = {"sha-256": hashlib.sha256, "sha-512": hashlib.sha512, "md5": hashlib.md5}


def encoded(content, algorithm):
    return base64.b64encode(ALGORITHMS[algorithm](content).digest()).decode()


def dictionary(content, *algorithms):
    """Return the value of a Content-Digest or Repr-Digest."""
    return ", ".join(f"{name}=:{encoded(content, name)}:" for name in algorithms)


def part_with(fields, content=CONTENT):
    """Return the part of a file with more header fields, ``[(name, value)]``."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return lines.encode() + file_part(content)


@pytest.fixture(scope="module")
def kinto(tmp_path_factory):
    app = App(tmp_path_factory.mktemp("digests") / "files")
    app.create_collection()
    return app


@pytest.fixture
def app(kinto):
    """An application with a file that a refused upload must not change."""
    kinto.upload(file_part(b"what was there before"))
    return kinto


def refused(app, message, *parts, **headers):
    """Check that this is refused with this message, and without any change."""
    before = app.state()
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    response = app.upload(*parts, headers={**ALICE, **headers}, status=400)
    assert response.json["errno"] == 107
    assert message in response.json["message"]
    assert app.state() == before


RIGHT = {
    "sha-256": [("Content-Digest", dictionary(CONTENT, "sha-256"))],
    "sha-512": [("Content-Digest", dictionary(CONTENT, "sha-512"))],
    "md5": [("Content-Digest", dictionary(CONTENT, "md5"))],
    "all": [("Content-Digest", dictionary(CONTENT, *ALGORITHMS))],
    "Repr-Digest": [("Repr-Digest", dictionary(CONTENT, "sha-256"))],
    "Content-MD5": [("Content-MD5", encoded(CONTENT, "md5"))],
    "lower case": [("content-md5", encoded(CONTENT, "md5"))],
    "with parameters": [("Content-Digest", dictionary(CONTENT, "sha-256") + ";a=1")],
    "two lines": [("Content-Digest", dictionary(CONTENT, name)) for name in ALGORITHMS],
    "unknown ones beside": [("Content-Digest", f"{dictionary(CONTENT, 'md5')}, sha=:AAAA:, x=1")],
    "only unknown ones": [("Repr-Digest", "unixsum=30637"), ("Content-Digest", "new=?1")],
    "none": [("Content-Digest", "")],
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_file_with_the_right_digest_is_stored(app, name):
    attachment = app.upload(part_with(RIGHT[name])).json
    assert app.stored(attachment) == CONTENT
    assert attachment["hash"] == hashlib.sha256(CONTENT).hexdigest()


WRONG = {
    "sha-256": ("Content-Digest", "sha-256", [dictionary(OTHER, "sha-256")]),
    "sha-512": ("Content-Digest", "sha-512", [dictionary(OTHER, "sha-512")]),
    "md5": ("Content-Digest", "md5", [dictionary(OTHER, "md5")]),
    "one of two": (
        "Content-Digest",
        "sha-512",
        [f"{dictionary(OTHER, 'sha-512')}, {dictionary(CONTENT, 'sha-256')}"],
    ),
    "in the second line": (
        "Content-Digest",
        "sha-512",
        [dictionary(CONTENT, "sha-256"), dictionary(OTHER, "sha-512")],
    ),
    "Repr-Digest": ("Repr-Digest", "sha-256", [dictionary(OTHER, "sha-256")]),
    "Content-MD5": ("Content-MD5", "md5", [encoded(OTHER, "md5")]),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("beside", [[], [("Content-Digest", "unknown=1")]])
def test_a_file_with_another_digest_is_refused(app, name, beside):
    field, algorithm, values = WRONG[name]
    message = f"The attachment's {field} has another {algorithm} than the bytes received"
    refused(app, message, part_with([*((field, value) for value in values), *beside]))


MALFORMED = {
    "not a dictionary": ("Content-Digest", "nonsense!"),
    "base64 alone": ("Repr-Digest", encoded(CONTENT, "sha-256")),
    "hexadecimal": ("Content-Digest", f"sha-256={hashlib.sha256(CONTENT).hexdigest()}"),
    "a string": ("Content-Digest", f'sha-256="{encoded(CONTENT, "sha-256")}"'),
    "no value": ("Content-Digest", "sha-256"),
    "a list": ("Content-Digest", f"sha-256=(:{encoded(CONTENT, 'sha-256')}:)"),
    "not base64": ("Content-Digest", "sha-256=:*:"),
    "cut off": ("Content-Digest", dictionary(CONTENT, "sha-256")[:-1]),
    "too short": ("Content-Digest", "sha-256=:AAAA:"),
    "of another algorithm": ("Content-Digest", f"sha-512=:{encoded(CONTENT, 'sha-256')}:"),
    "not ASCII": ("Content-Digest", "sha-256=:é:"),
    "MD5 not base64": ("Content-MD5", "*" * 24),
    "MD5 hexadecimal": ("Content-MD5", hashlib.md5(CONTENT).hexdigest()),
    "MD5 empty": ("Content-MD5", ""),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_file_with_a_malformed_digest_is_refused(app, name):
    refused(app, f"The attachment's {MALFORMED[name][0]} ", part_with([MALFORMED[name]]))


def body_of(*parts, preamble=b"", epilogue=b""):
    return preamble + multipart(*parts) + epilogue


def post(app, body, digest, status):
    headers = {
        **ALICE,
        "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
        "Content-Digest": digest,
    }
    return app.post(ATTACHMENT, body, headers=headers, status=status)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    "around", [{}, {"epilogue": b"\r\nthat's all"}, {"preamble": b"now for something\r\n"}]
)
def test_the_digest_of_a_request_is_that_of_its_whole_body(app, algorithm, around):
    body = body_of(file_part(CONTENT), part("data", '{"title": "x"}'), **around)
    post(app, body, dictionary(body, algorithm), 200)
    before = app.state()
    response = post(app, body, dictionary(body + b".", algorithm), 400)
    assert response.json["errno"] == 107
    message = f"The request's Content-Digest has another {algorithm} than the bytes received"
    assert message in response.json["message"]
    if "epilogue" in around:
        # The epilogue is part of the body.
        post(app, body, dictionary(body_of(file_part(CONTENT)), algorithm), 400)
    assert app.state() == before


def test_the_digest_of_a_body_without_length_is_verified(app):
    body = body_of(file_part(CONTENT), epilogue=b"x" * 600_000)
    for sent, status in ((body, 200), (body[:-1], 400)):
        headers = {**ALICE, "Content-Digest": dictionary(body, "sha-256")}
        app.upload_raw(io.BytesIO(sent), None, headers=headers, status=status)


@pytest.mark.parametrize("value", ["nonsense!", "sha-256=:AAAA:", "sha-512"])
def test_a_malformed_digest_of_a_request_is_refused_unread(app, value):
    class Unread(io.BytesIO):
        def read(self, size=-1):
            raise OSError("The body was read")

    before = app.state()
    headers = {**ALICE, "Content-Digest": value}
    response = app.upload_raw(Unread(), 1_000_000, headers=headers, status=400)
    assert response.json["errno"] == 107
    assert response.json["message"].startswith("The request's Content-Digest ")
    assert app.state() == before


def test_unknown_algorithms_of_a_request_are_ignored(app):
    post(app, body_of(file_part()), "sha=:AAAA:, crc32c=:AAAA:, id-sha-256=1", 200)


def test_the_digest_of_a_request_to_the_default_bucket_is_verified(app):
    url = RECORD.replace("blog", "default")
    body = body_of(file_part())
    for digest, status in ((dictionary(b"", "md5"), 400), (dictionary(body, "md5"), 201)):
        headers = {**ALICE, "Content-Digest": digest}
        app.upload_raw(
            io.BytesIO(body), len(body), url=f"{url}/attachment", headers=headers, status=status
        )


def test_the_digests_are_those_of_what_was_sent_and_not_of_what_is_stored(share_app):
    app = share_app(attachment__gzipped="true")
    fields = [("Content-Digest", dictionary(CONTENT, "sha-256", "sha-512"))]
    attachment = app.upload(part_with(fields)).json
    assert gzip.decompress(app.stored(attachment)) == CONTENT
    compressed = app.stored(attachment)
    before = app.state()
    fields = [("Content-Digest", dictionary(compressed, "sha-256"))]
    app.upload(part_with(fields), status=400)
    assert app.state() == before


def test_only_needed_algorithms_are_computed(monkeypatch):
    made = []
    for name in list(digests.ALGORITHMS):
        real = digests.ALGORITHMS[name]
        monkeypatch.setitem(
            digests.ALGORITHMS, name, lambda name=name, real=real: made.append(name) or real()
        )
    Hashes().update(CONTENT)
    assert made == []
    Hashes(algorithms=["sha-256"]).update(CONTENT)
    assert made == ["sha-256"]


def test_a_digest_can_be_verified_twice():
    sent = digests.parse("file", {"Content-Digest": dictionary(CONTENT, *ALGORITHMS)})
    hashes = Hashes(sent)
    with pytest.raises(HTTPBadRequest):
        hashes.verify()
    hashes.update(CONTENT[:5])
    hashes.update(CONTENT[5:])
    hashes.verify()
