"""Real servers with their files in a bucket on fake-gcs-server: stopped, and several at once."""

import multiprocessing
import threading

import pytest

from tests.support.clients import (
    LARGE,
    attach_from_eight_clients,
    begin_large_upload,
    create_collection,
    database,
    upload,
)
from tests.support.gcs import MIB, PART_BYTES, gcs_storage, through
from tests.support.s3 import eventually
from tests.support.storage_contract import stage


@pytest.fixture
def server(serve, gcs_bucket, gcs_proxy):
    server = serve(**gcs_bucket.settings(gcloud__endpoint_url=gcs_proxy.url))
    create_collection(server)
    return server


@pytest.fixture
def connection(server, gcs_proxy):
    """The connection of a large upload that lacks its end."""
    return begin_large_upload(server, lambda: gcs_proxy.operations().count("Part") == 2)


def test_a_stopping_worker_finishes_an_upload(server, connection, gcs_bucket, gcs_proxy):
    server.terminate()
    connection.send(LARGE[-10:])
    assert connection.getresponse().status == 201
    server.wait_until_stopped()
    assert len(gcs_bucket.keys()) == 1
    assert "Cancel" not in gcs_proxy.operations()


def test_a_stopping_worker_leaves_nothing_of_an_upload_that_does_not_end(
    server, connection, gcs_bucket, gcs_proxy
):
    server.terminate()
    connection.close()
    server.wait_until_stopped()
    assert "Cancel" in gcs_proxy.operations()
    assert gcs_bucket.keys() == []


def test_a_process_that_ends_cancels_the_sessions_of_its_threads(gcs_bucket, gcs_proxy):
    storage = gcs_storage(through(gcs_bucket, gcs_proxy))
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
    assert "Cancel" in gcs_proxy.operations()
    assert gcs_bucket.keys() == []


def test_a_client_that_disconnects_midway_leaves_nothing(connection, gcs_bucket, gcs_proxy):
    connection.close()
    assert eventually(lambda: "Cancel" in gcs_proxy.operations())
    assert gcs_bucket.keys() == []


def test_memory_stays_small_and_the_disk_untouched(serve, gcs_bucket):
    server = serve(**gcs_bucket.settings())
    create_collection(server)
    upload(server, "warm", b"x" * 2 * PART_BYTES)
    memory, written = server.peak_memory(), server.written()
    upload(server, "large", b"x" * (12 * PART_BYTES))
    # A log may be written, but not the file.
    assert server.written() - written < MIB
    assert server.peak_memory() - memory < 3 * PART_BYTES
    assert len(gcs_bucket.keys()) == 2


def test_two_servers_share_a_database_and_a_bucket(serve, gcs_bucket, postgresql):
    url = postgresql()
    servers = [serve(**gcs_bucket.settings(), **database(url)) for _ in range(2)]
    assert attach_from_eight_clients(servers, gcs_bucket) == gcs_bucket.keys()
