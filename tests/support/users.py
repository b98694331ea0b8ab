"""The users of the Kintos in the tests."""

import base64

from kinto.core.testing import get_user_headers


ALICE = get_user_headers("alice")
BOB = get_user_headers("bob")


def basic_auth(user, password="secret"):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
