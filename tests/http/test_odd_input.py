"""Malicious and odd input: names, forms, JSON and mimetypes."""

import contextlib
import io
import itertools
import json
import time

import pytest
import webtest
from pyramid.httpexceptions import HTTPException

from kinto_attachment.form.disposition import parse
from tests.support.app import ATTACHMENT, RECORD, App
from tests.support.forms import BOUNDARY, file_part, multipart, part, read_form
from tests.support.postgresql import postgresql_backends
from tests.support.users import ALICE


CONTENT = b"once upon a time"


@pytest.fixture(scope="module")
def kinto(tmp_path_factory):
    """A Kinto that accepts all extensions and keeps names as far as they are safe."""
    settings = {"kinto.attachment.extensions": "any", "kinto.attachment.randomize": "false"}
    app = App(tmp_path_factory.mktemp("odd") / "files", **settings)
    app.create_collection()
    return app


@pytest.fixture
def app(kinto):
    yield kinto
    kinto.delete(RECORD, headers=ALICE, status="*")
    assert kinto.files() == {}


def refused(response, number, message):
    assert response.status_code == response.json["code"]
    assert response.json["errno"] == number
    assert message in response.json["message"]


def disposition(parameters, content=CONTENT):
    """Return a part with these parameters in its Content-Disposition, as they are."""
    header = f"Content-Disposition: form-data; name=attachment{parameters}\r\n\r\n"
    return header.encode() + content


LONG = "é" * 4996 + ".txt"

FILENAMES = {
    "parent folders": ("../../../story.txt", "story.txt", "story.txt"),
    "parent folders of Windows": (r"..\..\story.txt", "story.txt", "story.txt"),
    "both": (r"..\../a\/story.txt", "story.txt", "story.txt"),
    "absolute": ("/etc/story.txt", "story.txt", "story.txt"),
    "absolute of Windows": (r"C:\Users\alice\story.txt", "story.txt", "story.txt"),
    "a share": (r"\\server\share\story.txt", "story.txt", "story.txt"),
    "a drive": ("C:story.txt", "C:story.txt", "Cstory.txt"),
    "percent-encoded dots": ("%2e%2e%2fstory.txt", "%2e%2e%2fstory.txt", "2e2e2fstory.txt"),
    "NUL": ("sto\0ry.txt", "story.txt", "story.txt"),
    "NUL before another extension": ("story.exe\0.txt", "story.exe.txt", "story.exe.txt"),
    "percent-encoded CR and LF": ("sto%0D%0Ary.txt", "story.txt", "story.txt"),
    "control characters": ("\x01st\x1bory\x7f\x85.txt", "story.txt", "story.txt"),
    "percent-encoded quotes": ("a %22story%22.txt", 'a "story".txt', "a_story.txt"),
    "escaped quotes": (r"a \"story\".txt", 'a "story".txt', "a_story.txt"),
    "single quotes": ("a 'story'.txt", "a 'story'.txt", "a_story.txt"),
    "angle brackets": ("<b>.txt", "<b>.txt", "b.txt"),
    "a semicolon": ("a;b.txt", "a;b.txt", "ab.txt"),
    "another parameter inside": (
        "a; filename*=utf-8''b.txt",
        "a; filename*=utf-8''b.txt",
        "a_filenameutf-8b.txt",
    ),
    "composed": ("caf\u00e9.txt", "caf\u00e9.txt", "cafe.txt"),
    "decomposed": ("cafe\u0301.txt", "cafe\u0301.txt", "cafe.txt"),
    "emoji": ("\U0001f600.txt", "\U0001f600.txt", "attachment.txt"),
    "right-to-left mark": ("\u200fstory.txt", "\u200fstory.txt", "story.txt"),
    "right-to-left override": ("\u202etxt.exe.txt", "txt.exe.txt", "txt.exe.txt"),
    "all overrides": (
        "a\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069b.txt",
        "ab.txt",
        "ab.txt",
    ),
    "full width dots": ("\uff0e\uff0e.txt", "\uff0e\uff0e.txt", "attachment.txt"),
    "one character": ("x", "x", "x"),
    "one letter outside of ASCII": ("\u65e5", "\u65e5", "attachment"),
    "5000 characters": (LONG, LONG, "e" * 251 + ".txt"),
    "5000 characters of four bytes": ("\U0001f600" * 5000, "\U0001f600" * 5000, "attachment"),
    "an extension of 5000 characters": ("a." + "b" * 4998, "a." + "b" * 4998, "a." + "b" * 64),
    "three dots": ("...", "...", "attachment"),
    "hidden": (".htaccess", ".htaccess", "htaccess"),
    "trailing dots": ("story.txt...", "story.txt...", "story.txt"),
    "trailing space": ("story.txt ", "story.txt", "story.txt"),
    "a device": ("NUL", "NUL", "_NUL"),
    "a device with extension": ("con.txt", "con.txt", "_con.txt"),
    "a device with a high number": ("COM\u00b9.txt", "COM\u00b9.txt", "_COM1.txt"),
    "a device with two extensions": ("aux.tar.gz", "aux.tar.gz", "_aux.tar.gz"),
    "an option": ("-rf", "-rf", "rf"),
    "the staging folder": (".staging", ".staging", "staging"),
    "a URL": ("data:text,x.png", "data:text,x.png", "datatextx.png"),
}


