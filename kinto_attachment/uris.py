"""The URIs of Kinto's objects, without the version of the API: ``/buckets/{id}/collections/…``."""


def record_uri(collection_uri: str, record_id: str) -> str:
    """Return the URI of a record, with its id as it is, whatever is in it."""
    return f"{collection_uri}/records/{record_id}"


def parent_uri(object_uri: str) -> str:
    """Return the URI of the collection of a record, or of the bucket of a collection."""
    return object_uri.rsplit("/", 2)[0]


def id_of(object_uri: str) -> str:
    """Return the last id in a URI."""
    return object_uri.rsplit("/", 1)[1]


def ids_of_collection(collection_uri: str) -> tuple[str, str]:
    """Return the ids of the bucket and of the collection."""
    _, _, bucket_id, _, collection_id = collection_uri.split("/")
    return bucket_id, collection_id
