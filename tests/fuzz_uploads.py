"""A long run of random forms through ``read_form`` (``make fuzz``), not part of the suite.

Forms are assembled from typical pieces, broken, and read in pieces of any size. A form is read or
refused with one of Kinto's errors, the same in any pieces; a refused form leaves nothing staged;
and if Werkzeug's parser, which shares no code with this one, reads the body as well, both read the
same file.

``FUZZ_SECONDS`` says how long (600), ``FUZZ_SEED`` where to begin (0).
"""

import collections
import hashlib
import io
import os
import random
import re
import sys
import time
import unicodedata

from pyramid.httpexceptions import HTTPException
from werkzeug.formparser import MultiPartParser

from tests.support.forms import read_form


BOUNDARY = "boundary"
DELIMITER = b"--boundary"
PIECES = [
    DELIMITER + b"\r\n",
    DELIMITER + b" \t\r\n",
    DELIMITER + b"--",
    DELIMITER + b"--\r\n",
    b"\r\n" + DELIMITER,
    DELIMITER[:-1],
    b"\r\n",
    b"\r\n\r\n",
    b"\r",
    b"\n",
    b"--",
    b" ",
    b'Content-Disposition: form-data; name="attachment"; filename="a.txt"\r\n',
    b"Content-Disposition: form-data; name=attachment; filename=a.txt\r\n",
    b"content-disposition: FORM-DATA; name=\"attachment\"; filename*=utf-8''%e2%82%ac.txt\r\n",
    b'Content-Disposition: form-data; name="attachment"; filename="../\xe2\x80\xae\\"%22.gz"\r\n',
    b"Content-Disposition: form-data; name=attachment; filename=my file.txt\r\n",
    b'Content-Disposition: form-data; name="attachment"; filename="=?utf-8?Q?=C3=A9.txt?="\r\n',
    b'Content-Disposition: form-data; name="data"\r\n',
    b'Content-Disposition: form-data; name="permissions"\r\n',
    b"Content-Disposition: attachment\r\n",
    b"Content-Type: text/csv; charset=latin-1\r\n",
    b"Content-Type: text/html\r\n",
    b"Content-Length: 4\r\n",
    b"Content-Transfer-Encoding: base64\r\n",
    b"Content-Digest: sha-256=:AAAA:\r\n",
    b"Content-MD5: AAAA\r\n",
    b"X: y\r\n z\r\n",
    b'{"a": [1, "\\u0000", 1e5]}',
    b"{}",
    b"null",
    b"\xff\xfe\x00",
    "é\u202e\U0001f600".encode(),
    b"x" * 5000,
]
FILE = b'Content-Disposition: form-data; name="attachment"; filename="a.txt"\r\n\r\nonce'
DATA = b'Content-Disposition: form-data; name="data"\r\n\r\n{"a": 1}'
LOOSE_DELIMITER = re.compile(b"(?<!^)(?<!\r\n)" + DELIMITER + b"|\r\n\r\n" + DELIMITER)
"""A boundary for Werkzeug alone: after a lone CR or LF, and at the beginning of content."""
CLEAN_NAME = re.compile(r"[\w .()-]+\.\w+", re.ASCII)


def random_part(rng):
    headers = b"".join(rng.choices(PIECES[12:28], k=rng.randint(0, 3)))
    return rng.choice([DATA, headers + b"\r\n" + random_content(rng)])


def random_content(rng):
    return b"".join(rng.choices(PIECES, k=rng.randint(0, 4)))


def random_file(rng):
    digest = b"Content-MD5: 4u/2wtr9kJ34UI+JGzhdiA==\r\n"
    return rng.choice([b"", b"", digest]) + FILE + rng.choice([b"", random_content(rng)])


