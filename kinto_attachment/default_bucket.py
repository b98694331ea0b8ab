"""Kinto's default bucket (``kinto.plugins.default_bucket``), for uploads.

That plugin reads the body of a request into memory and builds another request from it. Here a
request on an attachment in the default bucket becomes one on the user's own bucket, before Kinto
looks for its route, whichever plugin is listed first. What an upload finds missing is created by
the plugin's own function, in the transaction of the upload.
"""

import re

from kinto.core.errors import raise_invalid
from kinto.core.storage.exceptions import ObjectNotFoundError
from kinto.core.utils import instance_uri
from kinto.plugins.default_bucket import resource_create_object
from kinto.views.buckets import Bucket
from kinto.views.collections import Collection
from pyramid.httpexceptions import HTTPForbidden, HTTPMethodNotAllowed
from pyramid.settings import asbool


ATTACHMENT = re.compile(
    r"(?P<version>/[^/]+)/buckets/default(?P<rest>/collections/[^/]+/records/[^/]+/attachment/?)"
)
METHODS = ("POST", "DELETE")


def is_asked_for(request):
    """Return whether a request is on an attachment in the default bucket, by that name."""
    return bool(
        "default_bucket" in request.registry.api_capabilities
        and request.method in METHODS
        and _path(request)
    )


def resolve(event):
    """Have a request on an attachment in the default bucket find the user's own bucket.

    :raises HTTPForbidden: nobody is authenticated, which Kinto tells as a 401.
    :raises HTTPMethodNotAllowed: the server is read-only.
    """
    request = event.request
    if not is_asked_for(request):
        return
    if request.authenticated_userid is None:
        raise HTTPForbidden()
    if asbool(request.registry.settings["readonly"]):
        raise HTTPMethodNotAllowed()
    path = _path(request)
    own = f"{path['version']}/buckets/{request.default_bucket_id}{path['rest']}"
    request.environ["PATH_INFO"] = own
    request.attachment_in_default_bucket = True


def is_meant_by(request):
    """Return whether a request was on the default bucket."""
    return getattr(request, "attachment_in_default_bucket", False)


def foresee_collection(request):
    """Return whether the collection of an upload is to be created, and have Kinto believe in it.

    :raises HTTPBadRequest: no collection can have that id.
    """
    ids = request.matchdict
    bucket_uri, collection_uri = _parent_uris(request)
    try:
        request.registry.storage.get("collection", bucket_uri, ids["collection_id"])
        return False
    except ObjectNotFoundError:
        generators = request.registry.id_generators
        if not generators.get("collection", generators[""]).match(ids["collection_id"]):
            raise_invalid(request, location="path", description="Invalid collection id")
        # Where the plugin leaves it, and where Kinto's records look for it.
        request.bound_data.setdefault("collections", {})[collection_uri] = {}
        return True


def create_parents(request):
    """Create the bucket and the collection of an upload, where they do not exist."""
    bucket_uri, collection_uri = _parent_uris(request)
    resource_create_object(request, Bucket, bucket_uri)
    resource_create_object(request, Collection, collection_uri)
    # Somebody else may have created it a moment before, with a schema.
    request.bound_data["collections"].pop(collection_uri, None)


def _path(request):
    # As it came: it may be no UTF-8, which is for Kinto to refuse.
    return ATTACHMENT.fullmatch(request.environ["PATH_INFO"])


def _parent_uris(request):
    ids = request.matchdict
    bucket_id, collection_id = ids["bucket_id"], ids["collection_id"]
    return (
        instance_uri(request, "bucket", id=bucket_id),
        instance_uri(request, "collection", bucket_id=bucket_id, id=collection_id),
    )