@pytest.mark.parametrize("name", FILENAMES)
def test_a_filename_is_kept_in_the_record_and_stored_under_a_safe_name(app, name):
    sent, filename, stored = FILENAMES[name]
    attachment = app.upload(file_part(filename=sent, content_type=None), status=201).json
    assert attachment["filename"] == filename
    assert app.record()["attachment"]["filename"] == filename
    assert attachment["location"] == stored
    assert app.files() == {stored: CONTENT}


@pytest.mark.parametrize(
    "sent",
    ["", ".", "..", " ", "a/", "a\\", "a/..", "a\\.", "\0", "\x01\x02", "\u202e", "/", ". ", "\0."],
)
def test_a_filename_without_any_safe_character_is_refused(app, sent):
    response = app.upload(file_part(filename=sent), status=400)
    refused(response, 107, "Filename is required")


@pytest.mark.parametrize(
    "sent",
    [
        "virus.exe",
        "virus.jpg.exe",
        "virus.exe.",
        "virus.exe\0",
        "virus.jpg\0.exe",
        "virus.exe\u202egpj.exe",
        "virus.\uff4a\uff50\uff47",
        "jpg",
        ".jpg",
        "virus.exe/.jpg",
    ],
)
def test_no_spelling_of_a_name_gets_an_extension_past_the_rules(share_app, sent):
    app = share_app(attachment__extensions="jpg")
    app.upload(file_part(filename=sent), status=400)
    assert app.files() == {}


EXTENDED = {
    "alone": ("; filename*=UTF-8''na%C3%AFve.txt", "naïve.txt"),
    "beside a plain one": (
        "; filename=\"naive\"; filename*=utf-8''na%C3%AFve.txt",
        "naïve.txt",
    ),
    "before a plain one": ("; filename*=utf-8''na%C3%AFve.txt; filename=naive.txt", "naïve.txt"),
    "with a language": ("; filename*=UTF-8'fr'na%C3%AFve.txt", "naïve.txt"),
    "in latin-1": ("; filename*=ISO-8859-1''na%EFve.txt", "naïve.txt"),
    "with slashes": ("; filename*=UTF-8''..%2F..%2Fetc%2Fpasswd", "passwd"),
    "with NUL": ("; filename*=UTF-8''a%00b.txt", "ab.txt"),
}


@pytest.mark.parametrize("name", EXTENDED)
def test_an_extended_filename_is_read(app, name):
    parameters, filename = EXTENDED[name]
    assert app.upload(disposition(parameters), status=201).json["filename"] == filename


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("; filename*=UTF-8''%FF.txt", "filename* is not UTF-8"),
        ("; filename*=unicode_escape''%5Cud800.txt", "filename* should be in utf-8 or iso-8859-1"),
        ("; filename*=a.txt; filename=a.txt", "filename* should be in utf-8 or iso-8859-1"),
        ("; filename*=''a.txt", "filename* should be in utf-8 or iso-8859-1"),
        ("; filename*=UTF-8''", "Filename is required"),
        ("; filename*=UTF-8", "Filename is required"),
        ("; filename*=UTF-8'a.txt", "Filename is required"),
        ("; filename*=UTF-8''%ED%A0%80.txt", "filename* is not UTF-8"),
        ("; filename*0*=UTF-8''a; filename*1*=.txt", "Filename is required"),
        (f"; filename*{'9' * 5000}*=UTF-8''a", "Filename is required"),
    ],
)
def test_an_extended_filename_that_cannot_be_read_is_refused(app, parameters, message):
    refused(app.upload(disposition(parameters), status=400), 107, message)


