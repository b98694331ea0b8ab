"""Requests and responses that Cornice and Kinto would take for others."""

import inspect

from kinto.core import initialization

from kinto_attachment.http.sending import StreamedResponse
from tests.support.app import ATTACHMENT
from tests.support.users import ALICE


def test_media_type(app):
    """Cornice finds the view of a Content-Type in other letters, and refuses another type."""
    boundary = "multipart/FORM-data; boundary=x"
    answer = app.post(
        ATTACHMENT,
        "--x--",
        headers=ALICE | {"Content-Type": boundary},
        status=400,
    )
    assert answer.json["message"] == "Attachment missing."
    # Not before: Cornice's services have the origins that the server had when they were made.
    from kinto_attachment.http.attachment import MediaType

    assert MediaType("a/b") == "A/B" != "a/c"


def test_no_content(app):
    app.upload()
    request = {"method": "DELETE", "path": ATTACHMENT}
    answer = app.post_json("/batch", {"requests": [request]}, headers=ALICE)
    assert answer.json["responses"][0]["status"] == 204
    assert answer.json["responses"][0]["body"] == {}


def test_streamed_response():
    """Kinto's metrics ask for the length of ``body``, which would read all of a response."""
    assert "len(event.response.body" in inspect.getsource(initialization).replace("\n", "")
    response = StreamedResponse(app_iter=iter([b"a file"]))
    assert response.body == b""
    assert list(response.app_iter) == [b"a file"]
