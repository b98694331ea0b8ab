"""Real servers with their files in a real bucket: stopped, killed, and several at once."""

import hashlib
import http.client
import itertools
import multiprocessing
import os
import signal
import threading
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from kinto_attachment.storage.s3.storage import S3Storage
from tests.support.forms import BOUNDARY, file_part, multipart
from tests.support.postgresql import postgresql_backends
from tests.support.s3 import MIB, PART_BYTES, eventually
from tests.support.storage_contract import stage
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


def begin_large_upload(server, bucket):
    """Send all but the end of a large upload, and return the connection when parts are in S3."""
    url = urllib.parse.urlsplit(attachment_url(server, "large"))
    connection = http.client.HTTPConnection(url.netloc, timeout=60)
    connection.putrequest("POST", url.path)
    connection.putheader("Authorization", basic_auth(*ALICE))
    connection.putheader("Content-Type", f"multipart/form-data; boundary={BOUNDARY}")
    connection.putheader("Content-Length", str(len(LARGE)))
    connection.endheaders()
    connection.send(LARGE[:-10])
    assert eventually(bucket.uploads), server.log.read_text()
    return connection


@pytest.fixture
def server(serve, bucket, postgresql):
    server = serve(**bucket.settings(), **database(postgresql()))
    create_collection(server)
    return server


def test_a_worker_that_is_killed_midway_leaves_no_object(server, serve, bucket):
    connection = begin_large_upload(server, bucket)
    os.kill(server.worker(), signal.SIGKILL)
    server.stop()
    connection.close()
    assert bucket.keys() == []
    # What the lifecycle rule of the bucket clears: an upload that is not completed, and its parts.
    (left,) = bucket.client.list_multipart_uploads(Bucket=bucket.name)["Uploads"]
    bucket.client.abort_multipart_upload(
        Bucket=bucket.name, Key=left["Key"], UploadId=left["UploadId"]
    )
    assert bucket.uploads() == bucket.keys() == []


def test_a_stopping_worker_finishes_an_upload(server, bucket):
    connection = begin_large_upload(server, bucket)
    server.terminate()
    connection.send(LARGE[-10:])
    assert connection.getresponse().status == 201
    server.wait_until_stopped()
    assert bucket.uploads() == []
    assert len(bucket.keys()) == 1


def test_a_stopping_worker_leaves_nothing_of_an_upload_that_does_not_end(server, bucket):
    connection = begin_large_upload(server, bucket)
    server.terminate()
    connection.close()
    server.wait_until_stopped()
    assert bucket.uploads() == bucket.keys() == []


def test_a_process_that_ends_aborts_the_uploads_of_its_threads(bucket):
    storage = S3Storage.from_settings(bucket.options, "")
    begun = multiprocessing.get_context("fork").Event()

    def worker():
        def request():
            staged = stage(storage, b"x" * (2 * PART_BYTES), unique=True)
            begun.set()
            threading.Event().wait()
            staged.discard()

        threading.Thread(target=request, daemon=True).start()
        begun.wait()

    process = multiprocessing.get_context("fork").Process(target=worker)
    process.start()
    process.join()
    assert begun.is_set()
    assert bucket.uploads() == bucket.keys() == []


def test_a_client_that_disconnects_midway_leaves_nothing(server, bucket):
    begin_large_upload(server, bucket).close()
    assert eventually(lambda: bucket.uploads() == []), server.log.read_text()
    assert bucket.keys() == []


def test_memory_stays_small_and_the_disk_untouched(server, bucket):
    upload(server, "warm", b"x" * PART_BYTES)
    memory, written = server.peak_memory(), server.written()
    upload(server, "large", b"x" * (30 * PART_BYTES))
    # A log may be written, but not the file.
    assert server.written() - written < MIB
    assert server.peak_memory() - memory < 8 * PART_BYTES
    assert len(bucket.keys()) == 2


def test_two_servers_share_a_database_and_a_bucket(serve, bucket, postgresql):
    url = postgresql()
    servers = [serve(**bucket.settings(), **database(url)) for _ in range(2)]
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
    assert bucket.keys() == sorted(names)
    assert bucket.uploads() == []


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
