"""Kinto's default bucket (``kinto.plugins.default_bucket``), for uploads.

That plugin reads the body of a request into memory and builds another request from it. Here a
request on an attachment in the default bucket becomes one on the user's own bucket, before Kinto
looks for its route, whichever plugin is listed first. The bucket and the collection of an upload
are created by the plugin's own function, in the transaction of the upload.
"""

import re
from typing import Any

from kinto.core.errors import raise_invalid
from kinto.core.storage.exceptions import ObjectNotFoundError
from kinto.core.utils import instance_uri
from pyramid.httpexceptions import HTTPForbidden, HTTPMethodNotAllowed
from pyramid.settings import asbool

from kinto_attachment import kinto_internals


ATTACHMENT = re.compile(
    r"(?P<version>/[^/]+)/buckets/default"
    r"(?P<rest>/collections/[^/]+/records/[^/]+/attachment(?P<uploads>/uploads(/[^/]+)?)?(/link)?/?)"
)
READING_METHODS = ("GET", "HEAD")
METHODS = ("POST", "DELETE", *READING_METHODS)
UPLOAD_METHODS = ("POST", "HEAD", "PATCH", "DELETE")


def rewrite_path(event: Any) -> None:
    """Make a request on an attachment in the default bucket one on the user's own bucket.

    :raises HTTPForbidden: the request has no credentials, which Kinto answers by 401.
    :raises HTTPMethodNotAllowed: the server is read-only.
    """
    request = event.request
    # As it came: it may be no UTF-8, which Kinto refuses.
    path = ATTACHMENT.fullmatch(request.environ["PATH_INFO"])
    is_served = "default_bucket" in request.registry.api_capabilities
    if not (is_served and path):
        return
    # That of OPTIONS, which has no credentials, is the plugin's.
    if request.method not in (UPLOAD_METHODS if path["uploads"] else METHODS):
        return
    if request.authenticated_userid is None:
        raise HTTPForbidden()
    is_reading = request.method in READING_METHODS and not path["uploads"]
    if asbool(request.registry.settings["readonly"]) and not is_reading:
        raise HTTPMethodNotAllowed()
    own = f"{path['version']}/buckets/{request.default_bucket_id}{path['rest']}"
    request.environ["PATH_INFO"] = own
    request.attachment_in_default_bucket = True


def is_targeted_by(request: Any) -> bool:
    """Return whether a request was on the default bucket."""
    return getattr(request, "attachment_in_default_bucket", False)


def will_create_collection(request: Any) -> bool:
    """Return whether an upload creates its collection, and announce that to Kinto.

    :raises HTTPBadRequest: no collection can have that id.
    """
    id_ = request.matchdict["collection_id"]
    bucket_uri, collection_uri = _parent_uris(request)
    try:
        request.registry.storage.get("collection", bucket_uri, id_)
        return False
    except ObjectNotFoundError:
        generators = request.registry.id_generators
        if not generators.get("collection", generators[""]).match(id_):
            raise_invalid(request, location="path", description="Invalid collection id")
        kinto_internals.announce_collection(request, collection_uri)
        return True


def create_parents(request: Any) -> None:
    """Create the bucket and the collection of an upload if they do not exist."""
    kinto_internals.create_default_parents(request, *_parent_uris(request))


def _parent_uris(request: Any) -> tuple[str, str]:
    ids = request.matchdict
    bucket_id, collection_id = ids["bucket_id"], ids["collection_id"]
    return (
        instance_uri(request, "bucket", id=bucket_id),
        instance_uri(request, "collection", bucket_id=bucket_id, id=collection_id),
    )
