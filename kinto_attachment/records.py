"""All that is asked of Kinto: a record's permission and change, its link, what is released.

A record is written by Kinto's own resource, ``kinto.views.records.Record``, on a request that looks
as if the client had written the record itself. So permissions, JSON schemas, preconditions, events
and history hold as for any other change.
"""

import functools
import hashlib
import json
import math
import uuid
from urllib.parse import quote, unquote

import colander
import transaction
from kinto.authorization import AuthorizationPolicy, RouteFactory
from kinto.core.authorization import DYNAMIC
from kinto.core.cornice.errors import Errors
from kinto.core.errors import raise_invalid
from kinto.core.resource.schema import HeaderSchema, PermissionsSchema
from kinto.core.schema import HeaderQuotedInteger
from kinto.core.storage import Filter, Sort
from kinto.core.storage.exceptions import ObjectNotFoundError
from kinto.core.utils import COMPARISON, build_request, instance_uri, prefixed_principals
from kinto.views.records import Record
from pyramid.httpexceptions import HTTPBadRequest, HTTPForbidden
from pyramid.interfaces import IRoutesMapper

from kinto_attachment import default_bucket, locks
from kinto_attachment.settings.limits import MAX_FOLDER_LEVELS


LINKS = "attachments"
LINK_NAMES = (LINKS, "")
"""The resource names of links: the empty one is that of the oldest deployments."""
LINKS_PARENT = "__attachments__"

RELEASES = "attachment-releases"
RELEASES_PARENT = f"{LINKS_PARENT}/releases/"
"""Before the id of a release: each has a parent of its own, as links have (:func:`add_link`)."""

PAGE_SIZE = 1000
LINKS_PAGE_SIZE = 10_000
"""As many as Kinto itself deletes at once (``storage_max_fetch_size``). Records may be large, links
are small."""
MAX_SINGLE_QUERIES = 25
SOURCES_PAGE_SIZE = 100
"""How many links on one file are looked at together: most files have one."""

MAX_LOCATION_PARTS = MAX_FOLDER_LEVELS + 1
MAX_LOCATION_PART = 3 * 1024
"""The longest key that S3 takes, with all of its characters percent-encoded."""

RECORD_METHODS = {"POST": "PUT", "DELETE": "PATCH"}
"""What a request on the attachment asks of the record: creating or changing it, changing it."""

PERMISSIONS_SCHEMA = PermissionsSchema(name="permissions", permissions=Record.permissions)

SERVER_FIELDS = ("attachment", "last_modified", "schema")
"""Fields of a record that are the server's: a client that sends the whole record back has them."""


class ETag(HeaderQuotedInteger):
    """Kinto's node for an ETag or ``*``, without what its pattern lets pass to fail later."""

    validator = colander.Regex(r'^("[0-9]{1,18}"|\*)$', msg=HeaderQuotedInteger.error_message)


class PreconditionsSchema(HeaderSchema):
    """The headers of a request on an attachment."""

    if_match = ETag(name="If-Match")
    if_none_match = ETag(name="If-None-Match")


# A schema is costly to make.
HEADER_SCHEMA = PreconditionsSchema()


class AttachmentRouteFactory(RouteFactory):
    """The context of a request on an attachment: that of the record, asked for by its own method.

    Kinto finds the required permission and the record out by itself (``kinto.core.authorization``).
    Methods that are not served, and preflights, learn nothing about the record.

    The record is locked from here on, until the transaction ends (:mod:`kinto_attachment.locks`).

    :ivar record_uri: that of the record (see :func:`uri`).
    :ivar record_request: the request on the record.
    :ivar current_object: the record, or ``None`` where it does not exist.
    :ivar collection_is_to_come: whether the upload has its collection created.
    :raises HTTPNotFound: the bucket or the collection does not exist, nor is about to be created.
    """

    def __init__(self, request):
        self.record_uri = uri(request)
        self.record_request = None
        self.collection_is_to_come = False
        self._transaction = transaction.get()
        if request.method in RECORD_METHODS:
            method = RECORD_METHODS[request.method]
            self.record_request = _record_request(request, method, self.record_uri)
            # Lock first, so that what another request changes at this moment becomes visible.
            collection_uri = _parent_uri(self.record_uri)
            locks.lock_record(request.registry.storage, collection_uri, request.matchdict["id"])
        if request.method == "POST":
            self.collection_is_to_come = default_bucket.is_meant_by(
                request
            ) and default_bucket.foresee_collection(request)
        super().__init__(self.record_request or request)
        # Of the client's own request, where Kinto remembers who it is.
        self.get_prefixed_principals = functools.partial(prefixed_principals, request)

    @property
    def resource(self):
        """Kinto's resource for the request on the record."""
        return self._resource

    @property
    def is_of_running_transaction(self):
        """Whether what was looked at is still as it was, but for changes by others."""
        return self._transaction is transaction.get()

    def check_permission(self, principals, bound_perms):
        """Return whether the user may do what is asked for (``kinto.core.authorization``)."""
        # Who has a collection created may write to it.
        return self.collection_is_to_come or super().check_permission(principals, bound_perms)

    def check_preconditions(self):
        """Refuse what Kinto would refuse before it looks at the body of a request on the record.

        :raises HTTPBadRequest: the id is not one that a record can have.
        :raises HTTPNotFound: there is no record, where it is not about to be created.
        :raises HTTPPreconditionFailed: ``If-Match`` or ``If-None-Match`` do not hold.
        """
        resource = self.resource
        resource._raise_400_if_invalid_id(resource.object_id)
        if self.record_request.method == "PATCH":
            resource._get_object_or_404(resource.object_id)
        resource._raise_412_if_modified(self.current_object)


