"""What earlier plugins left in Kinto's storage."""

import transaction


def make_legacy(app, resource="attachments"):
    """Turn the links of the app into those of earlier plugins, and return the records' URIs."""
    links = app.links()
    names = ("location", "record_uri", "collection_uri", "bucket_uri")
    app.registry.attachments.links.remove(links)
    for link in links:
        old = {name: link[name] for name in names}
        app.registry.storage.create(resource, "__attachments__", old)
    transaction.commit()
    return sorted(link["record_uri"] for link in links)
