"""Properties that hold for any input: names, forms in any pieces, settings."""

import io
import json
import os
import re
import tempfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyramid.exceptions import ConfigurationError
from pyramid.httpexceptions import HTTPException
from requests_toolbelt import MultipartEncoder
from urllib3 import encode_multipart_formdata
from urllib3.fields import RequestField

from kinto_attachment.form.form import read_form as read_form_from
from kinto_attachment.settings.options import OPTIONS, PER_COLLECTION
from kinto_attachment.settings.read import read_settings
from kinto_attachment.storage.local import LocalStorage
from kinto_attachment.storage.names import DEVICES, candidate_keys, make_key
from tests.support.forms import read_form


def bounded(examples):
    """The same examples in every run, none of them stored."""
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )


HARMFUL = st.sampled_from(
    ["..", ".", "/", "\\", "\0", "\r\n", "%2e", "~", "-", "CON", "nul", "COM1", ".txt", ".gz", " "]
    + ["é", "e\u0301", "\u202e", "\u200f", "\U0001f600", "x" * 300, "?", "#", ":", "*", '"', "|"]
)
NAMES = st.one_of(st.text(max_size=40), st.lists(HARMFUL, max_size=8).map("".join))
PATTERNS = st.sampled_from(
    ["{filename}", "{rid}", "{datetime}-{filename}", "..{filename}..", "nul", "{rid}.{filename}"]
)


@bounded(200)
@given(NAMES, PATTERNS, st.booleans(), st.sampled_from(["", ".gz"]))
def test_a_key_is_safe_for_any_filename(filename, pattern, randomize, appended):
    name = make_key(filename, "blog/photos", randomize, pattern, "an-id", appended)
    folder, base = os.path.split(name)
    assert folder == "blog/photos"
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", base)
    assert not base.endswith(".")
    assert not DEVICES.match(base)
    assert len(base) <= 255
    assert base.endswith(appended)


@bounded(150)
@given(NAMES, st.from_regex(r"[A-Za-z0-9]{1,20}", fullmatch=True), PATTERNS, st.booleans())
def test_a_key_keeps_the_extension(stem, extension, pattern, randomize):
    # A filename is a last component, and one that begins with its only dot has no extension.
    filename = f"x{stem.replace('/', '')}.{extension}"
    name = make_key(filename, "", randomize, pattern, "an-id")
    assert name.endswith(f".{extension.lower() if randomize else extension}")
    assert all(
        taken.endswith(name[-len(extension) - 1 :]) for taken in first(candidate_keys(name), 3)
    )


def first(values, number):
    return [value for value, _ in zip(values, range(number), strict=False)]


@bounded(25)
@given(st.lists(st.one_of(NAMES, st.sampled_from(["a", "a-1", "a.txt", "a-1.txt"])), max_size=12))
def test_a_key_is_never_used_twice_and_never_outside_of_the_folder(filenames):
    with tempfile.TemporaryDirectory() as outside:
        storage = LocalStorage(os.path.join(outside, "files"), fsync=False)
        storage.prepare()
        stored = {}
        for number, filename in enumerate(filenames):
            staged = storage.stage(make_key(filename, "a/b", randomize=False), "text/plain")
            staged.write(b"%d" % number)
            stored[staged.publish()] = b"%d" % number
        assert len(stored) == len(filenames)
        assert {file.key: storage.open(file.key).read() for file in storage.files()} == stored
        found = [os.path.join(path, name) for path, _, names in os.walk(outside) for name in names]
        assert sorted(found) == sorted(storage.path(name) for name in stored)


