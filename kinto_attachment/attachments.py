"""The verbs: receive, attach, detach, follow, release.

Here bytes, files and records meet, in the one safe order.
"""

import contextlib
from dataclasses import asdict

import transaction

from kinto_attachment import default_bucket, errors, records, uploads
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


def attach(request, form, location_of, transactions):
    """Attach the file of a form to the record.

    :param location_of: gives the URL of a stored file's name.
    :param transactions: those of the request.
    :returns: Kinto's response on the change of the record, and the attachment.
    :raises HTTPException: Kinto refuses the change. Then the new file goes, and the previous stays.
    """
    upload = form.upload
    try:
        name = upload.staged.publish()
    finally:
        upload.staged.discard()
    _files(request).created(name)
    attachment = {**asdict(upload.description), "location": location_of(name)}
    if upload.original is not None:
        attachment["original"] = asdict(upload.original)
    response = transactions.run(
        lambda: _write(request, form, name, attachment),
        between=lambda: _handed_over(request, name),
    )
    return response, attachment


def detach(request):
    """Detach the file from the record, if there is one.

    :returns: Kinto's response on the change of the record, or ``None`` where nothing was attached.
    :raises HTTPException: Kinto refuses the change, and the file stays.
    """
    # Not that of the request, which is of an earlier transaction where this is tried again.
    context = records.AttachmentRouteFactory(request)
    context.check_preconditions()
    if not context.current_object.get("attachment"):
        return None
    response = records.clear_attachment(request)
    _replace_links(request)
    return response


def follow(request, collection_uri, changes):
    """Let the files follow records that were changed: link those they hold, release the others.

    :param changes: ``{"old": record, "new": record}``, of created ones without ``old``.
    :raises HTTPBadRequest: the metadata of a file of ours was changed.
    """
    storage = request.registry.storage
    carried = [change for change in changes if any(map(_attachment, change.values()))]
    # What Kinto tells as the old record was read before the lock that an upload waits for, or was
    # waited for: only the links tell whether there is a file by now.
    ids = {_record_id(change) for change in changes if "old" in change or change in carried}
    if not ids:
        return
    linked = {f"{collection_uri}/records/{id_}": [] for id_ in ids}
    for link in records.links_of(storage, list(linked)):
        linked[link["record_uri"]].append(link)
    for record_uri, links in linked.items():
        _remember(request, record_uri, links)
    if not getattr(request, "_attachment_auto_save", False):
        for change in carried:
            _refuse_forgery(request, f"{collection_uri}/records/{_record_id(change)}", change)
    existing = records.current(storage, collection_uri, ids)
    let_go = []
    for id_ in ids:
        record_uri = f"{collection_uri}/records/{id_}"
        attachment = _attachment(existing.get(id_, {}))
        let_go += _settle(request, record_uri, attachment, linked[record_uri])
    _let_go(request, let_go)


def release(request, field, object_uri):
    """Release the files of all records of a bucket or of a collection that is deleted.

    :param field: ``bucket_uri`` or ``collection_uri``.
    """
    records.lock_deleted(request.registry.storage, object_uri)
    for page in records.pages_of_links(request.registry.storage, field, object_uri):
        for link in page:
            _remember(request, link["record_uri"], [link])
        _let_go(request, page)


def foresee_flush(request):
    """Remember the files of all records, since Kinto says that all went when their links went."""
    pages = records.pages_of_links(request.registry.storage)
    locations = {link["location"] for page in pages for link in page if not _is_kept(request, link)}
    request.bound_data["attachment_flush"] = locations


def flush(request):
    """Release the files of all records, which are gone."""
    files = _files(request)
    for location in sorted(request.bound_data.pop("attachment_flush", ())):
        files.obsolete(location)


def _write(request, form, name, attachment):
    records.lock_parents_of(request)
    if default_bucket.is_meant_by(request):
        default_bucket.create_parents(request)
    changes = {k: v for k, v in form.data.items() if k not in records.SERVER_FIELDS}
    response = records.write(request, {**changes, "attachment": attachment}, form.permissions)
    # After the record: whoever writes the same one waits there, and then sees this link.
    _replace_links(request, name, attachment)
    _count_when_committed(request, form.upload.description.size)
    return response


@contextlib.contextmanager
def _handed_over(request, name):
    """Give a new file from the transaction that is undone to the next one."""
    _files(request).hand_over(name)
    try:
        yield
    finally:
        _files(request).created(name)


def _attachment(record):
    return (record or {}).get("attachment")