def uri(request):
    """Return the URI of the record that a request is about, ``/buckets/…/records/{id}``."""
    ids = request.matchdict
    collection_uri = instance_uri(
        request, "collection", bucket_id=ids["bucket_id"], id=ids["collection_id"]
    )
    return uri_of(collection_uri, ids["id"])


def uri_of(collection_uri, record_id):
    """Return the URI of a record, as the links have it: the id as it is, whatever is in it."""
    return f"{collection_uri}/records/{record_id}"


def check_permissions_field(context, permissions):
    """Refuse permissions that Kinto would refuse in a request on the record.

    :raises HTTPBadRequest: a name is unknown, or principals are not a list of strings.
    """
    _deserialize(context.record_request, "body", PERMISSIONS_SCHEMA, permissions)


def context_of(request):
    """Return the context of a request, looked at anew where it is of an earlier transaction.

    (Since the request began, an upload may have taken an hour.)

    :raises HTTPForbidden: the user may not write the record any more.
    """
    if not request.context.is_of_running_transaction:
        look_anew(request)
    return request.context


def look_anew(request):
    """Give a request a new context.

    :raises HTTPForbidden: the user may not write the record.
    """
    request.context = AttachmentRouteFactory(request)
    if not request.has_permission(DYNAMIC, request.context):
        raise HTTPForbidden()


def write(request, changes, permissions=None):
    """Change the record, and return Kinto's response: 201 where it is new, with its ETag.

    Once per transaction: the context tells what the record was before.

    :param changes: attributes to set. (PATCH, or PUT where there is no record.)
    :param permissions: ``{name: principals}`` to set.
    :raises HTTPException: whatever Kinto refuses.
    """
    context = context_of(request)
    context.check_preconditions()
    record_request = context.record_request
    body = {"data": changes}
    if permissions:
        body["permissions"] = permissions
    record_request.validated["body"] = body
    record_request.method = "PATCH" if context.current_object else "PUT"
    resource = context.resource
    resource.patch() if context.current_object else resource.put()
    return record_request.response


def beginning_with(text):
    """Return the pattern of the parents that begin with this.

    Kinto makes a ``LIKE`` or a regular expression of it. To the former a plain ``_`` is any
    character, so that no index would know where to begin.
    """
    return text.replace("_", r"\_") + "*"


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


def current(storage, collection_uri, ids):
    """Return ``{id: record}`` of those of the records that exist, as they are now."""
    found = {}
    for page in _pages(sorted(ids)):
        records = _list(storage, "record", collection_uri, [_among(page)])
        found |= {record["id"]: record for record in records}
    return found


def completed(storage, collection_uri, changes):
    """Return changes of records with the whole of the new ones.

    Kinto tells a part of them where the client asks for no more (``Response-Behavior``, in
    ``Resource.patch`` of ``kinto.core.resource``). What the record is when the transaction ends
    stands for what it was in between.
    """
    ids = {change["old"]["id"] for change in changes if _is_partial(change)}
    found = current(storage, collection_uri, ids)
    return [
        {**change, "new": found.get(change["old"]["id"])} if _is_partial(change) else change
        for change in changes
    ]


def _is_partial(change):
    return "old" in change and "id" not in change["new"]


