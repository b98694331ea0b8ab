"""What the OpenAPI description says of requests and responses, and what cornice validates."""

from typing import Any

import colander
from kinto.core.resource.schema import (
    ErrorResponseSchema,
    PermissionsSchema,
    ResponseHeaderSchema,
)

from kinto_attachment.kinto_internals import RECORD_PERMISSIONS, PreconditionsSchema


def _optional(node_class: Any, **kwargs: Any) -> colander.SchemaNode:
    return node_class(missing=colander.drop, **kwargs)


class FormSchema(colander.MappingSchema):
    """The parts of a ``multipart/form-data`` body."""

    attachment = colander.SchemaNode(colander.String(), description="The file.")
    data = _optional(colander.MappingSchema, description="Attributes of the record, as JSON.")
    permissions = _optional(
        PermissionsSchema,
        permissions=RECORD_PERMISSIONS,
        description="Permissions of the record, as JSON.",
    )


class AttachRequestSchema(colander.MappingSchema):
    header = PreconditionsSchema()
    body = FormSchema()


class DetachRequestSchema(colander.MappingSchema):
    header = PreconditionsSchema()


class DescriptionSchema(colander.MappingSchema):
    filename = colander.SchemaNode(colander.String(), description="Original name.")
    hash = colander.SchemaNode(colander.String(), description="SHA-256, hexadecimal.")
    mimetype = colander.SchemaNode(colander.String())
    size = colander.SchemaNode(colander.Integer(), description="In bytes.")


class AttachmentSchema(DescriptionSchema):
    location = colander.SchemaNode(colander.String(), description="URL of the file.")
    original = _optional(
        DescriptionSchema, description="What was sent, if it is stored compressed."
    )


class AttachedHeaderSchema(ResponseHeaderSchema):
    location = colander.SchemaNode(colander.String(), name="Location")


class AttachedResponseSchema(colander.MappingSchema):
    header = AttachedHeaderSchema()
    body = AttachmentSchema()


COMMON_RESPONSES = {
    "400": ErrorResponseSchema(description="The request is invalid."),
    "401": ErrorResponseSchema(description="The request is missing authentication headers."),
    "403": ErrorResponseSchema(description="The user is not allowed to write the record."),
    "404": ErrorResponseSchema(description="The bucket, collection or record does not exist."),
    "409": ErrorResponseSchema(description="Another change was made at once, please retry."),
    "412": ErrorResponseSchema(description="The record exists, or has changed since `If-Match`."),
    "503": ErrorResponseSchema(description="The file could not be stored, please retry later."),
    "default": ErrorResponseSchema(description="Unexpected error."),
}

ATTACH_RESPONSES = {
    "200": AttachedResponseSchema(description="The file is attached to the existing record."),
    "201": AttachedResponseSchema(description="The record is created, with the file attached."),
    "411": ErrorResponseSchema(description="The request has no Content-Length."),
    "413": ErrorResponseSchema(description="The file, a field or the form is too large."),
    "415": ErrorResponseSchema(description="The request or a part is encoded, as by gzip."),
    **COMMON_RESPONSES,
}

DETACH_RESPONSES = {
    "204": colander.MappingSchema(description="The record has no attachment (any more)."),
    **COMMON_RESPONSES,
}


def _header(name: str, description: str, **kwargs: Any) -> colander.SchemaNode:
    return colander.SchemaNode(colander.String(), name=name, description=description, **kwargs)


def _optional_header(name: str, description: str) -> colander.SchemaNode:
    return _header(name, description, missing=colander.drop)


TUS_VERSION = _header("Tus-Resumable", "1.0.0")


class TusHeaderSchema(colander.MappingSchema):
    version = TUS_VERSION.clone()


class TusRequestSchema(colander.MappingSchema):
    header = TusHeaderSchema()


class BeginHeaderSchema(PreconditionsSchema):
    version = TUS_VERSION.clone()
    metadata = _header("Upload-Metadata", "filename, filetype, data, permissions, in base64.")
    length = _optional_header("Upload-Length", "In bytes, if it is known.")
    deferred = _optional_header("Upload-Defer-Length", "1 if the length is not known yet.")
    repr_digest = _optional_header("Repr-Digest", "Of the whole file (RFC 9530).")


class BeginRequestSchema(colander.MappingSchema):
    header = BeginHeaderSchema()


class AppendHeaderSchema(colander.MappingSchema):
    version = TUS_VERSION.clone()
    offset = _header("Upload-Offset", "That of HEAD.")
    length = _optional_header("Upload-Length", "If it was not known before.")
    checksum = _optional_header("Upload-Checksum", "Algorithm, and digest in base64.")
    content_digest = _optional_header("Content-Digest", "Of the body (RFC 9530).")
    prefer = _optional_header("Prefer", "return=representation to get the attachment at the end.")


class AppendRequestSchema(colander.MappingSchema):
    header = AppendHeaderSchema()


