"""Links to the file of a record, which need no credentials, and end."""

import time
from typing import Any

from kinto.core import Service
from kinto.core.authorization import DYNAMIC

from kinto_attachment import errors, signatures
from kinto_attachment.http.attachment import attachment
from kinto_attachment.http.download import file_of, presigned
from kinto_attachment.http.files import files as served_files
from kinto_attachment.http.record import AttachmentRouteFactory
from kinto_attachment.http.schemas import LINK
from kinto_attachment.http.transactions import Transactions
from kinto_attachment.storage.contract import LocalFiles, PresignedFiles


DEFAULT_SECONDS = 300

link = Service(
    name="attachment-link",
    path=f"{attachment.path}/link",
    description="A link to the file attached to a record",
    factory=AttachmentRouteFactory,
)


@link.get(permission=DYNAMIC, operation_id="link_file", **LINK)
def link_file(request: Any) -> dict[str, Any]:
    """Return a link to the file of the record, and when it ends."""
    attachments = request.registry.attachments
    settings = attachments.settings
    seconds = _expires_in(request, settings.link_max_seconds)
    file = file_of(request)
    since, expires = signatures.period(time.time(), seconds, settings.link_max_seconds)
    request.response.headers["Cache-Control"] = "no-store"
    if isinstance(attachments.files, LocalFiles) and settings.link_secret:
        signature = signatures.sign(settings.link_secret, file.key, expires)
        query = {"expires": expires, "signature": signature}
        url = request.route_url(served_files.name, subpath=file.key, _query=query)
    elif isinstance(attachments.files, PresignedFiles):
        Transactions(request).restart()
        url = presigned(attachments.files, file, since, expires)
    else:
        raise errors.no_links()
    return {"location": url, "expires": expires}


def _expires_in(request: Any, max_seconds: int) -> int:
    """Return for how many seconds a link is asked for.

    :raises HTTPBadRequest: it is no number, or too large.
    """
    text = request.GET.get("expires_in", str(min(DEFAULT_SECONDS, max_seconds)))
    is_number = text.isascii() and text.isdigit() and len(text) < 16
    if not (is_number and 1 <= int(text) <= max_seconds):
        raise errors.wrong_expiry(max_seconds)
    return int(text)