def add_link(storage, record_uri, location, attachment, origin=None):
    """Link a record with a stored file, and return the link.

    Every record has a parent of its own: Kinto's storage keeps one timestamp per parent, which
    concurrent transactions conflict on. The id is made of the location, so that the primary key
    finds all records that hold a file.

    :param location: relative to the storage.
    :param origin: the URI of the collection that the file was uploaded to, if it is another one.
    """
    collection_uri = _parent_uri(record_uri)
    link = {
        "location": location,
        "attachment": attachment,
        "record_uri": record_uri,
        "collection_uri": collection_uri,
        "bucket_uri": _parent_uri(collection_uri),
        "origin": origin or collection_uri,
    }
    return storage.update(LINKS, LINKS_PARENT + record_uri, _link_id(location), link)


def links_of(storage, record_uris):
    """Return the links of records."""
    if len(record_uris) > MAX_SINGLE_QUERIES:
        return [
            link for page in _pages(record_uris) for link in _all_links(storage, "record_uri", page)
        ]
    links = [link for uri in record_uris for link in _list(storage, LINKS, LINKS_PARENT + uri)]
    return links + _old_links(storage, "record_uri", record_uris)


def pages_of_links_on(storage, locations):
    """Return the links on stored files, of whatever records, in pages."""
    filters = [_among(_link_id(location) for location in locations)]
    parent = beginning_with(LINKS_PARENT)
    yield from _listed_in_pages(storage, LINKS, parent, filters, "record_uri", SOURCES_PAGE_SIZE)
    if old := _old_links(storage, "location", locations):
        yield old


def may_read(request, record_uris):
    """Return whether the user of a request may read any of these records."""
    granting = AuthorizationPolicy().get_bound_permissions
    permissions = {one for uri in record_uris for one in granting(uri, "read")}
    return ReadingContext(request).check_permission(prefixed_principals(request), permissions)


class ReadingContext(RouteFactory):
    """The context of reading records that a request is not about (``kinto.core.authorization``)."""

    resource_name = "record"
    required_permission = "read"

    def __init__(self, request):
        self._check_permission = request.registry.permission.check_permission
        self._settings = request.registry.settings


def without_links(storage, locations):
    """Return those of stored files that no link is on.

    Each query looks once more at all that the one before has not found, so that one of them says
    of all that is returned, in one moment, that nothing is on it: a file may pass from one record
    to another at any time. From a link of an earlier plugin it passes to one of ours, and never
    back, hence the order.
    """
    left = set(locations)
    while left and (links := _old_links(storage, "location", sorted(left))):
        left -= {link["location"] for link in links}
    while left and (links := _links_with_ids(storage, sorted(left))):
        ids = {link["id"] for link in links}
        left = {location for location in left if _link_id(location) not in ids}
    return sorted(left)


def pages_of_links(storage):
    """Return all links in pages. Those of a page may be removed before the next is asked for."""
    for name, parent in _places_of_links():
        yield from _pages_of_links(storage, name, parent, [])


def remove_links(storage, links):
    """Remove links, of any age, and return the ids of those that were still there."""
    ours = [link for link in links if not _is_old(link)]
    removed = set()
    if len(ours) > MAX_SINGLE_QUERIES:
        for page in _pages(ours):
            removed |= _delete_all(
                storage, LINKS, beginning_with(LINKS_PARENT), len(page), _any_of(page)
            )
    else:
        for link in ours:
            removed |= _delete(storage, link)
    for page in _pages([link["id"] for link in links if _is_old(link)]):
        for name in LINK_NAMES:
            removed |= _delete_all(
                storage, name, LINKS_PARENT, len(page), {"filters": [_among(page)]}
            )
    return removed


def remove_links_of(storage, field, object_uri):
    """Remove the links of a bucket or a collection, and yield them in pages.

    All of its links on the files of a page go with that page. So there is no need for a condition
    for each link, which takes a database long.

    :param field: ``collection_uri`` or ``bucket_uri``.
    :returns: an iterator of links, and the ids of those that were still there.
    """
    of_object = Filter(field, object_uri, COMPARISON.EQ)
    for name, parent in _places_of_links(object_uri):
        # Always the first page: those before it are gone.
        while page := storage.list_all(name, parent, filters=[of_object], limit=LINKS_PAGE_SIZE):
            filters = [of_object, _among(link["id"] for link in page)]
            yield page, _delete_all(storage, name, parent, len(page), {"filters": filters})


def lock_link(storage, link):
    """Return whether a link is there, and then have it stay until this transaction has ended.

    Who wants to remove it waits for that end, and finds it then. (Its row is kept and written: one
    that was deleted and made anew would be found by nobody who waits.)
    """
    names, parent = (LINK_NAMES, LINKS_PARENT) if _is_old(link) else ((LINKS,), _parent_of(link))
    for name in names:
        try:
            storage.delete(name, parent, link["id"], with_deleted=True)
        except ObjectNotFoundError:
            continue
        storage.update(name, parent, link["id"], link)
        return True
    return False


