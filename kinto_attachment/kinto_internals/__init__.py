"""Every use of what Kinto, Cornice and ``transaction`` do not document, with its reason.

A new version of one of them may change these, and these only: ``tests/test_kinto_internals.py``
has a test for each, named like the function. That is why ``setup.cfg`` bounds the version of Kinto.
"""

import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

import colander
import transaction
from kinto.authorization import AuthorizationPolicy
from kinto.authorization import RouteFactory as RouteFactory
from kinto.core.cornice.errors import Errors
from kinto.core.errors import raise_invalid
from kinto.core.events import ACTIONS, EventCollector
from kinto.core.resource import has_null_character as has_null_character
from kinto.core.resource.schema import HeaderSchema, PermissionsSchema
from kinto.core.schema import HeaderQuotedInteger
from kinto.core.storage import postgresql
from kinto.core.utils import prefixed_principals as prefixed_principals
from kinto.core.utils import sqlalchemy
from kinto.plugins.default_bucket import resource_create_object
from kinto.views.buckets import Bucket
from kinto.views.collections import Collection
from kinto.views.records import Record
from pyramid.httpexceptions import HTTPNotFound
from pyramid.interfaces import IRequestExtensions, IRoutesMapper


RECORD_PERMISSIONS = Record.permissions
PERMISSIONS_SCHEMA = PermissionsSchema(name="permissions", permissions=RECORD_PERMISSIONS)
DATABASE_ERRORS = (sqlalchemy.exc.SQLAlchemyError,) if sqlalchemy else ()
"""What a commit raises, unlike Kinto's own calls of the database, which raise BackendError."""


class ETag(HeaderQuotedInteger):
    """Kinto's node for an ETag or ``*``, without what its pattern lets pass to fail later."""

    validator = colander.Regex(r'^("[0-9]{1,18}"|\*)$', msg=HeaderQuotedInteger.error_message)


class PreconditionsSchema(HeaderSchema):
    """The headers of a request on an attachment."""

    if_match = ETag(name="If-Match")
    if_none_match = ETag(name="If-None-Match")


HEADER_SCHEMA = PreconditionsSchema()  # It is costly to make.
PRECONDITIONS = [node.name for node in HEADER_SCHEMA]


# Kinto's storage (kinto.core.storage)

STREAMED_AT_ONCE = 10_000
"""How many rows are in memory."""


def max_fetched(storage: Any) -> float:
    """Return how many objects ``list_all`` returns at the most, without a sign that there are more.

    (``_max_fetch_size`` of the PostgreSQL backend. The one in memory has no limit.)
    """
    return getattr(storage, "_max_fetch_size", math.inf)


def parents_beginning_with(text: str) -> str:
    """Return the pattern of the parents that begin with a text.

    The backends make a ``LIKE`` or a regular expression of it. A plain ``_`` stands for any
    character in a ``LIKE``, so that no index would know where to begin.
    """
    return text.replace("_", r"\_") + "*"


def is_postgresql(storage: Any) -> bool:
    return isinstance(storage, postgresql.Storage)


def execute(storage: Any, statements: str, parameters: Mapping[str, Any]) -> Any:
    """Return the result of SQL in the running transaction, ``None`` if it is not PostgreSQL.

    (``client.connect`` of the PostgreSQL backend. Its driver is psycopg2, which sends several
    statements at once, and returns the result of the last; SQLAlchemy would take longer to build a
    query than PostgreSQL to answer it.)
    """
    if not is_postgresql(storage):
        return None
    with storage.client.connect() as session:
        return session.connection().exec_driver_sql(statements, parameters)


def stream(storage: Any, query: str) -> Iterator[Any] | None:
    """Return the rows of SQL, read as they are consumed, or ``None`` if it is not PostgreSQL.

    :raises BackendError: while they are consumed.
    """
    if not is_postgresql(storage):
        return None
    return _streamed(storage.client, query)


def _streamed(client: Any, query: str) -> Iterator[Any]:
    with client.connect(readonly=True) as session:
        options = {"yield_per": STREAMED_AT_ONCE}
        yield from session.execute(sqlalchemy.text(query), execution_options=options)


# Permissions (kinto.authorization)


class _ReadingContext(RouteFactory):
    """The context of reading records that a request is not about.

    Kinto's own is made from the route of a request: this one sets what ``check_permission`` reads.
    """

    resource_name = "record"
    required_permission = "read"

    def __init__(self, request: Any):
        self._check_permission = request.registry.permission.check_permission
        self._settings = request.registry.settings


def granting(object_uri: str, permission: str) -> list[tuple[str, str]]:
    """Return what grants a permission on an object, ``(object URI, permission)``."""
    return AuthorizationPolicy().get_bound_permissions(object_uri, permission)


