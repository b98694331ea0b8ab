"""The uploader, which makes the records of a collection match local files."""

import argparse
import contextlib
import itertools
import mimetypes
import os
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from kinto_attachment.scripts.collection import Collection
from kinto_attachment.scripts.compression import GZIP_MIMETYPE, compress
from kinto_attachment.scripts.content import (
    DESCRIPTION_FIELDS,
    content_of,
    has_content,
    open_regular,
)
from kinto_attachment.scripts.errors import Failure
from kinto_attachment.scripts.form import Form
from kinto_attachment.scripts.names import last_part, needs_path, record_id, sent_filename
from kinto_attachment.scripts.report import Report
from kinto_attachment.scripts.responses import json_object
from kinto_attachment.scripts.resumable import ResumableUpload
from kinto_attachment.scripts.selection import LocalFile, Selection


COMPRESSED = {
    "gzip": "application/gzip",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
    "compress": "application/x-compress",
    "br": "application/x-brotli",
}
"""The mimetypes of the encodings of :func:`mimetypes.guess_type`."""

MIB = 1024 * 1024

BATCH = 50
"""How many records are requested by their ids: that makes a URL of 2 kB."""

PLANNED = {"uploaded": "would upload", "deleted": "would delete"}

Record = dict[str, Any]


class Uploader:
    """Uploads files, and deletes the records of files that are gone.

    :param args: the options of the script.
    """

    def __init__(self, args: argparse.Namespace, collection: Collection, report: Report):
        self._args = args
        self._collection = collection
        self._http = collection.http
        self._report = report

    def upload(self, files: Iterable[LocalFile]) -> bool:
        """Return whether the server has all files, of which the changed ones are sent."""
        all_sent = True
        for (file, _), done in self._http.in_parallel(self._upload, self._with_records(files)):
            try:
                self._done(done.result(), file.name, file.record_id, size=file.size)
            except (Failure, OSError) as error:
                self._report.failed(file.name, error)
                all_sent = False
        return all_sent

    def delete_all_but(self, kept: set[str], selection: Selection) -> None:
        """Delete the records of files, but for those with these ids.

        Records that this script cannot have made are kept, and so are those of files that the
        selection skips.
        """
        gone = [
            (record, name)
            for _, page in self._collection.pages(DESCRIPTION_FIELDS)
            for record in page
            if record["id"] not in kept
            and (name := _name_of(record)) is not None
            and not selection.skips(name)
        ]
        for (record, name), done in self._http.in_parallel(self._delete, gone):
            try:
                done.result()
                self._done("deleted", name, record["id"])
            except Failure as failure:
                self._report.failed(name, failure)

    def _with_records(
        self, files: Iterable[LocalFile]
    ) -> Iterator[tuple[LocalFile, Record | None]]:
        """Return the files with their records, or with ``None`` if there is none yet."""
        files = iter(files)
        while batch := list(itertools.islice(files, BATCH)):
            records = self._records({file.record_id for file in batch})
            yield from ((file, records.get(file.record_id)) for file in batch)

    def _records(self, ids: set[str]) -> dict[str, Record]:
        pages = self._collection.pages(DESCRIPTION_FIELDS, in_id=",".join(sorted(ids)))
        try:
            return {record["id"]: record for _, page in pages for record in page}
        except Failure as failure:
            # For a missing bucket, Kinto sends 403 to users who may create it.
            if self._args.dry_run and failure.status in (403, 404):
                return {}
            raise

    def _upload(self, file_and_record: tuple[LocalFile, Record | None]) -> str:
        """Return ``uploaded``, or ``unchanged`` if the server has the file already.

        :raises Failure: it could not be sent.
        :raises OSError: it could not be read.
        """
        file, record = file_and_record
        if not self._args.force and record is not None and _is_same(file, record):
            self._report.expect(-file.size)
            return "unchanged"
        if not self._args.dry_run:
            with open_regular(file.path) as source:
                self._send(file, source, record or {})
        return "uploaded"

    def _send(self, file: LocalFile, source: BinaryIO, record: Record) -> None:
        filename, mimetype = sent_filename(file.name), guess_mimetype(last_part(file.name))
        attributes: Record = {"path": file.name} if needs_path(file.name) else {}
        with contextlib.ExitStack() as stack:
            if self._args.gzip:
                compressed = stack.enter_context(tempfile.TemporaryFile())
                original = compress(source, compressed, filename, self._http.check)
                attributes["original"] = {**vars(original), "mimetype": mimetype}
                self._report.expect(compressed.tell() - file.size)
                source, filename, mimetype = compressed, f"{filename}.gz", GZIP_MIMETYPE
            elif record.get("original"):
                attributes["original"] = None
            path = f"{self._collection.record_path(file.record_id)}/attachment"
            params = {"randomize": "false"} if self._args.keep_filenames else None
            content = (source, filename, mimetype, attributes, self._progress)
            if not (
                source.seek(0, os.SEEK_END) > self._args.resume_above * MIB
                and self._collection.takes_resumable_uploads
                and ResumableUpload(self._collection, path, *content).send(params)
            ):
                self._post(path, Form(*content), params)

    def _post(self, path: str, form: Form, params: dict[str, str] | None) -> None:
        headers = {"Content-Type": form.content_type}
        with self._collection.request(
            "POST", path, (200, 201), data=form, headers=headers, params=params
        ) as response:
            attachment = json_object(response)
        received = content_of({"attachment": attachment})
        if received.hash != form.hash:
            raise Failure(f"the server stored something else, with the hash {received.hash}")

    def _progress(self, size: int) -> None:
        self._http.check()
        self._report.advance(size)

    def _delete(self, record_and_name: tuple[Record, str]) -> None:
        record, _ = record_and_name
        if not self._args.dry_run:
            path = self._collection.record_path(record["id"])
            # A record that has changed meanwhile is still wanted.
            headers = {"If-Match": f'"{record["last_modified"]}"'}
            self._collection.request("DELETE", path, (200, 404), headers=headers).close()

    def _done(self, action: str, name: str, record_id: str, **details: Any) -> None:
        if self._args.dry_run:
            action = PLANNED.get(action, action)
        self._report.done(action, name, record=record_id, **details)


def _is_same(file: LocalFile, record: Record) -> bool:
    if needs_path(file.name) and record.get("path") != file.name:
        return False
    try:
        return has_content(file.path, content_of(record))
    except Failure:
        return False


def _name_of(record: Record) -> str | None:
    """Return the name of the file that this script made a record for, or ``None``."""
    with contextlib.suppress(Failure):
        content = content_of(record)
        for name in (record.get("path"), content.filename):
            if isinstance(name, str) and record["id"] == record_id(name):
                return name
    return None


def guess_mimetype(filename: str) -> str | None:
    """Return the mimetype of a filename, or ``None`` to leave it to the server."""
    mimetype, encoding = mimetypes.guess_type(filename)
    return mimetype if encoding is None else COMPRESSED.get(encoding)
