"""The client of S3: one for each process."""

import multiprocessing
import threading

from kinto_attachment.storage.heartbeat import Heartbeat
from kinto_attachment.storage.s3.storage import S3Storage
from tests.support.s3 import (
    HeartbeatRequest,
)
from tests.support.storage_contract import read, store


class TestClient:
    def test_threads_share_one(self, storage):
        clients = []
        threads = [
            threading.Thread(target=lambda: clients.append(storage.bucket.client.boto3_client))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(clients) == 8
        assert len(set(map(id, clients))) == 1

    def test_it_is_made_at_first_use(self, storage, monkeypatch):
        made = []
        monkeypatch.setattr(
            "boto3.session.Session.client", lambda self, *args, **kwargs: made.append(args)
        )
        assert made == []
        assert storage.bucket.client.boto3_client is None
        assert made == [("s3",)]

    def test_a_server_starts_without_one(self, make_app, bucket, monkeypatch):
        made = []
        monkeypatch.setattr(
            "boto3.session.Session.client", lambda self, *args, **kwargs: made.append(args)
        )
        make_app(**bucket.settings(base_url="https://cdn.example.org/"))
        assert made == []

    def test_it_has_connections_for_all_threads_of_a_worker(self, storage):
        assert storage.bucket.client.boto3_client.meta.config.max_pool_connections >= 128

    def test_a_forked_process_makes_its_own(self, storage, bucket):
        before = id(storage.bucket.client.boto3_client)
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe()

        def child():
            store(storage, name="from-the-child.txt", unique=True)
            sender.send(id(storage.bucket.client.boto3_client))

        process = context.Process(target=child)
        process.start()
        assert receiver.poll(30)
        assert receiver.recv() != before
        process.join()
        assert read(storage, "from-the-child.txt") == b"once upon a time"

    def test_the_heartbeat_names_a_bucket_that_does_not_answer(self, bucket, silence, caplog):
        storage = S3Storage.from_settings({**bucket.options, "aws.endpoint_url": silence.url}, "")
        assert Heartbeat(storage)(HeartbeatRequest) is False
        assert bucket.name in caplog.text
