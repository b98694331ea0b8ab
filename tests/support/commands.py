"""A deployment: a server, its settings file and the command beside it."""

import configparser
import contextlib
import json
import logging
import uuid
from unittest import mock

import sqlalchemy
import transaction

from kinto_attachment.commands import rows, server
from kinto_attachment.commands.main import SUBCOMMANDS, main
from tests.support.app import RECORD
from tests.support.forms import file_part
from tests.support.users import ALICE


COLLECTION = RECORD.rpartition("/records/")[0]
FILES_URL = "https://files.example.com/"


class Deployment:
    """A Kinto with its records in PostgreSQL, and the command beside it.

    :ivar app: the server.
    :param files: returns the stored files, ``{key: content}``.
    """

    def __init__(self, app, folder, files, capsys):
        self.app = app
        self.ini = str(folder / f"kinto-{uuid.uuid4()}.ini")
        self._files = files
        self._capsys = capsys
        self._engine = sqlalchemy.create_engine(app.settings["kinto.storage_url"])
        write_ini(self.ini, app.settings)

    def files(self):
        """Return the stored files, ``{key: content}``, when those of no record are deleted."""
        self.app.wait_for_deletions()
        return self._files()

    def run(self, *arguments):
        """Return the exit code of the command, and its output as objects."""
        self._capsys.readouterr()
        module = SUBCOMMANDS[arguments[0]]
        with mock.patch.object(module, "open_server", self._open_once):
            code = main([arguments[0], "--ini", self.ini, "--json", *arguments[1:]])
        return code, [json.loads(line) for line in self._capsys.readouterr().out.splitlines()]

    def _open_once(self, ini):
        # Opening takes most of the time of a small check, so the next test uses it, too.
        if not hasattr(self.app, "opened"):
            logger = logging.getLogger("kinto")
            level = logger.level
            self.app.opened = server.open_server(ini)
            logger.setLevel(level)
        return self.app.opened

    def check(self, *arguments):
        """Return the exit code of a check of everything, and ``{what: keys}``.

        It is the same whether rows are streamed, or read in pages as from other storages of Kinto.
        """
        code, output = self.run("check", "--grace", "0", *arguments)
        with in_pages():
            assert self.run("check", "--grace", "0", *arguments) == (code, output)
        found = {}
        for one in output[:-1]:
            found.setdefault(one["what"], []).append(one["key"])
        return code, found

    def repair(self, *arguments):
        """Return the exit code of a repair, and ``{what: kinds of findings}``."""
        code, output = self.run("repair", "--grace", "0", *arguments)
        done = {}
        for one in output[:-1]:
            done.setdefault(one["what"], []).append(one["finding"])
        return code, done

    def sql(self, query, **values):
        """Change the database behind Kinto's back."""
        with self._engine.begin() as connection:
            return connection.execute(sqlalchemy.text(query), values).rowcount

    @contextlib.contextmanager
    def committing(self):
        """Commit what is done with Kinto's storage in the context."""
        with transaction.manager:
            yield

    def state(self):
        """Return all records, links, queued deletions and files."""
        self.app.wait_for_deletions()
        with self._engine.connect() as connection:
            rows = connection.execute(
                sqlalchemy.text(
                    "SELECT resource_name, parent_id, id, data FROM objects WHERE NOT deleted "
                    "ORDER BY resource_name, parent_id, id"
                )
            ).all()
        return rows, self.files()

    def upload(self, record="first", content=b"once upon a time", filename="story.txt"):
        """Return the attachment of a record that has a new file."""
        url = f"{COLLECTION}/records/{record}/attachment"
        return self.app.upload(file_part(content, filename), url=url).json

    def record(self, record="first"):
        return self.app.get(f"{COLLECTION}/records/{record}", headers=ALICE).json["data"]

    def copy(self, source, target):
        """Write a record with the attachment of another one, as clients do."""
        body = {"data": {"attachment": self.record(source)["attachment"]}}
        self.app.put_json(f"{COLLECTION}/records/{target}", body, headers=ALICE)

    def links(self):
        with self.committing():
            return self.app.registry.storage.list_all("attachments", "__attachments__*")

    def close(self):
        """Leave an empty database."""
        transaction.abort()
        for table in ("objects", "timestamps", "user_principals", "access_control_entries"):
            self.sql(f"DELETE FROM {table}")
        self._engine.dispose()


def in_pages():
    """Return a context in which rows are read as from a storage that is not PostgreSQL."""
    return mock.patch.object(rows, "stream", lambda storage, query: None)


class Folder:
    """The files of a deployment in a folder."""

    def __init__(self, path):
        self.path = path

    def settings(self):
        return {}

    def files(self):
        return {
            str(path.relative_to(self.path)): path.read_bytes()
            for path in self.path.rglob("*")
            if path.is_file()
        }

    def put(self, name, content):
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        (self.path / name).write_bytes(content)

    def remove(self, name):
        (self.path / name).unlink()


class S3:
    """The files of a deployment in a bucket."""

    def __init__(self, bucket):
        self._bucket = bucket
        self.settings = bucket.settings
        self.files = bucket.files

    def put(self, name, content):
        self._bucket.client.put_object(Bucket=self._bucket.name, Key=name, Body=content)

    def remove(self, name):
        self._bucket.client.delete_object(Bucket=self._bucket.name, Key=name)


class GCS:
    """The files of a deployment in a bucket of Google Cloud Storage."""

    def __init__(self, bucket):
        self._bucket = bucket.bucket
        self.settings = bucket.settings
        self.files = bucket.files

    def put(self, name, content):
        self._bucket.blob(name).upload_from_string(content)

    def remove(self, name):
        self._bucket.blob(name).delete()


def write_ini(path, settings):
    ini = configparser.RawConfigParser()
    ini["app:main"] = {"use": "egg:kinto", **settings}
    with open(path, "w") as file:
        ini.write(file)