WHOLE = {
    "without quotes": ("; filename=a.txt", "a.txt"),
    "a space without quotes": ("; filename=my file.txt", "my file.txt"),
    "not ASCII without quotes": ("; filename=résumé.txt", "résumé.txt"),
    "a comma without quotes": ("; filename=a,b.txt; size=3", "a,b.txt"),
    "parentheses without quotes": ("; filename=(a) [b].txt", "(a) [b].txt"),
    "an equals sign without quotes": ("; filename=a=b.txt", "a=b.txt"),
    "a path without quotes": (r"; filename=C:\Users\my file.txt", "my file.txt"),
    "single quotes": ("; filename='my file.txt'", "'my file.txt'"),
    "spaces around": ("; filename = my file.txt ; size=3", "my file.txt"),
    "empty parameters": (';; filename="a.txt"; ;', "a.txt"),
    "a tab before": (';\tfilename="a.txt"\t', "a.txt"),
    "capitals": ('; FileName="a.txt"', "a.txt"),
    "inside of another": ('; x="; filename=b.txt"; filename="a.txt"', "a.txt"),
    "at the end of another": ('; xfilename="b.txt"; filename=a.txt', "a.txt"),
    "extended with a space": ("; filename*=UTF-8''my file.txt", "my file.txt"),
    "extended with quotes": ("; filename*=\"UTF-8''my%20file.txt\"", "my file.txt"),
    "an encoded word in B": ('; filename="=?utf-8?B?csOpc3Vtw6kudHh0?="', "résumé.txt"),
    "an encoded word in Q": ('; filename="=?UTF-8?q?my_r=C3=A9sum=C3=A9.txt?="', "my résumé.txt"),
    "an encoded word without quotes": ("; filename==?utf-8?B?csOpc3Vtw6kudHh0?=", "résumé.txt"),
    "an encoded word in latin-1": ('; filename="=?iso-8859-1?Q?r=E9sum=E9.txt?="', "résumé.txt"),
    "an encoded word with a language": ('; filename="=?utf-8*fr?Q?=C3=A9.txt?="', "é.txt"),
    "two encoded words": (
        '; filename="=?utf-8?B?csOpc3Vt?= =?utf-8?B?w6kudHh0?="',
        "résumé.txt",
    ),
    "a character in two encoded words": (
        '; filename="=?utf-8?Q?=C3?= =?utf-8?Q?=A9?=.txt"',
        "é.txt",
    ),
    "an encoded word with a path": ('; filename="=?utf-8?B?Li4vLi4vYS50eHQ=?="', "a.txt"),
    "nearly an encoded word": ('; filename="=?utf-8?X?a?=.txt"', "=?utf-8?X?a?=.txt"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_filename_is_read_as_a_whole(app, name):
    parameters, filename = WHOLE[name]
    assert app.upload(disposition(parameters), status=201).json["filename"] == filename


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ('; filename="a.txt"x', "something after a closing quote"),
        ('; filename="a" b.txt"', "something after a closing quote"),
        ('; filename="a.txt', "a quote that is not closed"),
        ('; filename="a\\"', "Filename is required"),
        ('; filename=a.txt"', "a quote inside of a value without quotes"),
        ("; filename=a;b.txt", "something that is no parameter"),
        ("; filename=a;b.txt; size=3", "something that is no parameter"),
        ("; filename", "something that is no parameter"),
        ("; =a.txt", "something that is no parameter"),
        ('; filename="a.txt"; filename="b.txt"', "a parameter twice"),
        ('; filename="a.txt"; Filename=b.txt', "a parameter twice"),
        ("; filename*=UTF-8''a.txt; filename*=UTF-8''b.txt", "a parameter twice"),
        ("; name=data; filename=a.txt", "a parameter twice"),
        ("; filename*0=a; filename*1=.txt", "Filename is required"),
        ('; filename="=?utf-8?B?/w==?="', "an encoded word that cannot be read"),
        ('; filename="=?none?Q?a?="', "an encoded word that cannot be read"),
        ('; filename="=?\0?Q?a?="', "an encoded word that cannot be read"),
        ('; filename="=?hex?Q?61?="', "an encoded word that cannot be read"),
        (r'; filename="=?unicode_escape?Q?\ud800?="', "an encoded word that cannot be read"),
        ('; filename="=?utf-8?B?a?="', "an encoded word that cannot be read"),
    ],
)
def test_a_filename_that_could_be_cut_is_refused(app, parameters, message):
    refused(app.upload(disposition(parameters), status=400), 107, message)


def test_the_name_of_a_field_is_not_cut_either(app):
    sent = b"Content-Disposition: form-data; name=data of mine\r\n\r\n{}"
    refused(app.upload(file_part(), sent, status=400), 109, "'data of mine' not in")


def test_a_long_header_is_read_in_linear_time():
    for sent in ('; filename=a{}"'.format(" " * 20_000), "; filename=" + "=?utf-8?Q?" * 2000):
        begin = time.process_time()
        with contextlib.suppress(HTTPException):
            parse(f"form-data; name=a{sent}")
        assert time.process_time() - begin < 1


def test_a_field_with_an_extended_filename_is_a_file(app):
    data = b"Content-Disposition: form-data; name=data; filename*=UTF-8''data.json\r\n\r\n{}"
    refused(app.upload(data, file_part(), status=400), 109, "should be passed as form data")


def test_a_filename_that_is_not_utf8_is_refused(app):
    sent = b'Content-Disposition: form-data; name="attachment"; filename="\xe9.txt"\r\n\r\nx'
    refused(app.upload(sent, status=400), 107, "Part header failed to decode")


def whole_form():
    parts = [part("data", '{"title": "Spring"}'), file_part(CONTENT)]
    return multipart(*parts), {"title": "Spring"}, CONTENT


@pytest.mark.parametrize("length_is_known", [True, False])
def test_every_chunking_of_a_body_gives_the_same_form(length_is_known):
    body, data, content = whole_form()
    for size in range(1, len(body) + 1):
        form, file = read_form(body, [size], length=len(body) if length_is_known else None)
        assert (form.data, file.content) == (data, content)


def test_two_pieces_with_any_cut_between_them_give_the_same_form():
    body, data, content = whole_form()
    for cut in range(1, len(body)):
        form, file = read_form(body, [cut, len(body)])
        assert (form.data, file.content) == (data, content)


