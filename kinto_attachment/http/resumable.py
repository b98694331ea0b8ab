"""Resumable uploads: the views of the protocol tus 1.0.0."""

import contextlib
import dataclasses
import re
from typing import Any

from kinto.core import Service
from kinto.core.authorization import DYNAMIC
from pyramid.security import NO_PERMISSION_REQUIRED

from kinto_attachment import errors
from kinto_attachment.form import digests
from kinto_attachment.form.fields import FIELDS, JsonField
from kinto_attachment.form.mimetypes import mimetype_of
from kinto_attachment.form.parts import last_component
from kinto_attachment.http import default_bucket, tus
from kinto_attachment.http.attachment import (
    copy_change_headers,
    location_of,
    storage_errors_as_503,
)
from kinto_attachment.http.chunk import Chunk, check_type, refuse_too_long
from kinto_attachment.http.record import Record, UploadRouteFactory
from kinto_attachment.http.schemas import APPEND, BEGIN, TERMINATE
from kinto_attachment.http.transactions import Transactions, retried
from kinto_attachment.kinto_internals import is_in_batch
from kinto_attachment.metadata import attachment_of, refers_to
from kinto_attachment.resumable.completion import Completion
from kinto_attachment.resumable.receiving import Reception
from kinto_attachment.resumable.upload import DONE, RECEIVING, Upload, new_id
from kinto_attachment.resumable.uploads import Uploads
from kinto_attachment.storage.contract import PartialFile, Superseded
from kinto_attachment.storage.names import is_private, upload_key


PRECONDITIONS = ("If-Match", "If-None-Match")
REPRESENTATION = re.compile(r"(^|[,;])\s*return=representation\s*($|[,;])", re.IGNORECASE)

PATH = "/buckets/{bucket_id}/collections/{collection_id}/records/{id}/attachment/uploads"
COMMON = {
    "description": "Uploads that can be resumed (tus 1.0.0)",
    "factory": retried(UploadRouteFactory),
}

uploads = Service(name="attachment-uploads", path=PATH, **COMMON)
upload = Service(name="attachment-upload", path=f"{PATH}/{{upload_id}}", **COMMON)


@uploads.options(permission=NO_PERMISSION_REQUIRED)
@upload.options(permission=NO_PERMISSION_REQUIRED)
def describe_server(request: Any) -> Any:
    """Return what this server can do, also to a browser that asks before another request."""
    headers = request.response.headers
    headers.update(tus.options(_settings(request).max_size_bytes))
    if "Access-Control-Request-Method" in request.headers:
        asked = request.headers.get("Access-Control-Request-Headers", "")
        headers["Access-Control-Allow-Methods"] = "POST, HEAD, PATCH, DELETE, OPTIONS"
        headers["Access-Control-Allow-Headers"] = asked
        headers["Access-Control-Max-Age"] = str(Service.cors_max_age or 0)
    return _answer(request, 204)


@uploads.post(permission=DYNAMIC, operation_id="begin_upload", **BEGIN)
def begin_upload(request: Any) -> Any:
    """Begin an upload, with its first bytes if there is a body."""
    record = Record(request)
    record.check_preconditions()
    has_body = bool(request.content_length) or "Transfer-Encoding" in request.headers
    if has_body:
        check_type(request)
    begun = _new_upload(request, record)
    transactions = Transactions(request)
    with storage_errors_as_503():
        if has_body or begun.length == 0:
            return _begin_with_body(request, record, begun, transactions)
        begun = transactions.run(lambda: _uploads(request).add(begun))
    return _answer(request, 201, begun)


# Kinto's description of the server leaves out HEAD.
@upload.decorator("HEAD", permission=DYNAMIC)
def inspect_upload(request: Any) -> Any:
    """Return where to continue an upload. A request that still sends bytes for it is ended."""
    record = Record(request)
    with storage_errors_as_503():
        found, offset = Transactions(request).run(lambda: _inspect(request, record))
    headers = request.response.headers
    headers["Cache-Control"] = "no-store"
    if found.length is None:
        headers["Upload-Defer-Length"] = "1"
    else:
        headers["Upload-Length"] = str(found.length)
    if found.metadata:
        headers["Upload-Metadata"] = found.metadata
    return _answer(request, 200, found, offset)


