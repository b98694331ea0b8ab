"""The usual way to attach a file in Kinto: WebOb parses the form, a view hashes, copies."""

import gzip
import hashlib
import io

from kinto.core.utils import build_request
from pyramid.security import NO_PERMISSION_REQUIRED
from pyramid_storage.interfaces import IFileStorage


def includeme(config):
    """Add the usual way beside the plugin, whose storage it takes as a plain pyramid_storage."""
    config.add_route("usual", "/usual/{compression}/{record_path:.+}")
    config.add_view(attach, route_name="usual", permission=NO_PERMISSION_REQUIRED, renderer="json")


def attach(request):
    """Store the file and return the attachment, which the record has got."""
    field = request.POST["attachment"]
    filename, file = field.filename, field.file
    if request.matchdict["compression"] == "gzip":
        filename, file = f"{filename}.gz", io.BytesIO(gzip.compress(file.read()))
        file.seek(0)
    content = file.read()
    storage = request.registry.getUtility(IFileStorage)
    attachment = {
        "filename": filename,
        "hash": hashlib.sha256(content).hexdigest(),
        "mimetype": field.type,
        "size": len(content),
        "location": storage.save_file(file, filename, randomize=True, extensions=()),
    }
    # Under a name of its own: the plugin, which is here as well, follows what is an attachment.
    _put_record(request, {"file": attachment})
    return attachment


def _put_record(request, attributes):
    path = "/" + request.matchdict["record_path"]
    record_request = build_request(
        request, {"method": "PUT", "path": path, "body": {"data": attributes}}
    )
    request.invoke_subrequest(record_request, use_tweens=False)
