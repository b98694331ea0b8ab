"""All that is asked of Kinto: the request on a record, its permission, its change, its link.

A record is written by Kinto's own resource, ``kinto.views.records.Record``, on a request that looks
as if the client had written the record itself. So permissions, JSON schemas, preconditions, events
and history hold as for any other change.
"""

import colander
from kinto.authorization import RouteFactory
from kinto.core.authorization import DYNAMIC
from kinto.core.cornice.errors import Errors
from kinto.core.errors import raise_invalid
from kinto.core.resource.schema import HeaderSchema, PermissionsSchema
from kinto.core.storage.exceptions import ObjectNotFoundError
from kinto.core.utils import build_request, instance_uri
from kinto.views.records import Record
from pyramid.httpexceptions import HTTPBadRequest, HTTPForbidden
from pyramid.interfaces import IRoutesMapper


LINKS = "attachments"
LINKS_PARENT = "__attachments__"

RECORD_METHODS = {"POST": "PUT", "DELETE": "PATCH"}
"""What a request on the attachment asks of the record: creating or changing it, changing it."""

SERVER_FIELDS = ("attachment", "last_modified", "schema")
"""Fields of a record that are the server's: a client that sends the whole record back has them."""


class AttachmentRouteFactory(RouteFactory):
    """The context of a request on an attachment: that of the record, asked for by its own method.

    Kinto finds the required permission and the record out by itself (``kinto.core.authorization``).
    Methods that are not served, and preflights, learn nothing about the record.

    :ivar record_request: the request on the record.
    :ivar current_object: the record, or ``None`` where it does not exist.
    :raises HTTPNotFound: the bucket or the collection does not exist.
    """

    def __init__(self, request):
        self.record_request = None
        if request.method in RECORD_METHODS:
            self.record_request = _record_request(request, RECORD_METHODS[request.method])
        super().__init__(self.record_request or request)

    def check_preconditions(self):
        """Refuse what Kinto would refuse before it looks at the body of a request on the record.

        :raises HTTPBadRequest: the id is not one that a record can have.
        :raises HTTPNotFound: there is no record, where it is not about to be created.
        :raises HTTPPreconditionFailed: ``If-Match`` or ``If-None-Match`` do not hold.
        """
        resource = self._resource
        resource._raise_400_if_invalid_id(resource.object_id)
        if self.record_request.method == "PATCH":
            resource._get_object_or_404(resource.object_id)
        resource._raise_412_if_modified(self.current_object)


def uri(request):
    """Return the URI of the record that a request is about, ``/buckets/…/records/{id}``."""
    ids = request.matchdict
    return instance_uri(
        request,
        "record",
        bucket_id=ids["bucket_id"],
        collection_id=ids["collection_id"],
        id=ids["id"],
    )


def check_permissions_field(context, permissions):
    """Refuse permissions that Kinto would refuse in a request on the record.

    :raises HTTPBadRequest: a name is unknown, or principals are not a list of strings.
    """
    schema = PermissionsSchema(name="permissions", permissions=Record.permissions)
    _deserialize(context.record_request, "body", schema, permissions)


def write(request, changes, permissions=None):
    """Change the record, and return Kinto's response: 201 where it is new, with its ETag.

    The record, its permission and the preconditions are looked at anew: since the request began,
    an upload may have taken an hour.

    :param changes: attributes to set. (PATCH, or PUT where there is no record.)
    :param permissions: ``{name: principals}`` to set.
    :raises HTTPException: whatever Kinto refuses.
    """
    context = AttachmentRouteFactory(request)
    if not request.has_permission(DYNAMIC, context):
        raise HTTPForbidden()
    record_request = context.record_request
    body = {"data": changes}
    if permissions:
        body["permissions"] = permissions
    record_request.validated["body"] = body
    record_request.method = "PATCH" if context.current_object else "PUT"
    resource = Record(record_request, context=context)
    resource.patch() if context.current_object else resource.put()
    return record_request.response


def clear_attachment(request):
    """Set the record's attachment to ``null``, and return Kinto's response.

    Where the JSON schema refuses that, the attribute goes.
    """
    try:
        return write(request, {"attachment": None})
    except HTTPBadRequest:
        return _remove_attribute(request, "attachment")


def _remove_attribute(request, name):
    context = AttachmentRouteFactory(request)
    record_request = context.record_request
    # The way of RFC 7396: null removes.
    record_request.headers["Content-Type"] = "application/merge-patch+json"
    record_request.validated["body"] = {"data": {name: None}}
    Record(record_request, context=context).patch()
    return record_request.response


def replace_link(request, location):
    """Link the record with a stored file, and return the location of the previous one, if any."""
    parent, link_id = _link_key(request)
    record_uri = uri(request)
    previous = linked_location(request)
    link = {
        "location": location,
        "record_uri": record_uri,
        "collection_uri": _parent_uri(record_uri),
        "bucket_uri": _parent_uri(_parent_uri(record_uri)),
    }
    request.registry.storage.update(LINKS, parent, link_id, link)
    return previous


def remove_link(request):
    """Remove the record's link, and return the location of the file it was on, if any."""
    location = linked_location(request)
    if location is not None:
        request.registry.storage.delete(LINKS, *_link_key(request), with_deleted=False)
    return location


def linked_location(request):
    """Return the location, relative to the storage, of the record's file, or ``None``."""
    try:
        return request.registry.storage.get(LINKS, *_link_key(request))["location"]
    except ObjectNotFoundError:
        return None


def _link_key(request):
    """Return the parent and the id of the link of a record.

    Kinto's storage keeps one timestamp per parent, which concurrent transactions conflict on. With
    a parent for every collection, an upload meets no conflict that writing its record does not.
    """
    return f"{LINKS_PARENT}{_parent_uri(uri(request))}", request.matchdict["id"]


def _parent_uri(object_uri):
    return object_uri.rsplit("/", 2)[0]


def _record_request(request, method):
    """Return a request on the record, with all that Kinto's resource layer looks at.

    (Its route is set on the new request only: the routes themselves belong to all threads.)
    """
    headers = {"Content-Type": "application/json"}
    subrequest = build_request(
        request, {"method": method, "path": uri(request), "headers": headers}
    )
    mapper = request.registry.getUtility(IRoutesMapper)
    subrequest.matched_route = mapper.get_route("record-object")
    subrequest.matchdict = dict(request.matchdict)
    subrequest.errors = Errors()
    subrequest.info = {}
    _authenticate_as(subrequest, request)
    headers = _deserialize(subrequest, "header", HeaderSchema(), dict(request.headers))
    subrequest.validated = {"header": headers, "querystring": {}, "body": {}}
    return subrequest


def _authenticate_as(subrequest, request):
    # First, since these two are only set on the way (kinto.core.initialization).
    subrequest.prefixed_principals = request.prefixed_principals
    if request.prefixed_userid is not None:
        subrequest.authn_type = request.authn_type
        subrequest.selected_userid = request.selected_userid


def _deserialize(request, location, schema, value):
    try:
        return schema.deserialize(value)
    except colander.Invalid as error:
        for name, description in error.asdict().items():
            raise_invalid(request, location=location, name=name, description=description)