@upload.patch(permission=DYNAMIC, operation_id="append_to_upload", **APPEND)
def append_to_upload(request: Any) -> Any:
    """Append bytes. With the last of them, the file is attached to the record."""
    check_type(request)
    record = Record(request)
    chunk = Chunk(request, tus.required_number(request, "Upload-Offset"))
    transactions = Transactions(request)
    with storage_errors_as_503():
        found, file, known = transactions.run(lambda: _take_over(request, record, chunk))
        if file is None:
            return _answer(request, 204, found, found.length)
        with contextlib.closing(file):
            return _receive(request, record, found, file, chunk, known, transactions)


@upload.delete(permission=DYNAMIC, operation_id="terminate_upload", **TERMINATE)
def terminate_upload(request: Any) -> Any:
    """Give up an upload. If it is done, its record keeps the file."""
    record = Record(request)

    def terminate() -> None:
        found = _found(request, record)
        if found.is_being_completed:
            raise errors.being_completed()
        _uploads(request).discard([found])

    Transactions(request).run(terminate)
    return _answer(request, 204)


def _new_upload(request: Any, record: Record) -> Upload:
    """Return the upload that a request begins.

    :raises HTTPException: it is refused, as far as that can be known without the bytes.
    """
    if is_in_batch(request):
        raise errors.in_batch()
    own = _settings(request)
    if not own.resumable:
        raise errors.not_resumable()
    length = tus.new_length(request)
    refuse_too_long(length or 0, own.max_size_bytes)
    header = request.headers.get("Upload-Metadata", "")
    sent = tus.metadata(header)
    filename = last_component(sent.get("filename", b"").decode(errors="replace"))
    if not filename:
        raise errors.filename_required()
    mimetype = mimetype_of(filename, own.mimetypes, sent.get("filetype", b"").decode("latin-1"))
    max_bytes = request.registry.attachments.settings.max_field_size_bytes
    fields = {name: JsonField(name, None, max_bytes) for name in FIELDS}
    for name in sent.keys() & fields.keys():
        fields[name].write(sent[name])
        fields[name].end()
    record.check_permissions_field(fields["permissions"].value)
    repr_digest = request.headers.get(digests.REPR_DIGEST)
    digests.parse("upload", {digests.REPR_DIGEST: repr_digest})
    wanted_key = upload_key(own, record.bucket_id, record.collection_id, record.id, filename)
    id_ = new_id()
    # What is compressed at the end gets another key until then.
    is_direct = own.keys_are_unique and not own.gzipped
    begun = _uploads(request).files.begin_partial(wanted_key, mimetype, is_direct)
    return Upload(
        id=id_,
        record_uri=record.uri,
        user=_user(request),
        filename=filename,
        mimetype=mimetype,
        wanted_key=wanted_key,
        is_unique=own.keys_are_unique,
        length=length,
        metadata=header,
        data=fields["data"].value,
        permissions=fields["permissions"].value,
        preconditions={k: request.headers[k] for k in PRECONDITIONS if k in request.headers},
        repr_digest=repr_digest,
        parts={id_: begun},
    )


def _begin_with_body(
    request: Any, record: Record, begun: Upload, transactions: Transactions
) -> Any:
    chunk = Chunk(request, 0)
    chunk.check(begun, _settings(request).max_size_bytes)
    # On its own, so that whatever there is of its file belongs to an upload that is known.
    added = transactions.run(lambda: _uploads(request).add(begun))
    try:
        taken, file = transactions.run(
            lambda: _uploads(request).take_over(added, 0, verified=chunk.verified)
        )
        with contextlib.closing(file):
            return _receive(request, record, taken, file, chunk, 0, transactions)
    except BaseException:
        # The client has not learned its URL.
        _completion(request, transactions).give_up(added)
        raise


def _inspect(request: Any, record: Record) -> tuple[Upload, int]:
    found, size = _found(request, record), 0
    if found.is_being_completed:
        raise errors.being_completed()
    if found.phase == RECEIVING:
        # Whoever only looks does not keep it.
        found, file = _uploads(request).take_over(found, expires=found.expires)
        file.close()
        size = file.size
    return found, found.offset(size)


