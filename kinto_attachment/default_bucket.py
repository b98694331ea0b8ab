"""The default bucket: an attachment in it is one in the bucket of the user.

Kinto's plugin for it reads the body of a request into memory, and sends it to the user's bucket in
a request of its own. For attachments, the path of the request itself is changed instead, before
Kinto looks for what serves it, so that the body stays a stream.
"""

import re

from pyramid.events import NewRequest
from pyramid.httpexceptions import HTTPForbidden

from kinto_attachment import records


CAPABILITY = "default_bucket"
"""What ``kinto.plugins.default_bucket`` says that it is there with."""

PATH = re.compile(r"(.*/buckets/)default(/collections/[^/]+/records/[^/]+/attachment)")


def includeme(config):
    """Have requests on attachments in the default bucket go to the bucket of the user."""
    config.add_subscriber(on_new_request, NewRequest)


def on_new_request(event):
    """Change the path of a request on an attachment in the default bucket.

    (:class:`kinto_attachment.records.AttachmentRouteFactory` creates bucket and collection.)

    :raises HTTPForbidden: the user is not authenticated, and so has no bucket.
    """
    request = event.request
    path = PATH.fullmatch(request.environ["PATH_INFO"])
    served = CAPABILITY in request.registry.api_capabilities
    if path and served and request.method in records.RECORD_METHODS:
        if request.authenticated_userid is None:
            raise HTTPForbidden()
        request.environ["PATH_INFO"] = path[1] + request.default_bucket_id + path[2]
        request.creates_parents = True