def may_read(request: Any, record_uris: Iterable[str]) -> bool:
    """Return whether the user of a request may read any of these records."""
    permissions = {one for uri in record_uris for one in granting(uri, "read")}
    return _ReadingContext(request).check_permission(prefixed_principals(request), permissions)


# A change of a record by Kinto's own resource (kinto.core.resource)


def record_request(request: Any, method: str) -> Any:
    """Return a request on the record of a request on its attachment.

    It has all that Kinto's resource layer looks at, as a request of a batch (``build_request``,
    which takes much longer). Its route is set on it only: all threads share the routes themselves.
    ``Response-Behavior`` is left out: the events need all of the record.
    """
    # The variables of CGI have upper-case names (PEP 3333).
    environ = {name: value for name, value in request.environ.items() if name.isupper()}
    environ |= {"REQUEST_METHOD": method, "QUERY_STRING": "", "CONTENT_LENGTH": "0"}
    environ |= {"PATH_INFO": environ["PATH_INFO"].rpartition("/attachment")[0]}
    environ |= {"CONTENT_TYPE": "application/json", "wsgi.url_scheme": request.scheme}
    # Its class has the properties that extensions add: adding them again would make another class.
    made = type(request)(environ)
    made.registry, made.parent = request.registry, request
    for name, function in request.registry.getUtility(IRequestExtensions).methods.items():
        setattr(made, name, function.__get__(made))
    made.matched_route = request.registry.getUtility(IRoutesMapper).get_route("record-object")
    made.matchdict = {k: v for k, v in request.matchdict.items() if k != "upload_id"}
    made.errors, made.info = Errors(), {}
    _authenticate_as(made, request)
    names = PRECONDITIONS if method != "GET" else ()  # Those of a download are about the file.
    sent = {name: request.headers[name] for name in names if name in request.headers}
    header = deserialize(made, "header", HEADER_SCHEMA, sent) if sent else {}
    made.validated = {"header": header, "querystring": {}, "body": {}}
    return made


def _authenticate_as(made: Any, request: Any) -> None:
    # First, since these two are only set on the way (kinto.core.initialization).
    made.prefixed_principals = request.prefixed_principals
    if request.prefixed_userid is not None:
        made.authn_type = request.authn_type
        made.selected_userid = request.selected_userid


def resource_of(context: Any) -> Any:
    """Return Kinto's resource for the request of a context.

    (``RouteFactory`` makes one, if not for reading; another one would ask for the timestamp again.)
    """
    context._resource = context._resource or Record(context.record_request, context=context)
    return context._resource


def parent_of(context: Any) -> str:
    """Return the URI of the collection of the record of a context (``Model.parent_id``)."""
    return resource_of(context).model.parent_id


def check_preconditions(resource: Any, current: Any, must_exist: bool) -> Any:
    """Return the record, unless Kinto would refuse the request before it looks at its body.

    :raises HTTPBadRequest: the id is not one that a record can have.
    :raises HTTPNotFound: there is no record, and there must be one.
    :raises HTTPPreconditionFailed: ``If-Match`` or ``If-None-Match`` do not hold.
    """
    resource._raise_400_if_invalid_id(resource.object_id)
    current = resource._get_object_or_404(resource.object_id) if must_exist else current
    resource._raise_412_if_modified(current)
    return current


def change_record(context: Any, body: dict[str, Any]) -> Any:
    """Return Kinto's response on a change of the record of a context.

    It is a PATCH, or a PUT if there is no record. (The method is also what history keeps.)
    """
    made = context.record_request
    made.validated["body"] = body
    made.method = "PATCH" if context.current_object else "PUT"
    resource = resource_of(context)
    if context.current_object:
        resource.patch()
    else:
        # It would look for the record once more, and make a response that nobody gets.
        resource._get_object_or_404 = _raise_not_found
        resource.put()
    return made.response


def _raise_not_found(object_id: str) -> NoReturn:
    raise HTTPNotFound()


def remove_attribute(context: Any, name: str) -> Any:
    """Return Kinto's response on the removal of an attribute: a merge patch with null (RFC 7396).

    (A resource reads the type of the patch when it is made, hence another one.)
    """
    made = context.record_request
    made.headers["Content-Type"] = "application/merge-patch+json"
    made.validated["body"] = {"data": {name: None}}
    Record(made, context=context).patch()
    return made.response


def deserialize(request: Any, location: str, schema: Any, value: Any) -> Any:
    """Return what a schema makes of a value.

    :raises HTTPBadRequest: as Kinto's own, since Cornice's validation is for whole requests.
    """
    try:
        return schema.deserialize(value)
    except colander.Invalid as error:
        for name, description in error.asdict().items():
            raise_invalid(request, location=location, name=name, description=description)