def _record_id(change):
    return (change.get("new") or change["old"])["id"]


def _refuse_forgery(request, record_uri, change):
    old, new = _attachment(change.get("old")), _attachment(change.get("new"))
    if old and new and _is_of_ours(request, record_uri, old, new):
        # Not by comparing the two: a merge patch changes what Kinto tells as the old one as well
        # (``recursive_update_dict`` in ``kinto.core.utils``).
        unchanged = old == new and not _has_metadata(request, record_uri)
        if not unchanged and _source(request, record_uri, new) is None:
            raise errors.metadata_locked()


def _is_of_ours(request, record_uri, old, new):
    if any(records.locates(old, link["location"]) for link in _remembered(request)[record_uri]):
        return True
    return old == new and bool(_linked_at_start(request)[record_uri])


def _has_metadata(request, record_uri):
    """Return whether the links of a record have its metadata: those of earlier plugins do not."""
    return all("attachment" in link for link in _remembered(request)[record_uri])


def _settle(request, record_uri, attachment, links):
    """Link the record with the file it carries, and return those links that it lets go."""
    kept = [link for link in links if records.locates(attachment, link["location"])]
    storage = request.registry.storage
    for link in kept:
        if link.get("attachment", attachment) != attachment:
            records.add_link(storage, record_uri, link["location"], attachment, link.get("origin"))
    if not kept and attachment:
        _hold(request, record_uri, attachment)
    return [link for link in links if link not in kept]


def _hold(request, record_uri, attachment):
    source = _source(request, record_uri, attachment)
    if source is not None:
        location = source["location"]
        _files(request).keep(location)
        link = records.add_link(
            request.registry.storage, record_uri, location, attachment, _origin(source)
        )
        _remember(request, record_uri, [link])


def _source(request, record_uri, attachment):
    """Return a link on the file that this is the very metadata of, or ``None``."""
    locations = records.possible_locations(attachment)
    if not locations:
        return None
    remembered = [link for links in _remembered(request).values() for link in links]
    stored = records.links_on(request.registry.storage, locations)
    for link in remembered + stored:
        if link["location"] in locations and _describes(request, record_uri, attachment, link):
            return link
    return None


def _describes(request, record_uri, attachment, link):
    if "attachment" in link:
        return link["attachment"] == attachment
    # Links of earlier plugins have no metadata: their records have, but for the one just written.
    if link["record_uri"] == record_uri:
        return False
    collection_uri, _, id_ = link["record_uri"].rsplit("/", 2)
    found = records.current(request.registry.storage, collection_uri, [id_])
    return _attachment(found.get(id_)) == attachment


def _replace_links(request, location=None, attachment=None):
    """Take the previous links of the record away, and add that on its new file, if any."""
    storage = request.registry.storage
    record_uri = records.uri(request)
    previous = records.links_of(storage, [record_uri])
    _remember(request, record_uri, previous)
    if location is not None:
        link = records.add_link(storage, record_uri, location, attachment)
        _remember(request, record_uri, [link])
    _let_go(request, previous)


def _let_go(request, links):
    """Remove links, and release the files that no record holds any more."""
    if not links:
        return
    storage = request.registry.storage
    records.remove_links(storage, links)
    locations = sorted({link["location"] for link in links})
    held = {link["location"] for link in records.links_on(storage, locations)}
    kept = {link["location"] for link in links if _is_kept(request, link)}
    files = _files(request)
    for location in locations:
        if location not in held | kept:
            files.obsolete(location)


def _is_kept(request, link):
    _, _, bucket_id, _, collection_id = _origin(link).split("/")
    return request.registry.attachment_settings.of(bucket_id, collection_id).keep_old_files


def _origin(link):
    return link.get("origin") or link["collection_uri"]


def _remembered(request):
    """Return ``{record URI: links}`` of all that this transaction came across, removed ones too.

    Events are told at its end, when what they tell of may have been changed once more.
    """
    return request.bound_data.setdefault("attachment_links", {})


def _linked_at_start(request):
    """Return ``{record URI: links}`` of what records held when this transaction first saw them."""
    return request.bound_data.setdefault("attachment_links_at_start", {})


def _remember(request, record_uri, links):
    _linked_at_start(request).setdefault(record_uri, links)
    known = _remembered(request).setdefault(record_uri, [])
    known += [link for link in links if link not in known]


def _files(request):
    files = request.bound_data.get("attachment_files")
    if files is None or files.ended:
        files = TransactionFiles(request.registry.attachment_storage)
        request.bound_data["attachment_files"] = files
    return files


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
