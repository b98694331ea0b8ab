"""Resumable uploads to a Kinto inside the test process."""

import base64

import webtest

from kinto_attachment.resumable import completion
from tests.support.app import ATTACHMENT, RECORD
from tests.support.users import ALICE


UPLOADS = f"{ATTACHMENT}/uploads"
TUS = {"Tus-Resumable": "1.0.0"}
CHUNK = {"Content-Type": "application/offset+octet-stream"}
CONTENT = b"once upon a time"
DAY = 86_400_000
"""How long uploads are kept, in milliseconds."""


def encode(**metadata):
    """Return ``Upload-Metadata``."""
    pairs = {"filename": "story.txt", **metadata}
    return ",".join(f"{k} {base64.b64encode(v.encode()).decode()}" for k, v in pairs.items())


class Client:
    """A client of one record's uploads.

    :ivar uploads: the path that uploads are created at.
    """

    def __init__(self, app, user=ALICE, record=RECORD):
        self.app = app
        self.uploads = f"{record}/attachment/uploads"
        self.headers = {**user, **TUS}

    def begin(self, length=16, headers=None, body=None, status=201, **metadata):
        sent = {**self.headers, "Upload-Metadata": encode(**metadata), **(headers or {})}
        if length is not None:
            sent["Upload-Length"] = str(length)
        if body is not None:
            sent |= CHUNK
        return self.app.post(self.uploads, body or b"", headers=sent, status=status)

    def begun(self, *args, **kwargs):
        """Return the path of a new upload."""
        return path_of(self.begin(*args, **kwargs))

    def patch(self, path, offset, body=b"", headers=None, status=204):
        sent = {**self.headers, **CHUNK, "Upload-Offset": str(offset), **(headers or {})}
        return self.app.patch(path, body, headers=sent, status=status)

    def stream(self, path, offset, stream, length, headers=None, status="*"):
        """Send a body that is read from a stream, of a length that may be a lie."""
        sent = {**self.headers, **CHUNK, "Upload-Offset": str(offset), **(headers or {})}
        request = webtest.TestRequest.blank(path, method="PATCH", headers=sent)
        request.environ["wsgi.input"] = stream
        request.content_length = length
        return self.app.do_request(request, status=status)

    def head(self, path, status=200):
        return self.app.head(path, headers=self.headers, status=status)

    def offset(self, path):
        return int(self.head(path).headers["Upload-Offset"])

    def terminate(self, path, status=204):
        return self.app.delete(path, headers=self.headers, status=status)

    def completed(self, content=CONTENT, **kwargs):
        """Return the path of an upload with all of its bytes."""
        path = self.begun(len(content), **kwargs)
        self.patch(path, 0, content)
        return path


def path_of(response):
    return response.headers["Location"].split("/v1", 1)[1]


def states(app):
    """Return the uploads in Kinto's storage."""
    return app.registry.storage.list_all("attachment-uploads", "__attachments__/uploads/*")


def clear_by_request(app):
    """Have a request be the first of a minute."""
    app.registry.attachments.uploads.clearing_is_due_at = 0
    app.get("/__lbheartbeat__")
    app.wait_for_deletions()


def stored_without_record(client, monkeypatch, content=CONTENT):
    """Return an upload whose file is stored, and is not yet the record's."""
    path = client.begun(len(content))
    with monkeypatch.context() as context:
        context.setattr(completion.Completion, "_attach", lambda *args: 1 / 0)
        client.patch(path, 0, content, status=500)
    return path
