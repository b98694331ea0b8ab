"""The verbs: receive, attach, detach. Here bytes, files and records meet, in the one safe order."""

from dataclasses import asdict

import transaction

from kinto_attachment import errors, records, uploads
from kinto_attachment.storage import TransactionFiles, stored_name


def receive(request):
    """Return the form of a request, its file staged.

    :raises HTTPException: the form is refused, and nothing is left of it.
    """
    settings = request.registry.attachment_settings
    own = _own_settings(request)
    form = uploads.read_form(
        request.environ["wsgi.input"].read,
        request.headers.get("Content-Type", ""),
        _content_length(request),
        stage=lambda filename, mimetype: _stage(request, filename, mimetype),
        max_field_bytes=settings.max_field_size_bytes,
        max_file_bytes=own.max_size_bytes,
        mimetype_by_extension=own.mimetypes,
        gzip_level=settings.gzip_level if own.gzipped else None,
    )
    try:
        records.check_permissions_field(request.context, form.permissions)
    except BaseException:
        form.upload.staged.discard()
        raise
    return form


def attach(request, form, location_of):
    """Attach the file of a form to the record.

    :param location_of: gives the URL of a stored file's name.
    :returns: Kinto's response on the change of the record, and the attachment.
    :raises HTTPException: Kinto refuses the change. Then the new file goes, and the previous stays.
    """
    files = TransactionFiles(request.registry.attachment_storage)
    upload = form.upload
    try:
        name = upload.staged.publish()
    finally:
        upload.staged.discard()
    files.created(name)
    attachment = {**asdict(upload.description), "location": location_of(name)}
    if upload.original is not None:
        attachment["original"] = asdict(upload.original)
    changes = {k: v for k, v in form.data.items() if k not in records.SERVER_FIELDS}
    try:
        response = records.write(request, {**changes, "attachment": attachment}, form.permissions)
        # After the record: whoever writes the same one waits there, and then sees this link.
        previous = records.replace_link(request, name)
    except BaseException:
        # The default bucket answers a refusal with a response, on which the transaction would
        # be committed.
        transaction.doom()
        raise
    if previous is not None:
        files.obsolete(previous)
    _count_when_committed(request, upload.description.size)
    return response, attachment


def detach(request):
    """Detach the file from the record, if there is one.

    :returns: Kinto's response on the change of the record, or ``None`` where nothing was attached.
    :raises HTTPException: Kinto refuses the change, and the file stays.
    """
    if not request.context.current_object.get("attachment"):
        return None
    files = TransactionFiles(request.registry.attachment_storage)
    response = records.clear_attachment(request)
    previous = records.remove_link(request)
    if previous is not None:
        files.obsolete(previous)
    return response


def _own_settings(request):
    ids = request.matchdict
    return request.registry.attachment_settings.of(ids["bucket_id"], ids["collection_id"])


def _stage(request, filename, mimetype):
    settings = _own_settings(request)
    if not settings.allows(filename):
        raise errors.extension_not_allowed()
    ids = request.matchdict
    folder = settings.folder_of(ids["bucket_id"], ids["collection_id"])
    pattern = settings.filename_pattern
    appended = ""
    if settings.gzipped:
        appended, mimetype = uploads.GZIP_EXTENSION, uploads.GZIP_MIMETYPE
    name = stored_name(filename, folder, settings.randomize, pattern, ids["id"], appended)
    unique = settings.randomize and "{filename}" in pattern
    return request.registry.attachment_storage.stage(name, mimetype, unique=unique)


def _content_length(request):
    """Return how many bytes there are to read, or ``None`` where the server marks their end."""
    if request.content_length is None and not request.environ.get("wsgi.input_terminated"):
        return 0
    return request.content_length


def _count_when_committed(request, size):
    def count(success):
        if success:
            request.registry.metrics.count("attachments_uploads")
            request.registry.metrics.count("attachments_bytes", count=size)

    transaction.get().addAfterCommitHook(count)