def random_body(rng):
    others = rng.choice([0, 0, 1, 1, 2, 20])
    parts = [random_file(rng), *(random_part(rng) for _ in range(others))]
    rng.shuffle(parts)
    body = b"".join(DELIMITER + b"\r\n" + part + b"\r\n" for part in parts)
    body = bytearray(body + DELIMITER + b"--\r\n")
    for _ in range(rng.choice([0, 0, 0, 1, 1, 2, 5])):
        break_somewhere(rng, body)
    return bytes(body)


def break_somewhere(rng, body):
    start = rng.randint(0, len(body))
    end = min(len(body), start + rng.choice([0, 1, 2, 10, 100]))
    body[start:end] = rng.choice([b"", rng.choice(PIECES), rng.randbytes(rng.randint(1, 8))])


def outcome(body, sizes, length, **options):
    """Return the filename and hash of a body, or its refusal."""
    try:
        form, file = read_form(body, sizes, BOUNDARY, length, **options)
    except HTTPException as error:
        # The numbers in the message depend on the pieces.
        return error.status_code, error.json["errno"]
    description = form.upload.description
    sent = form.upload.original or description
    if form.upload.original is None:
        assert description.hash == hashlib.sha256(file.content).hexdigest()
    assert description.size == len(file.content)
    assert sent.filename and not any(c in sent.filename for c in "/\\")
    assert all(unicodedata.category(c) != "Cc" for c in sent.filename)
    assert re.fullmatch(r"[\x21-\x7e]+/[\x21-\x7e]+", description.mimetype)
    return sent.filename, sent.hash, sent.size, form.data, form.permissions


def read_by_werkzeug(body):
    """Return the name and the content of the file, or ``None`` if it reads none."""
    try:
        parser = MultiPartParser(max_form_parts=16)
        _, files = parser.parse(io.BytesIO(body), BOUNDARY.encode(), len(body))
    except Exception:
        return None
    found = files.getlist("attachment")
    return (found[0].filename, found[0].read()) if len(found) == 1 else None


def compare(body, result):
    expected = read_by_werkzeug(body)
    if expected is None or len(result) == 2 or LOOSE_DELIMITER.search(body):
        return False
    filename, content = expected
    assert result[1] == hashlib.sha256(content).hexdigest(), "another content than Werkzeug's"
    # Parsers differ in how they read a broken filename*.
    if CLEAN_NAME.fullmatch(filename) and b"filename*" not in body.lower():
        assert result[0] == filename, "another filename than Werkzeug's"
    return True


def try_one(rng):
    """Read one random body in several ways, and return the result."""
    body = random_body(rng)
    length = rng.choice([len(body)] * 5 + [None] * 3 + [len(body) + 5, max(0, len(body) - 5)])
    options = {"max_field_bytes": rng.choice([1 << 20, 10]), "max_file_bytes": rng.choice([0, 100])}
    options["gzip_level"] = rng.choice([None, None, None, 1])
    whole = outcome(body, [1 << 20], length, **options)
    sizes = [rng.choice([1, 2, 3, 7, 50, 5000]) for _ in range(rng.randint(1, 5))]
    pieces = outcome(body, sizes, length, **options)
    # A body may have two faults, and which is found first depends on its pieces.
    assert pieces == whole or len(pieces) == len(whole) == 2, (sizes, pieces, whole)
    compared = length == len(body) and compare(body, whole)
    return ("refused", *whole) if len(whole) == 2 else ("read", "compared" if compared else "")


def main():
    seed = int(os.environ.get("FUZZ_SEED", "0"))
    deadline = time.monotonic() + float(os.environ.get("FUZZ_SECONDS", "600"))
    results = collections.Counter()
    while time.monotonic() < deadline:
        try:
            results[try_one(random.Random(seed))] += 1
        except BaseException:
            print(f"FUZZ_SEED={seed} fails:", random_body(random.Random(seed)), file=sys.stderr)
            raise
        seed += 1
    print(f"{results.total()} forms, up to FUZZ_SEED={seed}")
    for result, number in results.most_common():
        print(f"{number:10}", *result)


if __name__ == "__main__":
    main()
