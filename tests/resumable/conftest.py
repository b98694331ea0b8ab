import pytest

from kinto_attachment.resumable import completion, upload, uploads
from tests.support.resumable import DAY, Client


@pytest.fixture
def client(app):
    return Client(app)


@pytest.fixture
def later(monkeypatch):
    """Set the clock of uploads a day ahead."""

    def go_on(milliseconds=DAY + 1000):
        now = upload.now
        for module in (upload, uploads, completion):
            monkeypatch.setattr(module, "now", lambda: now() + milliseconds)

    return go_on
