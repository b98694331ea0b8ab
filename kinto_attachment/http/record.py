"""The record of a request on its attachment, which Kinto's own resource reads and writes.

So permissions, JSON schemas, preconditions, events and history hold as for any other change.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import transaction
from kinto.core.authorization import DYNAMIC
from kinto.core.utils import instance_uri
from pyramid.httpexceptions import HTTPBadRequest, HTTPForbidden

from kinto_attachment import errors, kinto_internals, uris
from kinto_attachment.http import default_bucket, tus


class AttachmentRouteFactory(kinto_internals.RouteFactory):
    """The context of a request on an attachment: that of a request on the record.

    Kinto finds the required permission and the record by itself (``kinto.core.authorization``).
    Methods that are not served, and preflights, learn nothing about the record.

    Unless it is only read, the record is locked from here on, until the transaction ends
    (:mod:`kinto_attachment.locks`).

    :cvar record_methods: what a request asks of the record: creating or changing it, changing it,
        reading it.
    :ivar record_request: the request on the record.
    :ivar current_object: the record, or ``None`` if it does not exist, or is only read.
    :ivar creates_collection: whether the upload creates its collection.
    :raises HTTPBadRequest: an id is one that PostgreSQL fails on, before Kinto validates it.
    :raises HTTPNotFound: the bucket or the collection does not exist, nor is about to be created.
    """

    record_methods: Mapping[str, str] = {
        "POST": "PUT",
        "DELETE": "PATCH",
        "GET": "GET",
        "HEAD": "GET",
    }

    def __init__(self, request: Any):
        if any("\0" in id_ for id_ in request.matchdict.values()):
            raise errors.null_in_id()
        self.record_request: Any = None
        self.creates_collection = False
        self._transaction = transaction.get()
        method = self.record_methods.get(request.method)
        if method is not None:
            self.record_request = kinto_internals.record_request(request, method)
        if method in ("PUT", "PATCH"):
            # Lock first, so that a concurrent change becomes visible.
            ids = request.matchdict
            collection_uri = instance_uri(
                request, "collection", bucket_id=ids["bucket_id"], id=ids["collection_id"]
            )
            request.registry.attachments.links.lock_record(collection_uri, ids["id"])
        if method == "PUT" and default_bucket.is_targeted_by(request):
            self.creates_collection = default_bucket.will_create_collection(request)
        super().__init__(self.record_request or request)
        if method == "GET" and default_bucket.is_targeted_by(request):
            # If it does not exist yet, nobody has a permission on it.
            kinto_internals.resource_of(self)
        # Of the client's own request, where Kinto remembers who it is.
        self.get_prefixed_principals = partial(kinto_internals.prefixed_principals, request)

    @property
    def is_stale(self) -> bool:
        """Whether it was made in an earlier transaction."""
        return self._transaction is not transaction.get()

    def check_permission(self, principals: Any, bound_perms: Any) -> bool:
        """Return whether the user may do what is requested (``kinto.core.authorization``)."""
        # Who creates a collection may write to it.
        return self.creates_collection or super().check_permission(principals, bound_perms)


class UploadRouteFactory(AttachmentRouteFactory):
    """The context of a request on an upload: who may begin one may do the rest.

    :raises HTTPPreconditionFailed: the client speaks another version of the protocol.
    """

    record_methods = dict.fromkeys(("POST", "HEAD", "PATCH", "DELETE"), "PUT")

    def __init__(self, request: Any):
        if request.method in self.record_methods:
            tus.check_version(request)
        super().__init__(request)


class Record:
    """The record of a request on its attachment.

    :ivar uri: ``/buckets/…/records/{id}``.
    """

    def __init__(self, request: Any):
        self._request = request
        ids = request.matchdict
        self.bucket_id, self.collection_id = ids["bucket_id"], ids["collection_id"]
        self.id = ids["id"]
        self.uri = uris.record_uri(kinto_internals.parent_of(request.context), self.id)

    @property
    def current(self) -> dict[str, Any] | None:
        """The record as it is, or ``None`` if it does not exist."""
        return self._context.current_object

    def read(self) -> dict[str, Any]:
        """Return the record of a request that only reads.

        :raises HTTPException: there is none, or there can be none with this id.
        """
        resource = kinto_internals.resource_of(self._context)
        return kinto_internals.check_preconditions(resource, None, must_exist=True)

    def check_preconditions(self) -> None:
        """Refuse what Kinto would refuse before it looks at the body of a request on the record.

        :raises HTTPException: see :func:`kinto_attachment.kinto_internals.check_preconditions`.
        """
        context = self._context
        kinto_internals.check_preconditions(
            kinto_internals.resource_of(context),
            context.current_object,
            must_exist=context.record_request.method == "PATCH",
        )

    def check_permissions_field(self, permissions: dict[str, Any]) -> None:
        """Refuse permissions that Kinto would refuse in a request on the record.

        :raises HTTPBadRequest: a name is unknown, or principals are not a list of strings.
        """
        if permissions:
            kinto_internals.deserialize(
                self._request.context.record_request,
                "body",
                kinto_internals.PERMISSIONS_SCHEMA,
                permissions,
            )

    def create_missing_parents(self) -> None:
        """Create the bucket and the collection of an upload to the default bucket."""
        if self._context.creates_collection:
            default_bucket.create_parents(self._request)
            self._refresh_context()

    def write(self, changes: dict[str, Any], permissions: dict[str, Any] | None = None) -> Any:
        """Change the record, and return Kinto's response: 201 if it is new, with its ETag.

        Once per transaction: the context has the record as it was before.

        :param changes: attributes to set. (PATCH, or PUT if there is no record.)
        :param permissions: ``{name: principals}`` to set.
        :raises HTTPException: Kinto refuses the change.
        """
        self.check_preconditions()
        body = {"data": changes, **({"permissions": permissions} if permissions else {})}
        return kinto_internals.change_record(self._context, body)

    def clear_attachment(self) -> Any:
        """Set the attachment to ``null``, and return Kinto's response.

        If the JSON schema refuses that, the attribute is removed.
        """
        try:
            return self.write({"attachment": None})
        except HTTPBadRequest:
            return kinto_internals.remove_attribute(
                AttachmentRouteFactory(self._request), "attachment"
            )

    @property
    def _context(self) -> AttachmentRouteFactory:
        """The context of the request, made again if it is of an earlier transaction.

        (Since the request began, an upload may have taken an hour.)
        """
        if self._request.context.is_stale:
            self._refresh_context()
        return self._request.context

    def _refresh_context(self) -> None:
        """Give the request a new context.

        :raises HTTPForbidden: the user may not write the record any more.
        """
        self._request.context = type(self._request.context)(self._request)
        if not self._request.has_permission(DYNAMIC, self._request.context):
            raise HTTPForbidden()
