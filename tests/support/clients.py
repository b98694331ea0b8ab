"""Clients of servers with their files in a bucket."""

import hashlib
import http.client
import itertools
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

import requests

from tests.support.forms import BOUNDARY, file_part, multipart
from tests.support.postgresql import postgresql_backends
from tests.support.s3 import MIB, PART_BYTES, eventually
from tests.support.users import basic_auth


ALICE = ("alice", "secret")
LARGE = multipart(file_part(b"x" * (3 * PART_BYTES + MIB)))


def database(url):
    """Return keyword arguments for ``serve``."""
    return {k.removeprefix("kinto."): v for k, v in postgresql_backends(url).items()}


def create_collection(server):
    for url in ("buckets/blog", "buckets/blog/collections/photos"):
        requests.put(f"{server.url}/{url}", auth=ALICE, timeout=30).raise_for_status()


def attachment_url(server, record):
    return f"{server.url}/buckets/blog/collections/photos/records/{record}/attachment"


def begin_large_upload(server, has_begun):
    """Send all but the end of a large upload, and return the connection when it has begun."""
    url = urllib.parse.urlsplit(attachment_url(server, "large"))
    connection = http.client.HTTPConnection(url.netloc, timeout=60)
    connection.putrequest("POST", url.path)
    connection.putheader("Authorization", basic_auth(*ALICE))
    connection.putheader("Content-Type", f"multipart/form-data; boundary={BOUNDARY}")
    connection.putheader("Content-Length", str(len(LARGE)))
    connection.endheaders()
    connection.send(LARGE[:-10])
    assert eventually(has_begun), server.log.read_text()
    return connection


def attach_from_eight_clients(servers, bucket):
    """Attach 200 files to 150 records through servers, and return the sorted keys of the last ones.

    Each of these is fetched from its location and compared.
    """
    create_collection(servers[0])
    contents = {}
    numbers = itertools.count()

    def client(_):
        for _ in range(25):
            number = next(numbers)
            # Some records get several files, one after the other and from both servers.
            record = f"record-{number % 150}"
            content = f"{number} ".encode() * (1 + number % 500 * 20)
            response = upload(servers[number % 2], record, content)
            contents[response["hash"]] = content

    with ThreadPoolExecutor(8) as clients:
        list(clients.map(client, range(8)))

    records = requests.get(
        f"{servers[0].url}/buckets/blog/collections/photos/records", auth=ALICE, timeout=30
    ).json()["data"]
    assert len(contents) == 200
    assert len(records) == 150
    names = []
    for record in records:
        attachment = record["attachment"]
        content = requests.get(attachment["location"], timeout=30).content
        assert hashlib.sha256(content).hexdigest() == attachment["hash"]
        assert contents[attachment["hash"]] == content
        names.append(attachment["location"].removeprefix(bucket.location("")))
    return sorted(names)


def upload(server, record, content):
    """Attach a file, and retry if another client changed the record, as Kinto asks for."""
    for _ in range(20):
        response = requests.post(
            attachment_url(server, record),
            files={"attachment": ("a.txt", content, "text/plain")},
            auth=ALICE,
            timeout=60,
        )
        if response.status_code not in (409, 503):
            break
    assert response.ok, response.text
    return response.json()