def test_content_that_looks_like_the_boundary_at_every_offset_is_content():
    boundary = "boundary"
    delimiter = f"\r\n--{boundary}".encode()
    alike = [delimiter[:end] for end in range(1, len(delimiter))]
    alike += [delimiter[2:], delimiter[:-1] + b"_", b"\r" + delimiter[:-1], b"\r\n\r\n--"]
    for look_alike, offset in itertools.product(alike, range(12)):
        content = b"x" * offset + look_alike + b"z" * (12 - offset)
        for ending in (content, b"x" * offset + look_alike):
            body = multipart(file_part(ending), boundary=boundary)
            for sizes in ([1], [7], [len(body)]):
                assert read_form(body, sizes, boundary)[1].content == ending


@pytest.mark.parametrize("boundary", ["x", "0", "'", "x" * 70, "a b", "'()+_,-./:=?"])
def test_a_boundary_of_any_length_and_character_is_found(app, boundary):
    body = multipart(file_part(CONTENT + b"\r\n--"), boundary=boundary)
    headers = {**ALICE, "Content-Type": f'multipart/form-data; boundary="{boundary}"'}
    app.post(ATTACHMENT, body, headers=headers, status=201)
    assert app.files() == {"story.txt": CONTENT + b"\r\n--"}


@pytest.mark.parametrize("epilogue", [b"", b"\r\n", b"x" * 600_000, multipart(file_part(b"y"))])
@pytest.mark.parametrize("preamble", [b"", b"\r\n", b"A form.\r\n", b"x" * 250_000 + b"\r\n"])
def test_what_is_before_and_after_a_form_is_ignored(preamble, epilogue):
    body = preamble + multipart(file_part(CONTENT)) + epilogue
    for length in (len(body), None):
        for sizes in ([len(body)], [5000]):
            assert read_form(body, sizes, length=length)[1].content == CONTENT


@pytest.mark.parametrize("sizes", [[1 << 20], [5000]])
def test_a_form_without_a_part_in_its_first_chunk_is_refused(sizes):
    body = b"x" * 262_144 + b"\r\n" + multipart(file_part(CONTENT))
    with pytest.raises(HTTPException) as refusal:
        read_form(body, sizes)
    assert (refusal.value.status_code, refusal.value.json["errno"]) == (413, 113)
    assert "no part begins in its first 262144 bytes" in refusal.value.json["message"]


@pytest.mark.parametrize("before", [b"x", b"xxxxxxxxxx", b"\r", b"\n", b"\r\nx", b"x" * 5000])
def test_a_boundary_inside_of_a_line_of_the_preamble_is_refused_in_any_pieces(before):
    body = before + b"--boundary\r\n" + multipart(file_part(CONTENT), boundary="boundary")
    for size in range(1, 40):
        with pytest.raises(HTTPException) as refusal:
            read_form(body, [size], "boundary")
        assert "in front of first boundary" in refusal.value.json["message"]


LENGTHS = {"exact": (0, 201), "a byte more": (1, 400), "a byte less": (-1, 400)}


@pytest.mark.parametrize("name", LENGTHS)
def test_a_body_is_as_long_as_its_content_length(app, name):
    more, status = LENGTHS[name]
    body = multipart(file_part(CONTENT))[:-2]
    response = app.upload_raw(io.BytesIO(body), len(body) + more, status=status)
    if status == 400:
        refused(response, 107, "Invalid multipart/form-data")


def test_what_follows_the_content_length_is_not_of_this_request(app):
    body = multipart(file_part(CONTENT))
    stream = io.BytesIO(body + b"GET / HTTP/1.1")
    app.upload_raw(stream, len(body), status=201)
    assert stream.read() == b"GET / HTTP/1.1"


BROKEN_FORMS = {
    "lines without CR": (multipart(file_part()).replace(b"\r\n", b"\n"), "Invalid line break"),
    "a header line without CR": (
        multipart(file_part().replace(b"\r\nContent-Type", b"\nContent-Type")),
        "Invalid line break",
    ),
    "a CR in a header line": (
        multipart(file_part(content_type="text/csv\rX-Evil: 1")),
        "Invalid line break in part header",
    ),
    "two dispositions": (
        multipart(file_part().replace(b"\r\n", b"\r\n" + file_part(b"")[:-2], 1)),
        "Multiple part Content-Disposition headers",
    ),
    "two types": (
        multipart(b"Content-Type: text/html\r\n" + file_part()),
        "Multiple part Content-Type headers",
    ),
    "no CR after a boundary": (
        multipart(file_part()).replace(BOUNDARY.encode() + b"\r\n", BOUNDARY.encode() + b"\n"),
        "Invalid line break after first boundary",
    ),
    "something after a boundary": (
        multipart(file_part()).replace(BOUNDARY.encode() + b"\r\n", BOUNDARY.encode() + b"xx\r\n"),
        "Unexpected byte after first boundary",
    ),
    "no end": (multipart(file_part())[:-4], "Unexpected end of multipart stream"),
    "a malformed header": (multipart(b"nonsense\r\n\r\nx"), "Malformed part header"),
    "another disposition": (
        multipart(file_part().replace(b"form-data", b"attachment")),
        "Wrong type",
    ),
    "the wrong length of a part": (
        multipart(b"Content-Length: 3\r\n" + file_part()),
        "Part Content-Length exceeded",
    ),
    "no length of a part": (
        multipart(b"Content-Length: x\r\n" + file_part()),
        "Invalid part Content-Length",
    ),
}