def add_release(storage, locations, claimed=False):
    """Write down stored files to be deleted where no link is on them, and return the release.

    :param locations: relative to the storage, up to ``PAGE_SIZE``.
    :param claimed: whether this worker is about to delete them.
    """
    id_ = str(uuid.uuid4())
    release = {"locations": locations, **({"claimed": True} if claimed else {})}
    return storage.update(RELEASES, RELEASES_PARENT + id_, id_, release)


def claim_release(storage, release):
    """Return a release under another id, which is the caller's to delete from now on.

    ``None`` where it is gone, since another worker has claimed it. The claim is written, and not
    held as a lock: no transaction stays open while a storage is asked.
    """
    if not _remove_release(storage, release["id"]):
        return None
    return add_release(storage, release["locations"], claimed=True)


def end_release(storage, release, failed):
    """Strike a release out, and write down anew what of it could not be deleted."""
    is_there = _remove_release(storage, release["id"])
    left = [location for location in release["locations"] if location in failed]
    if is_there and left:
        add_release(storage, left)


def take_release(storage, release):
    """Remove a release, and return its locations: none where another worker was first."""
    return release["locations"] if _remove_release(storage, release["id"]) else []


def is_claimed(release, expired_before):
    """Return whether a worker is deleting the files of a release.

    :param expired_before: in milliseconds since 1970. Who claimed a release before that was killed.
    """
    return release.get("claimed", False) and release["last_modified"] > expired_before


def _remove_release(storage, id_):
    try:
        storage.delete(RELEASES, RELEASES_PARENT + id_, id_, with_deleted=False)
    except ObjectNotFoundError:
        return False
    return True


def releases_before(storage, timestamp, limit):
    """Return releases, the oldest first.

    :param timestamp: when they were written down at the latest, in milliseconds since 1970.
    """
    return storage.list_all(
        RELEASES,
        beginning_with(RELEASES_PARENT),
        filters=[Filter("last_modified", timestamp, COMPARISON.MAX)],
        sorting=[Sort("last_modified", 1)],
        limit=limit,
    )


def releases_of(storage, location):
    """Return the releases that a stored file is written down in."""
    filters = [Filter("locations", [location], COMPARISON.CONTAINS)]
    return _list(storage, RELEASES, beginning_with(RELEASES_PARENT), filters)


def released(storage):
    """Return all stored files that are written down in releases."""
    pages = _listed_in_pages(
        storage, RELEASES, beginning_with(RELEASES_PARENT), [], "id", PAGE_SIZE
    )
    return [location for page in pages for release in page for location in release["locations"]]


def as_text(value):
    """Return JSON as a text that is the same for equal values: 1 is neither ``true`` nor 1.0."""
    return json.dumps(value, sort_keys=True)


def are_same(one, other):
    """Return whether two values are the same JSON."""
    return as_text(one) == as_text(other)


def locates(attachment, location):
    """Return whether this metadata is about the stored file, under whatever base URL."""
    return location in possible_locations(attachment)


def possible_locations(attachment):
    """Return where in the storage the file of this metadata may be: the ends of its URL."""
    url = attachment.get("location") if isinstance(attachment, dict) else None
    if not isinstance(url, str):
        return []
    ends = []
    for part in reversed(url.rsplit("/", MAX_LOCATION_PARTS)[-MAX_LOCATION_PARTS:]):
        # No stored file has such a part in its name, and no database looks for a NUL.
        if not 0 < len(part) <= MAX_LOCATION_PART or "\0" in unquote(part):
            break
        ends.append(f"{part}/{ends[-1]}" if ends else part)
    return list(dict.fromkeys([*ends, *map(unquote, ends)]))


def _places_of_links(object_uri=None):
    """Return where links are, all or those of a bucket or a collection: names and parents."""
    if object_uri is None:
        return [(name, beginning_with(LINKS_PARENT)) for name in LINK_NAMES]
    old = [(name, LINKS_PARENT) for name in LINK_NAMES]
    return [(LINKS, beginning_with(f"{LINKS_PARENT}{object_uri}/")), *old]


def _pages_of_links(storage, name, parent, filters):
    return _listed_in_pages(storage, name, parent, filters, "record_uri", LINKS_PAGE_SIZE)


