import pytest

from tests.support.resumable import Client


@pytest.fixture
def client(app):
    return Client(app)
