"""The verbs: receive, attach, detach, follow, release.

Here bytes, files and records meet, in the one safe order.
"""

import contextlib
import copy
from collections import defaultdict
from dataclasses import asdict

import transaction
from kinto.core.storage.exceptions import IntegrityError

from kinto_attachment import default_bucket, errors, locks, records
from kinto_attachment.form.form import read_form
from kinto_attachment.form.gzip import GZIP_EXTENSION, GZIP_MIMETYPE
from kinto_attachment.settings.limits import MAX_NAME_BYTES
from kinto_attachment.storage.names import make_key
from kinto_attachment.unit_of_work import TransactionFiles


def receive(request):
    """Return the form of a request, its file staged.

    :raises HTTPException: the form is refused, and nothing is left of it.
    """
    settings = request.registry.attachment_settings
    own = _own_settings(request)
    form = read_form(
        request.environ["wsgi.input"].read,
        request.headers.get("Content-Type", ""),
        _content_length(request),
        stage=lambda filename, mimetype: _stage(request, filename, mimetype),
        max_field_bytes=settings.max_field_size_bytes,
        max_file_bytes=own.max_size_bytes,
        mimetype_by_extension=own.mimetypes,
        gzip_level=settings.gzip_level if own.gzipped else None,
        content_digest=request.headers.get("Content-Digest"),
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
    context = records.context_of(request)
    context.check_preconditions()
    if _attachment(context.current_object) is None:
        return None
    response = records.clear_attachment(request)
    _replace_links(request)
    return response


def foresee_change(record_uri, record):
    """Remember the attachment of a record that a request is about to change.

    (A merge patch changes what Kinto tells as the old record, too: ``recursive_update_dict`` in
    ``kinto.core.utils``.)
    """
    _seen().allowed.setdefault(record_uri, [copy.deepcopy(_attachment(record))])


def follow(request, collection_uri, changes):
    """Let the files follow records that were changed: link those they hold, release the others.

    :param changes: ``{"old": record, "new": record, "writer": request}``, of created ones without
        ``old``. The writer is the request that changed the record.
    :raises HTTPBadRequest: the metadata of a file of ours was changed.
    :raises IntegrityError: a change overwrites another one unseen, which Kinto answers with a 409.
    """
    storage = request.registry.storage
    unsettled = [change for change in changes if not _is_settled(collection_uri, change)]
    carried = [change for change in unsettled if _carries_attachment(change)]
    # Kinto may have read the old record before another request changed it: only the links tell
    # whether there is a file by now.
    ids = {_record_id(change) for change in unsettled if "old" in change or change in carried}
    if not ids:
        return
    linked = {records.uri_of(collection_uri, id_): [] for id_ in ids}
    for link in records.links_of(storage, list(linked)):
        linked[link["record_uri"]].append(link)
    existing = records.current(storage, collection_uri, ids)
    writers = {}
    for change in unsettled:
        record_uri = records.uri_of(collection_uri, _record_id(change))
        if record_uri not in linked:
            continue
        if _record_id(change) in existing:
            _refuse_lost_update(record_uri, change, linked[record_uri])
        _seen().remember(record_uri, linked[record_uri])
        writers[record_uri] = change["writer"]
        if is_trusted(change["writer"]):
            _seen().allowed.setdefault(record_uri, []).append(_attachment(change.get("new")))
    for change in carried:
        if not is_trusted(change["writer"]):
            _refuse_forgery(records.uri_of(collection_uri, _record_id(change)), change)
    let_go = []
    for id_ in ids:
        record_uri = records.uri_of(collection_uri, id_)
        attachment = _attachment(existing.get(id_))
        let_go += _settle(writers[record_uri], record_uri, attachment, linked[record_uri])
    _let_go(request, let_go)


def is_trusted(request):
    """Return whether a request is one of code on the server, which may write metadata."""
    return bool(getattr(request, "_attachment_auto_save", False))


def release(request, field, object_uri):
    """Release the files of all records of a bucket or of a collection that is deleted.

    :param field: ``bucket_uri`` or ``collection_uri``.
    """
    storage = request.registry.storage
    locks.lock_object(storage, object_uri)
    for links, removed in records.remove_links_of(storage, field, object_uri):
        for link in links:
            _seen().remember(link["record_uri"], [link])
        _release_files(request, links, removed)


def foresee_flush(request):
    """Remember the files of all records, since Kinto says that all went when their links went."""
    storage = request.registry.storage
    locks.lock_object(storage, locks.EVERYTHING)
    pages = records.pages_of_links(storage)
    locations = {link["location"] for page in pages for link in page if not _is_kept(request, link)}
    request.bound_data["attachment_flush"] = locations.union(records.released(storage))


def flush(request):
    """Release the files of all records, which are gone."""
    locations = request.bound_data.pop("attachment_flush", ())
    request.registry.attachment_releases.write_down(sorted(locations))


class _Seen:
    """What the running transaction came across.

    Events are told at its end, when what they tell of may have been changed once more.

    :ivar of: ``{record URI: links}``, removed ones too.
    :ivar at_start: the same, as it was when the transaction first saw the record.
    :ivar on: ``{location: links}``.
    :ivar removed: the ids of links that the transaction has removed.
    :ivar settled: ``{record URI: attachment}`` of what was attached or detached with all its links.
    :ivar allowed: ``{record URI: attachments}`` that the record had before, or was given by code on
        the server.
    """

    def __init__(self):
        self.of = {}
        self.at_start = {}
        self.on = defaultdict(list)
        self.removed = set()
        self.settled = {}
        self.allowed = {}

    def knows(self, record_uri):
        """Return whether the transaction has seen the record before."""
        return record_uri in self.at_start

    def remember(self, record_uri, links):
        self.at_start.setdefault(record_uri, links)
        known = self.of.setdefault(record_uri, [])
        for link in links:
            if link not in known:
                known.append(link)
                self.on[link["location"]].append(link)


def _seen():
    running = transaction.get()
    try:
        return running.data(_Seen)
    except KeyError:
        seen = _Seen()
        running.set_data(_Seen, seen)
        return seen


def _write(request, form, name, attachment):
    if records.context_of(request).collection_is_to_come:
        default_bucket.create_parents(request)
        records.look_anew(request)
    if not _names_are_unique(_own_settings(request)):
        request.registry.attachment_releases.take_name(name)
    changes = {k: v for k, v in form.data.items() if k not in records.SERVER_FIELDS}
    response = records.write(request, {**changes, "attachment": attachment}, form.permissions)
    # After the record: whoever writes the same one waits there, and then sees this link.
    _replace_links(request, name, attachment, is_new=response.status_code == 201)
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


def _carries_attachment(change):
    return any(_attachment(change.get(name)) is not None for name in ("old", "new"))


def _record_id(change):
    return (change.get("new") or change["old"])["id"]


def _refuse_lost_update(record_uri, change, links):
    """Refuse a change by code that took no lock, and had read the record before a file came to it.

    :raises IntegrityError: see above.
    """
    if locks.is_locked(record_uri) or _seen().knows(record_uri):
        return
    believed = _attachment(change.get("old"))
    if links and not any(records.locates(believed, link["location"]) for link in links):
        raise IntegrityError(message=f"{record_uri} has got another attachment since it was read")


def _refuse_forgery(record_uri, change):
    old, new = _attachment(change.get("old")), _attachment(change.get("new"))
    if new is None or not _is_of_ours(record_uri, old, new):
        return
    allowed = _seen().allowed.get(record_uri)
    if allowed is None:
        # Changed without a request of its own. What Kinto tells as the old one is what it was, but
        # for a merge patch, and links of earlier plugins do not tell.
        links = _seen().of[record_uri]
        unchanged = records.are_same(old, new) and not any("attachment" in link for link in links)
    else:
        unchanged = _is_among(new, allowed)
    if not unchanged and not _has_source(change["writer"], record_uri, new):
        raise errors.metadata_locked()


def _is_among(value, others):
    return any(records.are_same(value, other) for other in others)


def _is_of_ours(record_uri, old, new):
    """Return whether the metadata of a file of ours is changed.

    Or where a record without has got some: whether it is that of a file that it had before, in the
    same transaction.
    """
    seen = _seen()
    locations = [link["location"] for link in seen.of[record_uri]]
    if old is None:
        return any(records.locates(new, location) for location in locations)
    earlier = [old, *seen.allowed.get(record_uri, ())]
    if any(records.locates(one, location) for one in earlier for location in locations):
        return True
    return records.are_same(old, new) and bool(seen.at_start[record_uri])


def _settle(writer, record_uri, attachment, links):
    """Link the record with the file it carries, and return those links that it lets go."""
    kept = [link for link in links if records.locates(attachment, link["location"])]
    storage = writer.registry.storage
    for link in kept:
        is_changed = not records.are_same(link.get("attachment", attachment), attachment)
        # If not permitted, an earlier change in this transaction is at fault and will be refused.
        if is_changed and _may_have(writer, record_uri, attachment):
            records.add_link(storage, record_uri, link["location"], attachment, link.get("origin"))
    if not kept and attachment is not None:
        _hold(writer, record_uri, attachment)
    return [link for link in links if link not in kept]


def _may_have(writer, record_uri, attachment):
    allowed = _seen().allowed.get(record_uri, ())
    return _is_among(attachment, allowed) or _has_source(writer, record_uri, attachment)


def _hold(writer, record_uri, attachment):
    """Link the record to the file of another one if the metadata is identical.

    Where another transaction releases that file, this waits for its end.
    """
    storage = writer.registry.storage
    for source in _sources(writer, record_uri, attachment):
        if source["id"] in _seen().removed or records.lock_link(storage, source):
            location = source["location"]
            link = records.add_link(storage, record_uri, location, attachment, _origin(source))
            _seen().remember(record_uri, [link])
            return


def _has_source(writer, record_uri, attachment):
    return any(True for _ in _sources(writer, record_uri, attachment))


def _sources(writer, record_uri, attachment):
    """Return the links on the file of this metadata, of records that the writer may read.

    Who only guesses the metadata gets no hold of the file, and is not told whether it was right.
    """
    locations = records.possible_locations(attachment)
    if not locations:
        return
    storage = writer.registry.storage
    # Those that this transaction has come across are of records that it changes.
    yield from _on_file(
        storage,
        [link for location in locations for link in _seen().on.get(location, ())],
        record_uri,
        attachment,
    )
    for page in records.pages_of_links_on(storage, locations):
        links = _on_file(storage, page, record_uri, attachment)
        if links and _may_read(writer, links):
            yield from (link for link in links if _may_read(writer, [link]))


def _may_read(writer, links):
    return is_trusted(writer) or records.may_read(writer, [link["record_uri"] for link in links])


def _on_file(storage, links, record_uri, attachment):
    locations = records.possible_locations(attachment)
    return [
        link
        for link in links
        if link["location"] in locations and _describes(storage, record_uri, attachment, link)
    ]


def _describes(storage, record_uri, attachment, link):
    if "attachment" in link:
        return records.are_same(link["attachment"], attachment)
    # Links of earlier plugins have no metadata: their records have, but for the one just written.
    if link["record_uri"] == record_uri:
        return False
    collection_uri, _, id_ = link["record_uri"].rsplit("/", 2)
    found = records.current(storage, collection_uri, [id_])
    return records.are_same(_attachment(found.get(id_)), attachment)


def _replace_links(request, location=None, attachment=None, is_new=False):
    """Take the previous links of the record away, and add that on its new file, if any.

    :param is_new: whether the record was created just now, so that it has no previous ones.
    """
    storage = request.registry.storage
    record_uri = request.context.record_uri
    previous = [] if is_new else records.links_of(storage, [record_uri])
    _seen().remember(record_uri, previous)
    if location is not None:
        link = records.add_link(storage, record_uri, location, attachment)
        _seen().remember(record_uri, [link])
    _let_go(request, previous)
    _seen().settled[record_uri] = attachment


def _let_go(request, links):
    """Remove links, and release their files."""
    if links:
        _release_files(request, links, records.remove_links(request.registry.storage, links))


def _release_files(request, links, removed):
    """Release the files of links, those of the ids ``removed`` by this very transaction."""
    _seen().removed |= removed
    locations = {link["location"] for link in links if not _is_kept(request, link)}
    request.registry.attachment_releases.write_down(sorted(locations))


def _is_settled(collection_uri, change):
    """Return whether a change is that of attaching or detaching itself."""
    settled = _seen().settled
    record_uri = records.uri_of(collection_uri, _record_id(change))
    return (
        "new" in change
        and record_uri in settled
        and records.are_same(settled[record_uri], _attachment(change["new"]))
    )


def _is_kept(request, link):
    _, _, bucket_id, _, collection_id = _origin(link).split("/")
    settings = request.registry.attachment_settings
    return settings.for_collection(bucket_id, collection_id).keep_old_files


def _origin(link):
    return link.get("origin") or link["collection_uri"]


def _files(request):
    running = transaction.get()
    try:
        return running.data(TransactionFiles)
    except KeyError:
        registry = request.registry
        doubt = registry.attachment_releases.doubt
        files = TransactionFiles(registry.attachment_storage, doubt)
        running.set_data(TransactionFiles, files)
        return files


def _own_settings(request):
    ids, settings = request.matchdict, request.registry.attachment_settings
    return settings.for_collection(ids["bucket_id"], ids["collection_id"])


def _stage(request, filename, mimetype):
    settings = _own_settings(request)
    if not settings.allows(filename):
        raise errors.extension_not_allowed()
    ids = request.matchdict
    folder = settings.folder_of(ids["bucket_id"], ids["collection_id"])
    if any(len(name.encode()) > MAX_NAME_BYTES for name in folder.split("/")):
        raise errors.ids_too_long(MAX_NAME_BYTES)
    pattern = settings.filename_pattern
    appended = ""
    if settings.gzipped:
        appended, mimetype = GZIP_EXTENSION, GZIP_MIMETYPE
    name = make_key(filename, folder, settings.randomize, pattern, ids["id"], appended)
    unique = _names_are_unique(settings)
    return request.registry.attachment_storage.stage(name, mimetype, unique=unique)


def _names_are_unique(settings):
    return settings.randomize and "{filename}" in settings.filename_pattern


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