@pytest.mark.parametrize("name", BROKEN_FORMS)
def test_a_broken_form_is_refused_in_plain_words(app, name):
    body, message = BROKEN_FORMS[name]
    response = app.upload_raw(io.BytesIO(body), len(body), status=400)
    refused(response, 107, message)
    for word in ("segment", "parser", "int()"):
        assert word not in response.json["message"].lower()


LARGE_FORMS = {
    "a huge header": [b"X-Large: " + b"x" * 1_000_000 + b"\r\n" + file_part()],
    "a huge header in many lines": [b"X-A: b\r\n" + b" x\r\n" * 100_000 + file_part()],
    "many headers": [b"X-A: b\r\n" * 5000 + file_part()],
    "a huge name": [part("x" * 1_000_000, "y")],
    "thousands of parts": [part("data", "{}")] * 5000,
    "thousands of unknown parts": [part(f"field{i}", "") for i in range(5000)],
}


@pytest.mark.parametrize("name", LARGE_FORMS)
def test_a_form_with_too_much_around_the_file_is_refused(app, name):
    response = app.upload(*LARGE_FORMS[name], status=413)
    refused(response, 113, "body: the form is too large: Maximum part")


@pytest.mark.parametrize("name", ["y" * 20_000, "\0", "\u202e", "😀", "'", ""])
def test_the_name_of_an_unknown_field_is_shown_up_to_a_length(app, name):
    response = app.upload(file_part(), part(name, "x"), status=400)
    refused(response, 109, "and the file goes in 'attachment'")
    assert len(response.json["message"]) < 250


@pytest.mark.parametrize("encoding", ["7bit", "8bit", "Binary", " binary "])
def test_a_transfer_encoding_that_changes_nothing_is_ignored(app, encoding):
    header = f"Content-Transfer-Encoding: {encoding}\r\n".encode()
    app.upload(header + file_part(), status=201)


@pytest.mark.parametrize("encoding", ["base64", "quoted-printable", "x-own", "", "x" * 20_000])
@pytest.mark.parametrize("sent", [file_part(b"eA=="), part("data", "e30=")])
def test_a_transfer_encoding_is_refused_instead_of_stored(app, encoding, sent):
    header = f"Content-Transfer-Encoding: {encoding}\r\n".encode()
    response = app.upload(header + sent, status=400)
    refused(response, 107, "should be sent as it is, without the Content-Transfer-Encoding")
    assert len(response.json["message"]) < 250


def field_in(charset, text):
    return part("data", text.encode("cp1252"), content_type=f"text/plain; charset={charset}")


@pytest.mark.parametrize("charset", ["iso-8859-1", "ISO_8859-1", "latin1", "windows-1252"])
def test_a_field_is_read_in_the_charset_that_it_names(app, charset):
    app.upload(field_in(charset, '{"title": "né"}'), file_part(), status=201)
    assert app.record()["title"] == "né"


@pytest.mark.parametrize("charset", ["utf-8", "UTF8", '"utf-8"', "us-ascii"])
def test_a_field_in_utf8_may_say_so(app, charset):
    sent = part("data", '{"title": "né"}', content_type=f"application/json; charset={charset}")
    app.upload(sent, file_part(), status=201)
    assert app.record()["title"] == "né"


@pytest.mark.parametrize(
    "charset",
    ["utf-7", "utf-16", "unicode_escape", "rot13", "zlib", "idna", "x", "x" * 9999, '"\0"'],
)
def test_a_field_in_another_charset_is_refused(app, charset):
    response = app.upload(file_part(), field_in(charset, "{}"), status=400)
    refused(response, 107, "data should be in UTF-8, not in ")
    assert len(response.json["message"]) < 250


@pytest.mark.parametrize("charset", ["", "; charset=utf-8", "; charset=utf-8-sig"])
def test_a_field_may_begin_with_a_byte_order_mark(app, charset):
    type_ = f"application/json{charset}"
    data = part("data", '\ufeff{"title": "né"}', content_type=type_)
    permissions = part("permissions", '\ufeff{"read": ["system.Everyone"]}', content_type=type_)
    app.upload(data, permissions, file_part(), status=201)
    record = app.get(RECORD, headers=ALICE).json
    assert record["data"]["title"] == "né"
    assert record["permissions"]["read"] == ["system.Everyone"]


