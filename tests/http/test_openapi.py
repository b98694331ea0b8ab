"""A running server against its own OpenAPI document: nothing undocumented, and no failure."""

import json

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.users import ALICE, BOB


ATTACHMENT_PATH = "/buckets/{bucket_id}/collections/{collection_id}/records/{id}/attachment"
LINK_PATH = f"{ATTACHMENT_PATH}/link"
FILE_PATH = "/__files__/{subpath}"
STATUS_CHECKS = [not_a_server_error, status_code_conformance]
"""For files and empty responses: Kinto's generator describes everything as JSON."""
CHECKS = [*STATUS_CHECKS, content_type_conformance, response_schema_conformance]
USERS = st.sampled_from([ALICE, ALICE, ALICE, BOB, {}, {"Authorization": "nonsense"}])
FILES = st.tuples(
    st.sampled_from(["story.txt", "photo.jpg"]) | st.text(max_size=20),
    st.binary(max_size=5) | st.sampled_from([b"x" * 16, b"x" * 17]),
)
OBJECTS = st.dictionaries(
    st.sampled_from(["title", "id", "schema", "last_modified", "attachment", "read", "write"])
    | st.text(max_size=5),
    st.none() | st.integers() | st.text(max_size=5) | st.lists(st.text(max_size=5), max_size=3),
    max_size=3,
)
schemathesis.openapi.format("json-object", OBJECTS.map(json.dumps) | st.text(max_size=20))

RANGES = st.sampled_from(["bytes=0-3", "bytes=-0", "bytes=-", "bytes=99-", "nonsense"])
TAGS = st.sampled_from(['"1"', "*", '"', "", "*x"])
DATES = st.sampled_from(["Mon, 23 Nov 2026 00:00:00 GMT", "yesterday", "99999999999999999999"])


MAX_ROUNDS = 10
"""Versions of Schemathesis differ in what they generate first."""


def bounded(examples):
    """A number of examples, none of them stored."""
    return settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def with_form(document):
    """Return the document with the body as a form: Kinto describes all bodies as JSON.

    The status ``default`` goes, which would allow any.
    """
    operations = document["paths"][ATTACHMENT_PATH]
    reading = document["paths"][LINK_PATH]["get"]
    for operation in (*(operations[method] for method in ("get", "post", "delete")), reading):
        del operation["responses"]["default"]
        # Without this, it would generate users.
        del operation["security"]
    parameters = operations["post"]["parameters"]
    (body,) = [parameter for parameter in parameters if parameter["in"] == "body"]
    parameters.remove(body)
    for name in body["schema"]["properties"]:
        kind = {"type": "file"} if name == "attachment" else JSON_FIELD
        required = name in body["schema"]["required"]
        parameters.append({"name": name, "in": "formData", "required": required, **kind})
    return document


JSON_FIELD = {"type": "string", "format": "json-object"}


def with_known_names(document, locations):
    """Return the document with examples of what exists: other names are 404 at once."""
    known = {"bucket_id": ["blog", "none"], "collection_id": ["photos", "none"]}
    known["id"] = ["first", "second", "third", "fourth", "a+b"]
    for path in (ATTACHMENT_PATH, LINK_PATH):
        for parameter in document["paths"][path]["parameters"]:
            parameter["enum"] = known[parameter["name"]]
    for parameter in document["paths"][FILE_PATH]["parameters"]:
        parameter["enum"] = [*locations, "none.txt"]
    return document


@pytest.fixture
def schema(serve):
    """The document of a server with two records that have files."""
    server = serve("granian", attachment__serve_files="true", attachment__max_size_bytes="16")
    collection = f"{server.url}/buckets/blog/collections/photos"
    for url in (f"{server.url}/buckets/blog", collection):
        requests.put(url, headers=ALICE, timeout=10).raise_for_status()
    files = {"attachment": ("story.txt", b"once upon a time")}
    locations = []
    for id_ in ("first", "kept"):
        url = f"{collection}/records/{id_}/attachment"
        uploaded = requests.post(url, files=files, headers=ALICE, timeout=10).json()
        locations.append(uploaded["location"].rsplit("/", 1)[1])
    document = requests.get(f"{server.url}/__api__", timeout=10).json()
    schema = schemathesis.openapi.from_dict(with_known_names(with_form(document), locations))
    schema.config.update(base_url=server.url)
    return schema


def assert_answers(operation, expected, examples, checks, headers):
    """Call an operation in many ways until it has returned all these statuses. Check all responses.

    The ways are the same in every run, for a version of Schemathesis.
    """
    seen = set()
    for number in range(MAX_ROUNDS):
        seen |= statuses_of(operation, seed(number), examples, checks, headers)
        if expected <= seen:
            return
    raise AssertionError(f"never {sorted(expected - seen)}, but {sorted(seen)}")


def statuses_of(operation, seeded, examples, checks, headers):
    """Call an operation in many ways, check all responses, and return their statuses."""
    seen = set()

    @seeded
    @bounded(examples)
    @given(operation.as_strategy(), USERS, FILES, st.fixed_dictionaries({}, optional=headers))
    def call(case, user, file, more):
        response = send(case, file, {**user, **more})
        seen.add(response.status_code)
        case.validate_response(response, checks=checks)

    call()
    return seen


def send(case, file, headers):
    if not isinstance(case.body, dict) or "attachment" not in case.body:
        return case.call(headers=headers)
    # The file that it makes has no filename, and would always be refused.
    fields = {name: value for name, value in case.body.items() if name != "attachment"}
    case.body = schemathesis.core.NOT_SET
    return case.call(headers=headers, files={"attachment": file}, data=fields)


def test_a_running_server_conforms_to_its_document(schema):
    digests = {"Content-Digest": st.sampled_from(["sha-256=:AAAA:", "new=1", "nonsense!", "a=("])}
    posted, stored = schema[ATTACHMENT_PATH]["POST"], schema[FILE_PATH]["GET"]
    assert_answers(posted, {200, 201, 400, 401, 403, 404, 412, 413}, 120, CHECKS, digests)
    conditions = {"Range": RANGES, "If-None-Match": TAGS, "If-Range": TAGS}
    conditions |= {"If-Modified-Since": DATES}
    assert_answers(stored, {200, 206, 404, 416}, 150, STATUS_CHECKS, conditions)
    downloaded, linked = schema[ATTACHMENT_PATH]["GET"], schema[LINK_PATH]["GET"]
    statuses = {200, 206, 304, 401, 403, 404, 412, 416}
    assert_answers(downloaded, statuses, 150, STATUS_CHECKS, conditions | {"If-Match": TAGS})
    assert_answers(linked, {200, 400, 401, 403, 404}, 80, CHECKS, {})
    detached = schema[ATTACHMENT_PATH]["DELETE"]
    assert_answers(detached, {204, 401, 404}, 80, STATUS_CHECKS, {})