def _take_over(
    request: Any, record: Record, chunk: Chunk
) -> tuple[Upload, PartialFile | None, int]:
    """Return an upload, its file, and how many of the bytes that follow are there already.

    The file is ``None`` if the upload is done.

    :raises HTTPException: the offset or the length is wrong, and nothing is changed.
    """
    found = _found(request, record)
    size = _uploads(request).size(found)
    if found.is_being_completed:
        raise errors.being_completed()
    if chunk.offset != found.offset(size):
        raise errors.wrong_offset(chunk.offset)
    max_size = _settings(request).max_size_bytes
    length = tus.number(request, "Upload-Length")
    if length is not None and found.length is None:
        if length < size:
            raise errors.wrong_header("Upload-Length", f"at least {size}")
        refuse_too_long(length, max_size)
        found = dataclasses.replace(found, length=length)
    elif length not in (None, found.length):
        raise errors.length_changed(found.length)
    chunk.check(found, max_size)
    is_begun = found.phase == RECEIVING
    if is_begun and is_private(found.wanted_key) != _settings(request).is_private:
        raise errors.expired_upload()
    if found.phase == DONE:
        return found, None, 0
    known = 1 if found.phase != RECEIVING else size - chunk.offset
    try:
        taken, file = _uploads(request).take_over(
            found, size, length=found.length, verified=chunk.verified
        )
    except Superseded as error:
        raise errors.wrong_offset(chunk.offset) from error
    return taken, file, known


def _found(request: Any, record: Record) -> Upload:
    """Return the upload of the URL.

    :raises HTTPException: it is unknown, or it is done and the record has its file no more; or the
        files of the collection have become private or public, and the key would be a wrong one.
    """
    id_ = request.matchdict["upload_id"]
    found = _uploads(request).get(record.uri, id_, _user(request))
    if found.phase == DONE:
        link = {"location": found.key, "record_uri": record.uri, "attachment": found.attachment}
        if not refers_to(attachment_of(record.current), link):
            raise errors.unknown_upload()
    return found


def _receive(
    request: Any,
    record: Record,
    found: Upload,
    file: PartialFile,
    chunk: Chunk,
    known: int,
    transactions: Transactions,
) -> Any:
    """Return the response on a request with bytes."""
    status = 204 if "upload_id" in request.matchdict else 201
    reception = Reception(_uploads(request), found, file, chunk.hashes, transactions)
    reception.receive(chunk.pieces(found, _settings(request).max_size_bytes), known)
    found, offset = reception.upload, chunk.offset + chunk.hashes.size
    if offset != found.length:
        return _answer(request, status, found, offset)
    # Those of the request that began it: the record may have changed since.
    for name in PRECONDITIONS:
        request.headers.pop(name, None)
    request.headers.update(found.preconditions)
    write = request.registry.attachments.write
    done, changed = _completion(request, transactions).complete(
        found, file, lambda stored: write(record, stored, stored.key, stored.attachment)
    )
    return _answer_done(request, status, done, changed)


def _completion(request: Any, transactions: Transactions) -> Completion:
    gzip_level = request.registry.attachments.settings.gzip_level
    level = gzip_level if _settings(request).gzipped else None
    return Completion(
        _uploads(request),
        level,
        location_of(request),
        transactions,
        request.registry.attachments.time_publish,
    )


def _answer_done(request: Any, status: int, done: Upload, changed: Any) -> Any:
    response = _answer(request, status, done, done.length)
    copy_change_headers(changed, response)
    ids = {name: request.matchdict[name] for name in ("bucket_id", "collection_id", "id")}
    response.headers["Content-Location"] = request.route_url("record-object", **ids)
    if REPRESENTATION.search(request.headers.get("Prefer", "")):
        response.status_code = 200 if status == 204 else status
        response.content_type = "application/json"
        response.json = done.attachment
        response.headers["Preference-Applied"] = "return=representation"
    return response


def _answer(
    request: Any, status: int, found: Upload | None = None, offset: int | None = None
) -> Any:
    """Return an empty response, about an upload."""
    response = request.response
    response.status_code = status
    del response.content_type
    if offset is not None:
        response.headers["Upload-Offset"] = str(offset)
    if found is not None:
        response.headers.update(tus.expires(found.expires))
        if status == 201:
            ids = dict(request.matchdict, upload_id=found.id)
            if default_bucket.is_targeted_by(request):
                # Only there, the collection is created at the end.
                ids["bucket_id"] = "default"
            response.headers["Location"] = request.route_url(upload.name, **ids)
    return response


def _user(request: Any) -> str:
    return request.prefixed_userid or ""


def _uploads(request: Any) -> Uploads:
    return request.registry.attachments.uploads


def _settings(request: Any) -> Any:
    ids = request.matchdict
    settings = request.registry.attachments.settings
    return settings.for_collection(ids["bucket_id"], ids["collection_id"])