@pytest.mark.parametrize("coding", ["identity", "Identity", ""])
def test_a_content_encoding_that_changes_nothing_is_ignored(app, coding):
    header = f"Content-Encoding: {coding}\r\n".encode()
    headers = {**ALICE, "Content-Encoding": coding}
    app.upload(header + file_part(), headers=headers, status=201)


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "br", "deflate", "identity, gzip", "x" * 200])
def test_an_encoded_request_is_refused_with_the_reason(app, coding):
    headers = {**ALICE, "Content-Encoding": coding}
    response = app.upload(headers=headers, status=415)
    refused(response, 107, "The request should be sent as it is, without the Content-Encoding")
    assert response.headers["Accept-Encoding"] == "identity"
    assert len(response.json["message"]) < 250


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate"])
@pytest.mark.parametrize("sent", [file_part(), part("data", "{}")])
def test_an_encoded_part_is_refused_with_the_reason(app, coding, sent):
    header = f"Content-Encoding: {coding}\r\n".encode()
    response = app.upload(header + sent, status=415)
    refused(response, 107, f"should be sent as it is, without the Content-Encoding '{coding}'")


def padded(padding, content, preamble=b""):
    """Return a form with padding at the end of each line of a boundary."""
    body = multipart(part("data", '{"a": 1}'), file_part(content), boundary="boundary")
    for line in (b"--boundary\r\n", b"--boundary--\r\n"):
        body = body.replace(line, line[:-2] + padding + b"\r\n")
    return preamble + body


@pytest.mark.parametrize("padding", [b" ", b"\t", b" \t" * 50])
@pytest.mark.parametrize("preamble", [b"", b"\r\n", b"A form.\r\n"])
def test_white_space_after_a_boundary_is_ignored(padding, preamble):
    content = b"once \r\n--bound \r\n--boundar\r\n --boundary \r\n\r\n-"
    body = padded(padding, content, preamble)
    for length in (len(body), None):
        for size in (1, 7, len(body)):
            form, file = read_form(body, [size], "boundary", length)
            assert (form.data, file.content) == ({"a": 1}, content)


def test_white_space_after_a_boundary_is_ignored_wherever_the_body_is_cut(monkeypatch):
    monkeypatch.setattr("kinto_attachment.form.body.CHUNK_BYTES", 1000)
    for size in range(750, 1020):
        body = b"--boundary  \r\n" + part("data", '{"a": 1}')
        body += b"\r\n--boundary\r\n" + file_part(b"x" * size)
        body += b"\r\n--boundary\t \r\n" + part("permissions", "{}") + b"\r\n--boundary--\r\n"
        form, file = read_form(body, [1 << 20], "boundary", len(body))
        assert (len(file.content), form.data) == (size, {"a": 1})


def test_a_padded_form_that_is_cut_off_is_refused():
    body = padded(b" ", CONTENT)
    for end in range(len(body) - 5):
        for length in (len(body), None):
            with pytest.raises(HTTPException) as refusal:
                read_form(body[:end], [10], "boundary", length)
            assert refusal.value.status_code == 400


def test_a_part_for_the_charset_of_all_fields_is_an_unknown_field(app):
    refused(app.upload(part("_charset_", "utf-8"), status=400), 109, "'_charset_' not in")


MIMETYPES = {
    "with parameters": ("text/csv; charset=utf-8; header=present", "text/csv"),
    "in capitals": ("TEXT/CSV", "text/csv"),
    "without subtype": ("text", "text/plain"),
    "with an empty subtype": ("text/", "text/plain"),
    "with two slashes": ("text/csv/csv", "text/plain"),
    "with spaces": ("text / csv", "text/plain"),
    "with a comma": ("text/csv, text/html", "text/plain"),
    "10 kB long": ("text/" + "x" * 10_000, "text/plain"),
    "127 characters": ("text/" + "x" * 127, "text/" + "x" * 127),
    "128 characters": ("text/" + "x" * 128, "text/plain"),
    "with NUL": ("text/csv\0", "text/plain"),
    "with a percent-encoded line": ("text/csv%0D%0AX-Evil: 1", "text/plain"),
    "with another line": ("text/csv\r\nX-Evil: 1", "text/csv"),
    "continued": ("text/csv\r\n X-Evil: 1", "text/plain"),
    "not ASCII": ("text/csvé", "text/plain"),
    "a wildcard": ("*/*", "text/plain"),
    "a tag": ("text/<script>", "text/plain"),
}


@pytest.mark.parametrize("name", MIMETYPES)
def test_a_mimetype_is_a_plain_one_or_the_guess_from_the_name(app, name):
    sent, mimetype = MIMETYPES[name]
    assert (
        app.upload(file_part(CONTENT, "story.txt", sent), status=201).json["mimetype"] == mimetype
    )


def test_a_name_like_a_url_does_not_choose_its_own_mimetype(app):
    attachment = app.upload(file_part(filename="data:x,y.png", content_type=None)).json
    assert attachment["mimetype"] == "image/png"


def test_an_invalid_mimetype_reaches_neither_s3_nor_a_header(make_app, fake_bucket):
    app = make_app(
        **fake_bucket.settings(),
    )
    for sent, mimetype in MIMETYPES.values():
        location = app.upload(file_part(CONTENT, "story.txt", sent)).json["location"]
        stored = fake_bucket.client.head_object(
            Bucket=fake_bucket.name, Key=location.rsplit("/", 1)[1]
        )
        assert stored["ContentType"] == mimetype
        assert "x-evil" not in stored["ResponseMetadata"]["HTTPHeaders"]


