"""Upload files as the attachments of records."""

import argparse
import contextlib
import gzip
import hashlib
import itertools
import json
import mimetypes
import os
import tempfile
import uuid
from collections.abc import Iterable
from typing import Any, BinaryIO

from urllib3.fields import RequestField

from kinto_attachment.scripts.common import (
    CHUNK_BYTES,
    DESCRIPTION_FIELDS,
    Collection,
    Content,
    Failure,
    Report,
    as_failure,
    content_of,
    holds,
    in_parallel,
    json_object,
    make_parser,
    open_regular,
    parse,
    run,
)
from kinto_attachment.scripts.names import last_part, needs_path, record_id, sent_filename
from kinto_attachment.scripts.selection import LocalFile, Selection, pattern, select


GZIP_LEVEL = 6
GZIP_MIMETYPE = "application/x-gzip"
COMPRESSED = {
    "gzip": "application/gzip",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
    "compress": "application/x-compress",
    "br": "application/x-brotli",
}
"""The mimetypes of what :func:`mimetypes.guess_type` calls an encoding."""

RECORDS_AT_ONCE = 50
"""How many records are asked for by their ids: that makes a URL of 2 kB."""


def main(argv: list[str] | None = None) -> int:
    """Upload what the command line asks for, and return the exit code."""
    parser = _make_parser()
    args = parse(parser, argv)
    for path in args.files:
        if os.path.isdir(path) and not args.recursive:
            parser.error(f"{path} is a folder (see --recursive)")
    return run(lambda *shared: _upload_all(parser, *shared), args)


def _make_parser():
    parser = make_parser(
        "Upload files as the attachments of records. A file whose content the record has "
        "already is not sent.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="File, or folder, to upload.")
    parser.add_argument(
        "-r", "--recursive", action="store_true", help="Upload the files in folders, too."
    )
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        type=pattern,
        metavar="PATTERN",
        help="Leave out files and folders whose name, or path in the folder where the pattern has "
        "slashes, matches (like `*.tmp`). Can be repeated.",
    )
    parser.add_argument(
        "--force", action="store_true", help="Send all files, those that did not change as well."
    )
    parser.add_argument(
        "--gzip", action="store_true", help="Compress files, and describe them in `original`."
    )
    parser.add_argument(
        "--keep-filenames",
        action="store_true",
        help="Ask the server to store files under their own names, where it allows that.",
    )
    parser.add_argument(
        "--delete",
        action="store_true",
        help="Delete the records of uploaded files that are not among these files any more.",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="Print what would be done, and do nothing."
    )
    return parser


def _upload_all(
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    collection: Collection,
    report: Report,
) -> None:
    selection = select(args.files, args.exclude, report)
    files = selection.files
    _refuse_equal_names(parser, files)
    report.expect(sum(file.size for file in files))
    if not args.dry_run:
        collection.create_if_missing()
    uploader = Uploader(args, collection, report)
    all_sent = uploader.upload(files)
    if args.delete:
        reason = _reason_to_keep(files, selection.complete, all_sent)
        if reason:
            report.warn("--delete", f"nothing is deleted, since {reason}")
        else:
            uploader.delete_all_but({file.record_id for file in files}, selection)


def _reason_to_keep(files, complete, all_sent):
    """Return why no record should be deleted, or ``None``: what is not here may not be gone."""
    if not complete:
        return "not all files could be found"
    if not files:
        return "there are no files"
    return None if all_sent else "not all files could be sent"


def _refuse_equal_names(parser, files):
    paths: dict[str, str] = {}
    for file in files:
        if file.name in paths:
            parser.error(
                f"{paths[file.name]} and {file.path} would both be the record of {file.name!r}"
            )
        paths[file.name] = file.path


