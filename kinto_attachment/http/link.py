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
from kinto_attachment.settings.values import Settings
from kinto_attachment.storage.contract import LocalFiles, PresignedFiles, Storage


DEFAULT_SECONDS = 300

link = Service(
    name="attachment-link",
    path=f"{attachment.path}/link",
    description="A link to the file attached to a record",
    factory=AttachmentRouteFactory,
)


def makes_links(files: Storage, settings: Settings) -> bool:
    """Return whether there are links to the files of a storage."""
    return isinstance(files, PresignedFiles) or (
        isinstance(files, LocalFiles) and bool(settings.link_secret)
    )


@link.get(permission=DYNAMIC, operation_id="link_file", **LINK)
def link_file(request: Any) -> dict[str, Any]:
    """Return a link to the file of the record, and when it ends."""
    attachments = request.registry.attachments
    settings = attachments.settings
    seconds = _expires_in(request, settings.link_max_seconds)
    file = file_of(request)
    if not makes_links(attachments.files, settings):
        raise errors.no_links()
    since, expires = signatures.period(time.time(), seconds, settings.link_max_seconds)
    request.response.headers["Cache-Control"] = "no-store"
    if isinstance(attachments.files, PresignedFiles):
        Transactions(request).restart()
        url = presigned(attachments.files, file, since, expires)
    else:
        signature = signatures.sign(settings.link_secret, file.key, expires)
        query = {"expires": expires, "signature": signature}
        url = request.route_url(served_files.name, subpath=file.key, _query=query)
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