# Events (kinto.core.events)


class Changes(EventCollector):
    """Kinto's collector, which also knows the request of each change.

    (Changes of one kind by all requests of a batch become one event, with the first request.)

    :ivar before: ``{URI: what the object was before each change of it}``.
    :ivar deleted: the URIs of what was deleted, also if it was made anew.
    """

    def __init__(self) -> None:
        super().__init__()
        self._requests: dict[int, tuple[Any, Any]] = {}
        self.before: defaultdict[str, list[Any]] = defaultdict(list)
        self.deleted: set[str] = set()

    def add_event(self, *arguments: Any) -> None:
        """Collect changes (``EventCollector.add_event``)."""
        resource_name, parent_id, action, _, impacted, request = arguments
        for change in impacted if action != ACTIONS.READ else ():
            # With the change itself, so that its id is not reused.
            self._requests[id(change)] = change, request
            if old := change.get("old"):
                uri = f"{parent_id}/{resource_name}s/{old['id']}"
                self.before[uri].append(old)
                if action == ACTIONS.DELETE:
                    self.deleted.add(uri)
        super().add_event(*arguments)

    def request_of(self, change: dict[str, Any]) -> Any:
        """Return the request that made a change, or ``None``."""
        return self._requests.get(id(change), (None, None))[1]


def collect_changes(request: Any) -> None:
    """Collect the changes of a request, and of all that is done on its behalf, by :class:`Changes`.

    (Kinto makes its own collector at the first event, if there is none in ``bound_data``.)
    """
    request.bound_data.setdefault("resource_events", Changes())


def request_of(event_request: Any, change: dict[str, Any]) -> Any:
    """Return the request that made a change, among those that an event may be about.

    Integrations also call Kinto's listeners with changes and a request of their own.
    """
    collected = getattr(event_request, "bound_data", {}).get("resource_events")
    found = collected.request_of(change) if isinstance(collected, Changes) else None
    return found or event_request


def objects_before(request: Any, uri: str) -> list[Any]:
    """Return what an object was before each change of it in this transaction."""
    collected = getattr(request, "bound_data", {}).get("resource_events")
    return collected.before.get(uri, []) if isinstance(collected, Changes) else []


def is_deleted(request: Any, uri: str) -> bool:
    """Return whether an object was deleted in this transaction."""
    collected = getattr(request, "bound_data", {}).get("resource_events")
    return isinstance(collected, Changes) and uri in collected.deleted


def notify_changes(request: Any) -> None:
    """Notify the listeners of the changes so far (``notify_resource_events_before``)."""
    for event in request.get_resource_events():
        request.registry.notify(event)


def forget_changes(request: Any) -> None:
    """Forget what a request has read, and its events, which were notified or did not happen."""
    collected = request.bound_data.get("resource_events")
    request.bound_data.clear()
    if collected is not None:
        request.bound_data["resource_events"] = type(collected)()


# Transactions (pyramid_tm, transaction)


def is_in_batch(request: Any) -> bool:
    """Return whether a request is one of a batch (``build_request`` sets its parent)."""
    return hasattr(request, "parent")


class CommitHooks:
    """The hooks of the running transaction, to be added to those that follow it.

    Kinto notifies ``AfterResourceChanged`` in such a hook, of the transaction that runs when a
    request begins (``setup_transaction_hook``).
    """

    def __init__(self) -> None:
        running = transaction.get()
        self._before_commit = list(running.getBeforeCommitHooks())
        self._after_commit = list(running.getAfterCommitHooks())

    def add_to(self, running: Any) -> None:
        """Add the hooks to another transaction."""
        for hook in self._before_commit:
            running.addBeforeCommitHook(*hook)
        for hook in self._after_commit:
            running.addAfterCommitHook(*hook)


def is_in_doubt() -> bool:
    """Return whether it is unknown if the failed commit of this hook was done after all.

    SQLAlchemy marks the error of a lost connection; ``transaction`` calls the hooks while it
    handles that error.
    """
    return getattr(sys.exc_info()[1], "connection_invalidated", False)


# The default bucket (kinto.plugins.default_bucket)


def announce_collection(request: Any, collection_uri: str) -> None:
    """Make Kinto's records believe in a collection that is about to be created.

    (Where the plugin leaves those that it created, and where ``Record`` looks for its collection.)
    """
    request.bound_data.setdefault("collections", {})[collection_uri] = {}


def create_default_parents(request: Any, bucket_uri: str, collection_uri: str) -> None:
    """Create the bucket and the collection of an upload if they do not exist."""
    resource_create_object(request, Bucket, bucket_uri)
    resource_create_object(request, Collection, collection_uri)
    # Another request may have created it a moment before, with a schema.
    request.bound_data["collections"].pop(collection_uri, None)
