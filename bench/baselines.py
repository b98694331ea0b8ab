"""The baselines: three WSGI functions without Kinto."""

import hashlib
import os
import uuid

from multipart import PushMultipartParser, parse_options_header


CHUNK_BYTES = 256 * 1024


def bare(environ, start_response):
    """The bare pipeline: parse, hash and write, with ``?fsync`` to the disk, and nothing else."""
    _, parameters = parse_options_header(environ["CONTENT_TYPE"])
    length = int(environ["CONTENT_LENGTH"])
    parser = PushMultipartParser(parameters["boundary"], length)
    digest = hashlib.sha256()
    with open(os.path.join(os.environ["BENCH_FILES"], uuid.uuid4().hex), "xb") as file:
        for event in parser.parse_blocking(environ["wsgi.input"].read, CHUNK_BYTES):
            if isinstance(event, (bytes, bytearray)):
                digest.update(event)
                file.write(event)
        if environ["QUERY_STRING"] == "fsync":
            file.flush()
            os.fsync(file.fileno())
    return _answer(start_response, digest.hexdigest().encode())


def discard(environ, start_response):
    """What the server can receive at best: the body is read, and nothing is done with it."""
    left = int(environ["CONTENT_LENGTH"])
    while left:
        left -= len(environ["wsgi.input"].read(min(left, CHUNK_BYTES)))
    return _answer(start_response, b"done")


def bare_file(environ, start_response):
    """A bare file response: the largest file of the folder, in blocks, and nothing else."""
    with os.scandir(os.environ["BENCH_FILES"]) as entries:
        size, path = max((e.stat().st_size, e.path) for e in entries if e.is_file())
    start_response("200 OK", [("Content-Length", str(size))])
    return _blocks(path)


def _blocks(path):
    with open(path, "rb") as file:
        yield from iter(lambda: file.read(CHUNK_BYTES), b"")


def _answer(start_response, body):
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
