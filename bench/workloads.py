"""The workloads: requests of one kind that store a file, or only a record, on a server."""

import tempfile
import threading
import time
import uuid
from typing import NamedTuple

import boto3

from bench.client import NO_BODY, Client, form, json_body
from bench.environment import COLLECTION, GZIPPED_COLLECTION, Setup
from tests.support.s3 import ACCESS_KEY, SECRET_KEY


RECORD = f"{COLLECTION}/records/{{id}}"
DEFAULT_COLLECTION = "/v1/buckets/default/collections/files"
PLAIN_RECORD = {
    "title": "file.txt",
    "hash": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "mimetype": "text/plain",
    "size": 1024,
    "url": "https://files.example.com/0c6e6f4e-8d0a-4b9c-9c5e-0e6b8a5d1f10.txt",
}
"""As large as a record with an attachment."""
CHANGE = json_body({"data": {"title": "changed"}})
FILE_BYTES = 1024
"""The size of a small file."""


class Workload(NamedTuple):
    """Requests that are sent and timed.

    :ivar kind: one of ``REQUESTS``.
    :ivar clients: how many send at once.
    :ivar requests: how many of them each client sends in a round.
    """

    name: str
    kind: str
    size: int
    setup: Setup = Setup()
    content: str = "random"
    clients: int = 1
    requests: int = 1


def run(environment, workload):
    """Run one round, and return the seconds for one request."""
    if workload.kind == "upload_file":
        return _upload_file(environment.bucket(), workload.size)
    if workload.kind == "nginx":
        return _nginx(environment, workload)
    return run_on(environment.server(workload.setup), workload)


def run_on(server, workload):
    """Run one round on this server, and return the seconds for one request."""
    ids = [uuid.uuid4() for _ in range(workload.clients * workload.requests)]
    if workload.kind in PREPARED_BY:
        client = Client(server.port)
        _send_all(client, workload._replace(kind=PREPARED_BY[workload.kind]), ids)
        client.close()
    threads = []
    barrier = threading.Barrier(workload.clients + 1)
    failures = []
    for number in range(workload.clients):
        arguments = (server.port, workload, ids[number :: workload.clients], barrier, failures)
        threads.append(threading.Thread(target=_client, args=arguments))
        threads[-1].start()
    barrier.wait()
    begin = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begin
    if failures:
        raise failures[0]
    return seconds / (workload.clients * workload.requests)


def _client(port, workload, ids, barrier, failures):
    client = Client(port)
    barrier.wait()
    try:
        _send_all(client, workload, ids)
    except Exception as error:
        failures.append(error)
    finally:
        client.close()


def _send_all(client, workload, ids):
    method, path, body = REQUESTS[workload.kind](workload)
    for id_ in ids:
        client.send(method, path.format(id=id_), body)


def _file(workload):
    return form(workload.size, workload.content)


REQUESTS = {
    "ours": lambda c: ("POST", f"{RECORD}/attachment", _file(c)),
    "replace": lambda c: ("POST", f"{RECORD}/attachment", _file(c)),
    "detach": lambda c: ("DELETE", f"{RECORD}/attachment", NO_BODY),
    "patch attached": lambda c: ("PATCH", RECORD, CHANGE),
    "delete attached": lambda c: ("DELETE", RECORD, NO_BODY),
    "gzip": lambda c: ("POST", f"{GZIPPED_COLLECTION}/records/{{id}}/attachment", _file(c)),
    "default": lambda c: ("POST", f"{DEFAULT_COLLECTION}/records/{{id}}/attachment", _file(c)),
    "usual": lambda c: ("POST", f"/v1/usual/none{RECORD}", _file(c)),
    "usual gzip": lambda c: ("POST", f"/v1/usual/gzip{RECORD}", _file(c)),
    "bare": lambda c: ("POST", "/bare", _file(c)),
    "bare fsync": lambda c: ("POST", "/bare?fsync", _file(c)),
    "discard": lambda c: ("POST", "/discard", _file(c)),
    "download": lambda c: ("GET", f"{RECORD}/attachment", NO_BODY),
    "bare download": lambda c: ("GET", "/bare-file", NO_BODY),
    "put": lambda c: ("PUT", RECORD, json_body({"data": PLAIN_RECORD})),
    "get": lambda c: ("GET", RECORD, NO_BODY),
    "patch": lambda c: ("PATCH", RECORD, CHANGE),
    "delete": lambda c: ("DELETE", RECORD, NO_BODY),
}
"""``{kind: method, path and body of its requests}``, ``{id}`` being another one each time."""

PREPARED_BY = {
    **dict.fromkeys(("replace", "detach", "patch attached", "delete attached"), "ours"),
    **dict.fromkeys(("download", "bare download"), "ours"),
    **dict.fromkeys(("get", "patch", "delete"), "put"),
}
"""``{kind: the kind of the requests that are sent before it, and not timed}``."""


def _nginx(environment, workload):
    """Return the seconds in which nginx sends a file of that size, with ``sendfile``."""
    client = Client(environment.server(workload.setup).port)
    _send_all(client, workload._replace(kind="ours"), [uuid.uuid4()])
    client.close()
    name = max(environment.files.iterdir(), key=lambda path: path.stat().st_size).name
    client = Client(environment.nginx())
    begin = time.perf_counter()
    client.send("GET", f"/{name}", NO_BODY)
    seconds = time.perf_counter() - begin
    client.close()
    return seconds


def _upload_file(bucket, size):
    """Return the seconds in which boto3 sends a local file, as it does by itself."""
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=bucket.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
    )
    with tempfile.NamedTemporaryFile() as file:
        body = form(size)
        for _ in range(body.blocks):
            file.write(body.block)
        file.flush()
        begin = time.perf_counter()
        client.upload_file(file.name, bucket.name, f"{uuid.uuid4()}")
        return time.perf_counter() - begin