def _listed_in_pages(storage, name, parent, filters, order, limit):
    rules = None
    while page := storage.list_all(
        name,
        parent,
        filters=filters,
        sorting=[Sort(order, 1), Sort("id", 1)],
        pagination_rules=rules,
        limit=limit,
    ):
        yield page
        if len(page) < min(limit, _most_at_once(storage)):
            return
        rules = _after(page[-1], order)


def _list(storage, name, parent, filters=()):
    """Return all objects of a parent, in no order.

    (Kinto returns no more than ``storage_max_fetch_size`` at once, and does not say so.)
    """
    found = storage.list_all(name, parent, filters=list(filters))
    if len(found) < _most_at_once(storage):
        return found
    pages = _listed_in_pages(storage, name, parent, list(filters), "last_modified", PAGE_SIZE)
    return [one for page in pages for one in page]


def _most_at_once(storage):
    """Return how many objects a query returns at the most. (In memory, Kinto knows no limit.)"""
    return getattr(storage, "_max_fetch_size", math.inf)


def _after(last, order):
    """Return the rules for those objects that are sorted after this one."""
    return [
        [Filter(order, last[order], COMPARISON.GT)],
        [
            Filter(order, last[order], COMPARISON.EQ),
            Filter("id", last["id"], COMPARISON.GT),
        ],
    ]


def _all_links(storage, field, values):
    filters = [_among(values, field)]
    return [
        link
        for name, parent in _places_of_links()
        for page in _pages_of_links(storage, name, parent, filters)
        for link in page
    ]


def _links_with_ids(storage, locations):
    """Return links of ours, on any of these stored files."""
    ids = [_link_id(location) for location in locations]
    return storage.list_all(LINKS, beginning_with(LINKS_PARENT), filters=[_among(ids)])


def _old_links(storage, field, values):
    """Return links that earlier plugins wrote: one parent, and ids that mean nothing."""
    if len(values) > MAX_SINGLE_QUERIES and not _has_old_links(storage):
        # Most have none, and to compare with thousands of values takes a database long.
        return []
    filters = [_among(values, field)]
    return [link for name in LINK_NAMES for link in _list(storage, name, LINKS_PARENT, filters)]


def _has_old_links(storage):
    return any(storage.list_all(name, LINKS_PARENT, limit=1) for name in LINK_NAMES)


def _is_old(link):
    return "origin" not in link


def _parent_of(link):
    return LINKS_PARENT + link["record_uri"]


def _among(values, field="id"):
    # A set: Kinto's storage in memory looks each of its objects up in there.
    return Filter(field, set(values), COMPARISON.IN)


def _any_of(links):
    """Return the rules for these links and no others: an id is that of all links on the file."""
    return {
        "pagination_rules": [
            [
                Filter("id", link["id"], COMPARISON.EQ),
                Filter("record_uri", link["record_uri"], COMPARISON.EQ),
            ]
            for link in links
        ]
    }


def _delete(storage, link):
    try:
        storage.delete(LINKS, _parent_of(link), link["id"], with_deleted=False)
    except ObjectNotFoundError:
        return set()
    return {link["id"]}


def _delete_all(storage, name, parent, expected, conditions):
    """Delete objects, and return their ids. Kinto may be set to delete fewer at once."""
    ids = set()
    while expected > 0:
        deleted = storage.delete_all(name, parent, with_deleted=False, **conditions)
        if not deleted:
            break
        ids |= {one["id"] for one in deleted}
        expected -= len(deleted)
    return ids


def _pages(values):
    return [values[start : start + PAGE_SIZE] for start in range(0, len(values), PAGE_SIZE)]


def _link_id(location):
    return hashlib.sha256(location.encode()).hexdigest()


def _parent_uri(object_uri):
    return object_uri.rsplit("/", 2)[0]


def _record_request(request, method, record_uri):
    """Return a request on the record, with all that Kinto's resource layer looks at.

    (Its route is set on the new request only: the routes themselves belong to all threads.)
    """
    path = uri_of(_parent_uri(record_uri), quote(request.matchdict["id"]))
    headers = {"Content-Type": "application/json"}
    subrequest = build_request(request, {"method": method, "path": path, "headers": headers})
    mapper = request.registry.getUtility(IRoutesMapper)
    subrequest.matched_route = mapper.get_route("record-object")
    subrequest.matchdict = dict(request.matchdict)
    subrequest.errors = Errors()
    subrequest.info = {}
    _authenticate_as(subrequest, request)
    headers = _deserialize(subrequest, "header", HEADER_SCHEMA, dict(request.headers))
    # Of the record: the plugin looks at all that it is told of the change.
    headers.pop("Response-Behavior", None)
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
