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

FILE_RESPONSES = {
    "200": colander.MappingSchema(description="The file."),
    "206": colander.MappingSchema(description="The part of the file that `Range` asks for."),
    "304": colander.MappingSchema(description="The client has this file already."),
    "404": ErrorResponseSchema(description="There is no such file."),
    "416": ErrorResponseSchema(description="The file has no such range."),
}