class Uploader:
    """Brings the records of a collection into line with local files."""

    def __init__(self, args: argparse.Namespace, collection: Collection, report: Report):
        self._args = args
        self._collection = collection
        self._report = report

    def upload(self, files: Iterable[LocalFile]) -> bool:
        """Send the files that the server does not have as they are. Return whether it has all."""
        jobs = self._args.jobs
        all_sent = True
        for (file, _), action, failure in in_parallel(
            jobs, self._collection.http, self._upload_one, self._with_records(files)
        ):
            if failure is not None:
                self._report.failed(file.name, failure)
                all_sent = False
            else:
                self._tell(action, file.name, file.record_id, size=file.size)
        return all_sent

    def delete_all_but(self, kept: set[str], selection: Selection) -> None:
        """Delete the records of files that are not among those with these ids.

        Records that this script cannot have made stay.

        :param selection: knows which files were not looked for. Their records stay.
        """
        gone = [
            record
            for _, page in self._collection.pages(DESCRIPTION_FIELDS)
            for record in page
            if record["id"] not in kept and _is_among_those_looked_for(record, selection)
        ]
        for record, _, failure in in_parallel(
            self._args.jobs, self._collection.http, self._delete_one, gone
        ):
            if failure is not None:
                self._report.failed(_name_of(record), failure)
            else:
                self._tell("deleted", _name_of(record), record["id"])

    def _with_records(self, files):
        """Yield the files with their records, or with ``None`` where there is none yet."""
        files = iter(files)
        while some := list(itertools.islice(files, RECORDS_AT_ONCE)):
            records = self._records({file.record_id for file in some})
            yield from ((file, records.get(file.record_id)) for file in some)

    def _records(self, ids):
        pages = self._collection.pages(DESCRIPTION_FIELDS, in_id=",".join(sorted(ids)))
        try:
            return {record["id"]: record for _, page in pages for record in page}
        except Failure as failure:
            # To who may create buckets, Kinto answers 403 where there is none of the name.
            if self._args.dry_run and failure.status in (403, 404):
                return {}
            raise

    def _upload_one(self, file_and_record):
        """Return what was done to a file.

        :raises Failure: it could not be sent.
        """
        file, record = file_and_record
        try:
            if not self._args.force and record is not None and _is_same(file, record):
                self._report.expect(-file.size)
                return "unchanged"
            if not self._args.dry_run:
                with open_regular(file.path) as source:
                    self._send(file, source, record or {})
        except OSError as error:
            raise as_failure(error) from error
        return "uploaded"

    def _send(self, file, source, record):
        with contextlib.ExitStack() as stack:
            attributes: dict[str, Any] = {}
            filename, mimetype = sent_filename(file.name), guess_mimetype(last_part(file.name))
            if needs_path(file.name):
                attributes["path"] = file.name
            if self._args.gzip:
                compressed = stack.enter_context(tempfile.TemporaryFile())
                original = compress(source, compressed, filename, self._collection.http.check)
                attributes["original"] = {**vars(original), "mimetype": mimetype}
                self._report.expect(compressed.tell() - file.size)
                source, filename, mimetype = compressed, f"{filename}.gz", GZIP_MIMETYPE
            elif record.get("original"):
                attributes["original"] = None
            self._post(file.record_id, Form(source, filename, mimetype, attributes, self._progress))

    def _post(self, record_id, form):
        path = f"{self._collection.record_path(record_id)}/attachment"
        params = {"randomize": "false"} if self._args.keep_filenames else None
        headers = {"Content-Type": form.content_type}
        with self._collection.request(
            "POST", path, (200, 201), data=form, headers=headers, params=params
        ) as response:
            attachment = json_object(response)
        received = content_of({"attachment": attachment})
        if received.hash != form.hash:
            raise Failure(f"the server has something else, with the hash {received.hash}")

    def _progress(self, size):
        self._collection.http.check()
        self._report.advance(size)

    def _delete_one(self, record):
        if not self._args.dry_run:
            path = self._collection.record_path(record["id"])
            # Whoever has changed it meanwhile wants to keep it.
            headers = {"If-Match": f'"{record["last_modified"]}"'}
            self._collection.request("DELETE", path, (200, 404), headers=headers).close()

    def _tell(self, action, name, record_id, **details):
        if self._args.dry_run and action != "unchanged":
            action = {"uploaded": "would upload", "deleted": "would delete"}[action]
        self._report.done(action, name, record=record_id, **details)


