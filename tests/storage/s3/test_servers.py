"""Real servers with their files in a real bucket: stopped, killed, and several at once."""

import multiprocessing
import os
import signal
import threading

import pytest

from kinto_attachment.storage.s3.storage import S3Storage
from tests.support.clients import (
    LARGE,
    attach_from_eight_clients,
    begin_large_upload,
    create_collection,
    database,
    upload,
)
from tests.support.s3 import MIB, PART_BYTES, eventually
from tests.support.storage_contract import stage


@pytest.fixture
def server(serve, bucket, postgresql):
    server = serve(**bucket.settings(), **database(postgresql()))
    create_collection(server)
    return server


def test_a_worker_that_is_killed_midway_leaves_no_object(server, serve, bucket):
    connection = begin_large_upload(server, bucket.uploads)
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
    connection = begin_large_upload(server, bucket.uploads)
    server.terminate()
    connection.send(LARGE[-10:])
    assert connection.getresponse().status == 201
    server.wait_until_stopped()
    assert bucket.uploads() == []
    assert len(bucket.keys()) == 1


def test_a_stopping_worker_leaves_nothing_of_an_upload_that_does_not_end(server, bucket):
    connection = begin_large_upload(server, bucket.uploads)
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
    begin_large_upload(server, bucket.uploads).close()
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
    assert attach_from_eight_clients(servers, bucket) == bucket.keys()
    assert bucket.uploads() == []