UPLOAD_RESPONSES = {
    **COMMON_RESPONSES,
    "410": ErrorResponseSchema(description="The upload has expired."),
    "423": ErrorResponseSchema(description="Another request is completing the upload."),
}
CHUNK_RESPONSES = {
    **UPLOAD_RESPONSES,
    "411": ErrorResponseSchema(description="The request has no Content-Length."),
    "413": ErrorResponseSchema(description="The file is larger than allowed, or than declared."),
    "415": ErrorResponseSchema(description="The body is no chunk, or encoded."),
    "460": ErrorResponseSchema(description="The bytes differ from their checksum."),
}


def _operation(schema: Any, responses: dict[str, Any], **successes: str) -> dict[str, Any]:
    described = {
        status.removeprefix("_"): colander.MappingSchema(description=description)
        for status, description in successes.items()
    }
    return {
        "schema": schema,
        "response_schemas": {**described, **responses},
        "tags": ["Attachments"],
    }


BEGIN = _operation(
    BeginRequestSchema(),
    {
        **CHUNK_RESPONSES,
        "429": ErrorResponseSchema(description="The user has too many unfinished uploads."),
    },
    _201="The upload has begun, at `Location`.",
)
APPEND = _operation(
    AppendRequestSchema(),
    {**CHUNK_RESPONSES, "200": AttachmentSchema(description="The file is attached (`Prefer`).")},
    _204="The bytes are kept, or the file is attached.",
)
TERMINATE = _operation(TusRequestSchema(), UPLOAD_RESPONSES, _204="The upload is deleted.")


class DownloadHeaderSchema(colander.MappingSchema):
    range = _optional_header("Range", "One range of bytes.")
    if_range = _optional_header("If-Range", "The `ETag` or `Last-Modified` of the range.")
    if_match = _optional_header("If-Match", "The `ETag` of the file that is wanted.")
    if_none_match = _optional_header("If-None-Match", "The `ETag` of the file that is known.")
    if_modified_since = _optional_header("If-Modified-Since", "Its `Last-Modified`.")
    if_unmodified_since = _optional_header("If-Unmodified-Since", "Its `Last-Modified`.")


class DownloadRequestSchema(colander.MappingSchema):
    header = DownloadHeaderSchema()


class DownloadedHeaderSchema(colander.MappingSchema):
    etag = _header("ETag", "The SHA-256 of the file, in hexadecimal.")
    modified = _header("Last-Modified", "When it was attached.")
    disposition = _header("Content-Disposition", "Its name.")
    digest = _header("Repr-Digest", "Its SHA-256 (RFC 9530).")


class DownloadedSchema(colander.MappingSchema):
    header = DownloadedHeaderSchema()


class LinkQuerySchema(colander.MappingSchema):
    expires_in = colander.SchemaNode(
        colander.String(),
        description="For how many seconds, up to `link_max_seconds`.",
        missing=colander.drop,
    )


class LinkRequestSchema(colander.MappingSchema):
    querystring = LinkQuerySchema()


class LinkSchema(colander.MappingSchema):
    location = colander.SchemaNode(colander.String(), description="URL that needs no credentials.")
    expires = colander.SchemaNode(colander.Integer(), description="In seconds since 1970.")


class LinkResponseSchema(colander.MappingSchema):
    body = LinkSchema()


READING_RESPONSES = {
    "400": ErrorResponseSchema(description="The request is invalid."),
    "401": ErrorResponseSchema(description="The request is missing authentication headers."),
    "403": ErrorResponseSchema(description="The user is not allowed to read the record."),
    "404": ErrorResponseSchema(description="There is no record, or it has no file of this server."),
    "501": ErrorResponseSchema(description="The storage cannot read files."),
    "503": ErrorResponseSchema(description="The file could not be read, please retry later."),
    "default": ErrorResponseSchema(description="Unexpected error."),
}

DOWNLOAD_RESPONSES = {
    "200": DownloadedSchema(description="The file."),
    "206": DownloadedSchema(description="The part of the file that `Range` asks for."),
    "304": colander.MappingSchema(description="The client has this file already."),
    "307": colander.MappingSchema(description="The file is at `Location` for a while."),
    "412": ErrorResponseSchema(description="The file is another one than the condition names."),
    "416": ErrorResponseSchema(description="The file has no such range."),
    **READING_RESPONSES,
}

LINK: dict[str, Any] = {
    "schema": LinkRequestSchema(),
    "response_schemas": {
        "200": LinkResponseSchema(description="A link, and when it ends."),
        **READING_RESPONSES,
    },
    "tags": ["Attachments"],
}

FILE_RESPONSES = {
    "200": colander.MappingSchema(description="The file."),
    "206": colander.MappingSchema(description="The part of the file that `Range` asks for."),
    "304": colander.MappingSchema(description="The client has this file already."),
    "403": ErrorResponseSchema(description="The link has ended, or is not valid."),
    "404": ErrorResponseSchema(description="There is no such file."),
    "412": ErrorResponseSchema(description="The file is another one than the condition names."),
    "416": ErrorResponseSchema(description="The file has no such range."),
}
