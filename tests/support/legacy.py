"""What earlier plugins left in Kinto's storage."""

import hashlib
import uuid

import transaction


BUCKET = "/buckets/blog"
PHOTOS = f"{BUCKET}/collections/photos"
ARTICLES = f"{BUCKET}/collections/articles"


def make_legacy(app, resource="attachments"):
    """Turn the links of the app into those of earlier plugins, and return the records' URIs."""
    links = app.links()
    names = ("location", "record_uri", "collection_uri", "bucket_uri")
    app.registry.attachments.links.change([], links)
    for link in links:
        old = {name: link[name] for name in names}
        app.registry.storage.create(resource, "__attachments__", old)
    transaction.commit()
    return sorted(link["record_uri"] for link in links)


def leave_attachments(registry, store, base_url, writer):
    """Leave 50 records with files, their links with both names of a resource, and a copy.

    :param writer: the principal who may write the bucket.
    :returns: ``{record URI: key}``.
    """
    storage, keys = registry.storage, {}
    storage.create("bucket", "", {"id": "blog"})
    registry.permission.add_principal_to_ace(BUCKET, "write", writer)
    for collection_uri, ids in ((PHOTOS, range(40)), (ARTICLES, range(40, 50))):
        storage.create("collection", BUCKET, {"id": collection_uri.rpartition("/")[2]})
        for number in ids:
            record_uri = f"{collection_uri}/records/r{number}"
            key = f"{collection_uri.replace(BUCKET + '/collections', 'blog')}/{uuid.uuid4()}.txt"
            content = b"file %d" % number
            store.put(key, content)
            attachment = _metadata(f"{number}.txt", base_url + key, content)
            record = {"id": f"r{number}", "title": f"No. {number}", "attachment": attachment}
            storage.create("record", collection_uri, record)
            link = {
                "location": key,
                "bucket_uri": BUCKET,
                "collection_uri": collection_uri,
                "record_uri": record_uri,
            }
            storage.create("attachments" if number % 2 else "", "__attachments__", link)
            keys[record_uri] = key
    copied = storage.get("record", PHOTOS, "r0")["attachment"]
    storage.create("record", PHOTOS, {"id": "copied", "attachment": copied})
    keys[f"{PHOTOS}/records/copied"] = keys[f"{PHOTOS}/records/r0"]
    transaction.commit()
    return keys


def _metadata(filename, location, content):
    return {
        "filename": filename,
        "location": location,
        "hash": hashlib.sha256(content).hexdigest(),
        "mimetype": "text/plain",
        "size": len(content),
    }