@pytest.fixture(
    scope="module", params=["memory", pytest.param("postgresql", marks=pytest.mark.external)]
)
def backed_app(request, tmp_path_factory):
    settings = {}
    if request.param == "postgresql":
        settings = postgresql_backends(request.getfixturevalue("postgresql")())
    app = App(tmp_path_factory.mktemp("json") / "files", **settings)
    app.create_collection()
    return app


def nested(levels, opening='{"a": ', closing="}"):
    return opening * levels + "1" + closing * levels


REFUSED_FIELDS = {
    "1 MB of objects": (nested(140_000), "nested deeper than 100 levels"),
    "1 MB of lists": ('{"a": ' + nested(500_000, "[", "]") + "}", "nested deeper than 100 levels"),
    "a level too deep": (nested(101), "nested deeper than 100 levels"),
    "lists a level too deep": ('{"a": ' + nested(100, "[", "]") + "}", "nested deeper than 100"),
    "NaN": ('{"a": NaN}', "Invalid value"),
    "Infinity": ('{"a": -Infinity}', "Invalid value"),
    "a number too large": ('{"a": 1e400}', "Number too big"),
    "a number of 5000 digits": ('{"a": %s}' % ("9" * 5000), "Number too big"),
    "a lone surrogate": (r'{"a": "\ud800"}', "surrogate"),
    "a lone low surrogate": (r'{"a": "\udc00"}', "surrogate"),
    "a lone surrogate in a name": (r'{"\udfff": 1}', "surrogate"),
    "a surrogate in bytes": (b'{"a": "\xed\xa0\x80"}', "not UTF-8"),
    "NUL": (r'{"a": "x\u0000"}', "NUL"),
    "NUL in a name": (r'{"x\u0000": 1}', "NUL"),
    "NUL far inside": (r'{"a": [{"b": ["\u0000"]}]}', "NUL"),
    "two values": ("{}{}", "root"),
    "two byte order marks": ("\ufeff\ufeff{}", "Invalid value"),
    "a byte order mark inside": ('{"a": \ufeff1}', "Invalid value"),
    "nothing but a byte order mark": ("\ufeff", "document is empty"),
    "a string": ('"{}"', "should be an object"),
    "null": ("null", "should be an object"),
}


@pytest.mark.parametrize("field", ["data", "permissions"])
@pytest.mark.parametrize("name", REFUSED_FIELDS)
def test_data_that_cannot_be_stored_is_refused_on_every_backend(backed_app, field, name):
    text, message = REFUSED_FIELDS[name]
    backed_app.upload(file_part(b"what was there before"))
    before = backed_app.state()
    response = backed_app.upload(file_part(), part(field, text), status=400)
    refused(response, 109, f"body: {field} is not valid JSON (")
    assert message in response.json["message"]
    assert backed_app.state() == before


TAKEN_DATA = {
    "100 levels": (nested(100), json.loads(nested(100))),
    "duplicate names": ('{"a": 1, "a": 2}', {"a": 2}),
    "64 bits": (
        '{"a": 18446744073709551615, "b": -9223372036854775808}',
        {"a": 18446744073709551615, "b": -9223372036854775808},
    ),
    "more than 64 bits": ('{"a": 18446744073709551616}', {"a": pytest.approx(2**64)}),
    "a surrogate pair": (r'{"a": "\ud83d\ude00"}', {"a": "\U0001f600"}),
    "an empty name": ('{"": 1}', {"": 1}),
    "control characters": (r'{"a": "\u0001\uffff"}', {"a": "\x01\uffff"}),
    "a name of 100 kB": ('{"%s": 1}' % ("k" * 100_000), {"k" * 100_000: 1}),
    "its own id": ('{"id": "first"}', {}),
    "the server's attributes": (
        '{"last_modified": "x", "schema": {}, "attachment": {"location": "other"}}',
        {},
    ),
    "a past last_modified": ('{"last_modified": 1}', {}),
    "columns of the database": (
        '{"parent_id": "x", "resource_name": "y", "record_uri": "z"}',
        {"parent_id": "x", "resource_name": "y", "record_uri": "z"},
    ),
}


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("name", TAKEN_DATA)
def test_odd_data_is_stored_as_kinto_does_that(backed_app, exists, name):
    sent, expected = TAKEN_DATA[name]
    backed_app.delete(RECORD, headers=ALICE, status="*")
    if exists:
        backed_app.put_json(RECORD, {}, headers=ALICE)
    attachment = backed_app.upload(file_part(), part("data", sent)).json
    record = backed_app.record()
    assert record.pop("id") == "first"
    assert record.pop("last_modified") > 1
    assert record.pop("attachment") == attachment
    assert record == expected
    assert backed_app.files() == {attachment["location"]: CONTENT}


