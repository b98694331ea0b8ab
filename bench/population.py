"""A server with many attachments, which are made by SQL and as files of one byte."""

import contextlib
import random
import uuid

import sqlalchemy

from bench.client import CONTENTS, Client, form, json_body
from bench.environment import POSTGRESQL
from bench.workloads import PLAIN_RECORD


TEMPLATES = "/buckets/templates/collections/files"
CONTENT = CONTENTS["random"][:1]

# From the records and the link of the server itself, so that they are as it writes them.
ATTACH = """
WITH made AS MATERIALIZED (
    SELECT 'r' || number AS id, gen_random_uuid() || '.txt' AS key,
           date_trunc('ms', localtimestamp) - number * interval '1 ms' AS modified
      FROM generate_series(1, :count) AS number
), records AS (
    INSERT INTO objects (id, parent_id, resource_name, last_modified, data, deleted)
    SELECT made.id, :collection, 'record', modified,
           jsonb_set(data, '{attachment,location}', to_jsonb(key)), FALSE
      FROM made, objects
     WHERE objects.id = 'attached' AND resource_name = 'record'
)
INSERT INTO objects (id, parent_id, resource_name, last_modified, data, deleted)
SELECT encode(sha256(key::bytea), 'hex'),
       '__attachments__' || :collection || '/records/' || made.id, resource_name, modified,
       jsonb_set(data, '{attachment,location}', to_jsonb(key)) || jsonb_build_object(
           'location', key, 'record_uri', :collection || '/records/' || made.id,
           'collection_uri', :collection, 'bucket_uri', :bucket, 'origin', :collection),
       FALSE
  FROM made, objects
 WHERE resource_name = 'attachments' AND data->>'record_uri' = :template
"""
PLAIN = """
INSERT INTO objects (id, parent_id, resource_name, last_modified, data, deleted)
SELECT 'r' || number, :collection, resource_name,
       date_trunc('ms', localtimestamp) - number * interval '1 ms', data, FALSE
  FROM generate_series(1, :count) AS number, objects
 WHERE objects.id = 'plain' AND resource_name = 'record'
"""
PERMIT = """
INSERT INTO access_control_entries (object_id, permission, principal)
SELECT :collection || '/records/r' || number, permission, principal
  FROM generate_series(1, :count) AS number, access_control_entries
 WHERE object_id = :template
"""
KEYS = """
SELECT data->>'location'
  FROM objects
 WHERE resource_name = 'attachments'
   AND (parent_id LIKE '\\_\\_attachments\\_\\_' || :uri || '/%')
"""


class Population:
    """A server with attachments in a large collection, and in others that are to be deleted.

    :ivar count: the number of attachments, a multiple of 100.
    :ivar files: the folder of its files.
    :ivar records: the path of the records of the large collection.
    :ivar sizes: ``{"bucket": number of attachments in each, "collection": …}`` of those others.
    :ivar deletions: ``{"bucket": [(URI, URI of one with plain records, folder with as many
        files)], "collection": …}``.
    """

    def __init__(self, environment, count, deletions=0):
        self.count = count
        self.files = environment.files
        self.server = environment.server(POSTGRESQL)
        self.sizes = {"collection": count // 100, "bucket": count // 10}
        self.deletions = {"collection": [], "bucket": []}
        self._environment = environment
        self._make_templates()
        with self._database() as self._connection:
            # Without Kinto's trigger, which looks for the newest row at each one.
            self._execute("SET session_replication_role = replica")
            left = count - deletions * sum(self.sizes.values())
            collection = self._make_collection("many", "files", ATTACH, left)
            for number in range(deletions):
                self._make_deletions(number)
            self._execute("VACUUM ANALYZE")
        self._make_files()
        self.records = f"/v1{collection}/records"
        self._attached = random.Random(1).sample(range(1, left + 1), left)

    def new_record(self):
        """Return the path of a record that does not exist, in the large collection."""
        return f"{self.records}/{uuid.uuid4()}"

    def attached_record(self):
        """Return the path of a record with an attachment, another one each time."""
        return f"{self.records}/r{self._attached.pop()}"

    def keys(self, uri):
        """Return the keys of the files of a collection or bucket."""
        with self._database() as connection:
            return list(connection.execute(sqlalchemy.text(KEYS), {"uri": uri}).scalars())

    def _make_templates(self):
        self._make_parents("templates", "files")
        records = f"/v1{TEMPLATES}/records"
        self._send("POST", f"{records}/attached/attachment", form(len(CONTENT)))
        self._send("PUT", f"{records}/plain", json_body({"data": PLAIN_RECORD}))

    def _make_deletions(self, number):
        size = self.sizes["collection"]
        collection = f"collection{number}"
        self._add_deletion(
            "collection",
            self._make_collection("many", collection, ATTACH, size),
            self._make_collection("plain", collection, PLAIN, size),
        )
        bucket = f"bucket{number}"
        for part in range(10):
            self._make_collection(bucket, f"part{part}", ATTACH, size)
            self._make_collection(f"plain-{bucket}", f"part{part}", PLAIN, size)
        self._add_deletion("bucket", f"/buckets/{bucket}", f"/buckets/plain-{bucket}")

    def _add_deletion(self, what, attached, plain):
        folder = self._environment.new_folder()
        self.deletions[what].append((attached, plain, folder))
        for key in self.keys(attached):
            (folder / key).write_bytes(CONTENT)

    def _make_collection(self, bucket, collection, statement, count):
        """Return the URI of a collection with so many records."""
        uri = self._make_parents(bucket, collection)
        template = "attached" if statement == ATTACH else "plain"
        values = {
            "bucket": f"/buckets/{bucket}",
            "collection": uri,
            "count": count,
            "template": f"{TEMPLATES}/records/{template}",
        }
        self._execute(statement, **values)
        self._execute(PERMIT, **values)
        return uri

    def _make_parents(self, bucket, collection):
        for uri in (f"/buckets/{bucket}", f"/buckets/{bucket}/collections/{collection}"):
            self._send("PUT", f"/v1{uri}", json_body({"data": {}}))
        return uri

    def _send(self, *request):
        # Not one connection for all: the server closes it while PostgreSQL is at work.
        client = Client(self.server.port)
        client.send(*request)
        client.close()

    def _make_files(self):
        for key in self.keys("/buckets"):
            (self.files / key).write_bytes(CONTENT)

    def _execute(self, statement, **values):
        self._connection.execute(sqlalchemy.text(statement), values)

    @contextlib.contextmanager
    def _database(self):
        """Give a connection to the database, which commits each statement."""
        url = self._environment.database()
        engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            yield connection
        engine.dispose()