def _is_same(file, record):
    if needs_path(file.name) and record.get("path") != file.name:
        return False
    try:
        return holds(file.path, content_of(record))
    except Failure:
        return False


def _is_among_those_looked_for(record, selection):
    name = _name_of(record)
    return name is not None and not selection.leaves_out(name)


def _name_of(record):
    """Return the name of the file that this script made a record for, or ``None``."""
    with contextlib.suppress(Failure):
        content = content_of(record)
        for name in (record.get("path"), content.filename):
            if isinstance(name, str) and record["id"] == record_id(name):
                return name
    return None


def guess_mimetype(filename: str) -> str | None:
    """Return the mimetype that goes with a filename, or ``None`` to leave it to the server."""
    mimetype, encoding = mimetypes.guess_type(filename)
    return mimetype if encoding is None else COMPRESSED.get(encoding)


def compress(source: BinaryIO, target: BinaryIO, filename: str, check: Any) -> Content:
    """Compress a file into another one, equal bytes to equal bytes, and return what it was.

    :param check: called all along, may raise.
    :raises Failure: there is more of it than at the beginning.
    """
    digest = hashlib.sha256()
    size = 0
    expected = source.seek(0, os.SEEK_END)
    source.seek(0)
    with gzip.GzipFile("", "wb", GZIP_LEVEL, target, mtime=0) as compressor:
        for chunk in iter(lambda: source.read(CHUNK_BYTES), b""):
            check()
            digest.update(chunk)
            size += len(chunk)
            if size > expected:
                raise Failure("was changed while it was sent")
            compressor.write(chunk)
    return Content(filename, digest.hexdigest(), size)


class Form:
    """A ``multipart/form-data`` body with a file that is read while the body is sent.

    It can be iterated over again, for another try. ``len()`` gives its bytes.

    :ivar hash: SHA-256 of the file as it was sent last, hexadecimal.
    :ivar content_type: the header for it.
    """

    def __init__(self, source, filename, mimetype, attributes, progress):
        boundary = uuid.uuid4().hex
        self.content_type = f"multipart/form-data; boundary={boundary}"
        self.hash = ""
        self._source = source
        self._size = source.seek(0, os.SEEK_END)
        self._progress = progress
        self._sent = 0
        delimiter = f"--{boundary}".encode()
        self._head = b""
        if attributes:
            data = json.dumps(attributes).encode()
            self._head = delimiter + b"\r\n" + _part_head("data") + data + b"\r\n"
        self._head += delimiter + b"\r\n" + _part_head("attachment", filename, mimetype)
        self._tail = b"\r\n" + delimiter + b"--\r\n"

    def __len__(self):
        return len(self._head) + self._size + len(self._tail)

    def __iter__(self):
        self._progress(-self._sent)
        self._sent = 0
        self._source.seek(0)
        digest = hashlib.sha256()
        yield self._head
        while chunk := self._read():
            digest.update(chunk)
            self._sent += len(chunk)
            yield chunk
            self._progress(len(chunk))
        self.hash = digest.hexdigest()
        yield self._tail

    def _read(self):
        try:
            chunk = self._source.read(CHUNK_BYTES)
        except OSError as error:
            # Not as it is: that would pass for one of the connection.
            raise as_failure(error) from error
        # Before the last boundary: without it, the server keeps nothing.
        left = self._size - self._sent
        if len(chunk) > left or (left and not chunk):
            raise Failure("was changed while it was sent")
        return chunk


def _part_head(name, filename=None, content_type=None):
    part = RequestField(name, b"", filename=filename)
    part.make_multipart(content_type=content_type)
    return part.render_headers().encode()