def test_a_url_that_no_database_can_search_for_is_an_ordinary_attribute(backed_app):
    backed_app.delete(RECORD, headers=ALICE, status="*")
    body = {"data": {"attachment": {"location": "https://cdn.test/a%00.txt"}}}
    for status in (201, 200):
        answer = backed_app.put_json(RECORD, body, headers=ALICE, status=status).json
        assert answer["data"]["attachment"] == body["data"]["attachment"]


def test_data_that_says_deleted_deletes_nothing(backed_app):
    attachment = backed_app.upload(file_part(), part("data", '{"deleted": true}')).json
    assert backed_app.record()["attachment"] == attachment
    assert backed_app.files() == {attachment["location"]: CONTENT}
    backed_app.delete(RECORD, headers=ALICE, status=200)
    assert backed_app.files() == {}


@pytest.mark.parametrize("id_", ['"other"', "null", "1", "{}", '"../x"', '"FIRST"'])
def test_data_for_another_id_is_refused_on_every_backend(backed_app, id_):
    backed_app.upload(file_part(b"what was there before"))
    before = backed_app.state()
    response = backed_app.upload(file_part(), part("data", f'{{"id": {id_}}}'), status=400)
    refused(response, 107, "Object id does not match")
    assert backed_app.state() == before


def at_each_place(id_):
    """Return the paths of attachments with this id, of the record or of what it is in."""
    for bucket, collection, record in (
        (id_, "photos", "first"),
        ("blog", id_, "first"),
        ("blog", "photos", id_),
        ("default", id_, "first"),
        ("default", "photos", id_),
    ):
        yield f"/buckets/{bucket}/collections/{collection}/records/{record}/attachment"


def raw_request(app, method, path, query=""):
    """Return the response to a request whose path webtest does not accept."""
    sent = io.BytesIO(multipart(file_part()) if method == "POST" else b"")
    request = webtest.TestRequest.blank("/", method=method, headers=ALICE)
    request.content_type = f"multipart/form-data; boundary={BOUNDARY}"
    request.environ |= {"PATH_INFO": f"/v1{path}", "QUERY_STRING": query, "wsgi.input": sent}
    request.content_length = len(sent.getvalue())
    return webtest.TestApp.do_request(app, request, status="*")


@pytest.mark.parametrize("method", ["POST", "DELETE"])
@pytest.mark.parametrize("id_", ["\0", "a\0b", "first\0"])
def test_an_id_with_a_null_character_is_refused_on_every_backend(backed_app, method, id_):
    backed_app.upload()
    before = backed_app.state()
    for path in at_each_place(id_):
        refused(raw_request(backed_app, method, path), 107, "contains a NUL character")
    assert backed_app.state() == before


@pytest.mark.parametrize("method", ["POST", "DELETE"])
@pytest.mark.parametrize(
    "id_", ["\xff", "\xc3(", "\xed\xa0\x80", "\\u0000", "\xf0\x9f\x98\x80", ".."]
)
def test_an_odd_id_is_refused_on_every_backend(backed_app, method, id_):
    backed_app.upload()
    before = backed_app.state()
    for path in at_each_place(id_):
        response = raw_request(backed_app, method, path)
        assert response.status_code == response.json["code"]
        assert response.status_code in (400, 403, 404)
    assert backed_app.state() == before


@pytest.mark.parametrize("query", ["a=%00", "_since=%00", "_fields=%00", "%00=1", "_limit=%00"])
def test_a_null_character_in_the_query_is_ignored_on_every_backend(backed_app, query):
    backed_app.delete(RECORD, headers=ALICE, status="*")
    for method, status in (("POST", 201), ("DELETE", 204)):
        assert raw_request(backed_app, method, ATTACHMENT, query).status_code == status


class AnyId:
    """A generator that accepts all ids (``kinto.record_id_generator``)."""

    def match(self, object_id):
        return True


@pytest.mark.parametrize("id_", ["a%0A", "%C3%A9", "a%20b", "a%25b", "a:b", "~a"])
def test_any_id_that_kinto_accepts_can_have_a_file(share_app, id_):
    app = share_app(record_id_generator="tests.http.test_odd_input.AnyId")
    record = f"{RECORD.rpartition('/')[0]}/{id_}"
    for content in (b"first", b"second"):
        app.upload(file_part(content), url=f"{record}/attachment")
        assert list(app.files().values()) == [content]
    attachment = app.get(record, headers=ALICE).json["data"]["attachment"]
    app.put_json(record, {"data": {"a": 1, "attachment": attachment}}, headers=ALICE, status=200)
    assert list(app.files().values()) == [b"second"]
    app.put_json(record, {"data": {"a": 1}}, headers=ALICE, status=200)
    assert (app.files(), app.links()) == ({}, [])
    app.upload(url=f"{record}/attachment", status=200)
    app.delete(f"{record}/attachment", headers=ALICE, status=204)
    assert (app.files(), app.links()) == ({}, [])


def test_no_form_is_read_with_a_surrogate_in_a_name():
    with pytest.raises(HTTPException):
        read_form(multipart(file_part(filename="x").replace(b'"x"', b'"\xed\xa0\x80"')))
