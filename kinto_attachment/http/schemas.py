"""What the OpenAPI description says of requests and responses, and what cornice validates."""

from typing import Any

import colander
from kinto.core.resource.schema import (
    ErrorResponseSchema,
    PermissionsSchema,
    ResponseHeaderSchema,
)
from kinto.views.records import Record

from kinto_attachment.records import PreconditionsSchema


def _optional(node_class: Any, **kwargs: Any) -> colander.SchemaNode:
    return node_class(missing=colander.drop, **kwargs)


class FormSchema(colander.MappingSchema):
    """The parts of a ``multipart/form-data`` body."""

    attachment = colander.SchemaNode(colander.String(), description="The file.")
    data = _optional(colander.MappingSchema, description="Attributes of the record, as JSON.")
    permissions = _optional(
        PermissionsSchema,
        permissions=Record.permissions,
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


def _responses(descriptions: dict[str, str]) -> dict[str, Any]:
    return {
        status: ErrorResponseSchema(description=description)
        for status, description in descriptions.items()
    }


COMMON_RESPONSES = _responses(
    {
        "400": "The request is invalid.",
        "401": "The request is missing authentication headers.",
        "403": "The user is not allowed to write the record.",
        "404": "The bucket, collection or record does not exist.",
        "409": "Another change was made at once, please retry.",
        "412": "The record was changed since the value in `If-Match`, or exists.",
        "503": "The file could not be stored, please retry later.",
        "default": "Unexpected error.",
    }
)

ATTACH_RESPONSES = {
    "200": AttachedResponseSchema(description="The file is attached to the existing record."),
    "201": AttachedResponseSchema(description="The record is created, with the file attached."),
    **COMMON_RESPONSES,
    **_responses(
        {
            "411": "The request has no Content-Length.",
            "413": "The file or a field is too large, or there are too many fields.",
            "415": "The request or a part is encoded, as by gzip.",
        }
    ),
}

DETACH_RESPONSES = {
    "204": colander.MappingSchema(description="The record has no attachment (any more)."),
    **COMMON_RESPONSES,
}

FILE_RESPONSES = {
    "200": colander.MappingSchema(description="The file."),
    "206": colander.MappingSchema(description="The part of the file that `Range` asks for."),
    "304": colander.MappingSchema(description="The client has this file already."),
    **_responses({"404": "There is no such file.", "416": "The file has no such range."}),
}