BOUNDARIES = st.from_regex(r"[A-Za-z0-9'()+_,./:=?-]{1,70}", fullmatch=True)
SIZES = st.lists(st.integers(1, 200), min_size=1, max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text("aé\U0001f600\\\"'\r\n"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.text("abc é", max_size=3), JSON, max_size=3)
# Characters of a clean filename: the rest is for the tests of odd input.
FILENAMES = st.text("abcé. -_()'日\U0001f600\u200f;=", min_size=1, max_size=30).filter(
    lambda name: name.strip() == name and name not in (".", "..")
)


@st.composite
def contents(draw, boundary):
    """Bytes with pieces of the boundary inside, but never the whole of it."""
    delimiter = b"\r\n--" + boundary.encode()
    pieces = st.one_of(
        st.binary(max_size=30), st.integers(0, len(delimiter) - 1).map(lambda end: delimiter[:end])
    )
    content = b"".join(draw(st.lists(pieces, max_size=8)))
    # It may also be complete across two pieces, or with what is around the content.
    return content.replace(b"--" + boundary.encode(), b"")


@st.composite
def forms(draw):
    boundary = draw(BOUNDARIES)
    content = draw(contents(boundary))
    if b"--" + boundary.encode() in content:
        content = b""
    data, permissions = draw(OBJECTS), draw(OBJECTS)
    order = draw(st.permutations(["attachment", "data", "permissions"]))
    return boundary, content, data, permissions, draw(FILENAMES), order


def encoded_by_urllib3(boundary, values):
    fields = []
    for name, value in values.items():
        filename, value, content_type = value if isinstance(value, tuple) else (None, value, None)
        field = RequestField(name, value, filename)
        field.make_multipart(content_type=content_type)
        fields.append(field)
    return encode_multipart_formdata(fields, boundary)[0]


def encoded_by_toolbelt(boundary, values):
    return MultipartEncoder(values, boundary).to_string()


@pytest.mark.parametrize("encode", [encoded_by_urllib3, encoded_by_toolbelt])
@bounded(100)
@given(forms(), SIZES, st.booleans())
def test_a_form_of_another_encoder_is_read_in_any_pieces(encode, form, sizes, length_is_known):
    boundary, content, data, permissions, filename, order = form
    values = {
        "attachment": (filename, content, "text/csv"),
        "data": json.dumps(data),
        "permissions": json.dumps(permissions),
    }
    body = encode(boundary, {name: values[name] for name in order})
    length = len(body) if length_is_known else None
    read, file = read_form(body, sizes, boundary, length)
    assert file.content == content
    assert read.upload.description.filename == filename
    assert read.upload.description.size == len(content)
    assert read.upload.description.mimetype == "text/csv"
    assert (read.data, read.permissions) == (data, permissions)


# What WSGI passes on of a header (PEP 3333).
HEADERS = st.text(st.characters(max_codepoint=255), max_size=30)
CONTENT_TYPES = st.one_of(
    HEADERS,
    HEADERS.map(lambda text: f"multipart/form-data; {text}"),
    HEADERS.map(lambda text: f"multipart/form-data; boundary={text}"),
    HEADERS.map(lambda text: f'multipart/form-data; boundary="{text}"'),
)


@bounded(150)
@given(CONTENT_TYPES, st.none() | HEADERS)
def test_any_header_of_a_request_is_at_most_refused(content_type, content_digest):
    body = io.BytesIO(b"x" * 500)
    with pytest.raises(HTTPException) as refusal:
        read_form_from(body.read, content_type, 500, None, 10, 0, {}, content_digest=content_digest)
    assert refusal.value.status_code == 400


WORDS = st.sampled_from(
    ["{", "}", "{filename}", "{bucket_id}", "{rid!r}", "{0}", "..", "/", ".", "+", ",", ":", ";"]
    + ["jpg", "images", "any", "true", "no", "0", "1", "-1", "9" * 30, "1e400", "nan", "https://"]
    + ["text/plain", " ", "\n", "\0", "\ud800", "é", "٣", "x" * 300, "*", "http://[", "kinto", "\\"]
)
VALUES = st.one_of(st.text(max_size=20), st.lists(WORDS, max_size=6).map("".join))


def settings_with(name, value):
    values = {"attachment.base_path": "/srv/files"}
    values |= {f"attachment.{name}": value, f"kinto.attachment.{name}": value}
    return {"settings_prefix": "kinto", **values}


TYPES = {
    "fsync": bool,
    "serve_files": bool,
    "gzip_level": int,
    "max_field_size_bytes": int,
    "base_url": str,
}
COLLECTION_TYPES = {
    "folder": str,
    "randomize": bool,
    "filename_pattern": str,
    "extensions": (frozenset, type(None)),
    "mimetypes": dict,
    "max_size_bytes": int,
    "gzipped": bool,
    "keep_old_files": bool,
    "delete_after": int,
    "resumable": bool,
}


@pytest.mark.parametrize("name", OPTIONS)
@bounded(25)
@given(VALUES)
def test_any_text_is_a_typed_value_or_an_error_that_names_the_setting(name, value):
    try:
        read = read_settings(settings_with(name, value))
    except ConfigurationError as error:
        assert f"kinto.attachment.{name}" in str(error)
        return
    for option, type_ in TYPES.items():
        assert isinstance(getattr(read, option), type_)
    for option, type_ in COLLECTION_TYPES.items():
        assert isinstance(getattr(read.defaults, option), type_)
    assert not read.defaults.folder_of("blog", "photos").startswith(("/", "."))


@pytest.mark.parametrize("name", PER_COLLECTION)
@bounded(25)
@given(VALUES)
def test_any_text_for_a_collection_is_a_value_or_an_error_that_names_the_setting(name, value):
    full = f"resources.blog.photos.{name}"
    try:
        read = read_settings(settings_with(full, value))
    except ConfigurationError as error:
        assert f"kinto.attachment.{full}" in str(error)
    else:
        own = read.for_collection("blog", "photos")
        assert isinstance(getattr(own, name), COLLECTION_TYPES[name])


@bounded(150)
@given(st.one_of(VALUES, st.lists(st.sampled_from([*OPTIONS, "resources", "blog"])).map(".".join)))
def test_any_name_is_a_setting_or_an_error_that_names_it(name):
    try:
        read_settings(settings_with(name, "true"))
    except ConfigurationError as error:
        assert f"kinto.attachment.{name}" in str(error)
    else:
        assert name in OPTIONS or name.startswith("resources.")
