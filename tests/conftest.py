import gc
import os
import sys
import uuid

import pytest
from kinto.core.cornice.service import SERVICES

from tests.support.app import App
from tests.support.documentation import ProductionServer
from tests.support.gcs import FakeGCSServer, GCPStorageEmulator, GCSBucket, GCSProxy
from tests.support.node import install
from tests.support.paths import ROOT
from tests.support.postgresql import create_database, postgresql_server
from tests.support.s3 import Bucket, Proxy, SeaweedFS, Silence
from tests.support.scripts import script_storage, start_server
from tests.support.servers import Server
from tests.support.settings import base_settings, prefixed


# Beside what else is written here, and not in a folder of its own.
os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(ROOT / "var" / "hypothesis")

PROGRAM_STARTS = {"os.posix_spawn", "os.system", "subprocess.Popen"}
"""Audit events of Python."""

quick_test = None
"""The test that runs, if it may start no other program."""


def refuse_programs(event, args):
    if event in PROGRAM_STARTS and quick_test:
        raise AssertionError(
            f'{quick_test.nodeid} starts {args[0]}: it needs the marker "external"'
        )


sys.addaudithook(refuse_programs)


def pytest_collection_modifyitems(items):
    """Mark all tests that use the fixture ``external``, directly or through others."""
    for item in items:
        if "external" in item.fixturenames:
            item.add_marker("external")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    global quick_test
    quick_test = None if item.get_closest_marker("external") else item
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown():
    # Servers of a wider scope stop with the last test, whichever that is.
    global quick_test
    quick_test = None
    return (yield)


@pytest.fixture(scope="session")
def external():
    """Mark the tests of a fixture that starts a server as "external": ``make quick`` omits them."""


def freeze():
    """Hide what is there to stay from the garbage collector, which would take a quarter longer."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def first_services(tmp_path_factory):
    """The services of a first Kinto, and those that are made when its modules are imported."""
    App(tmp_path_factory.mktemp("first") / "files")
    freeze()
    return list(SERVICES)


@pytest.fixture(autouse=True)
def forget_services(first_services):
    """Free the Kintos of a test: cornice keeps their services, and so them, in memory."""
    yield
    SERVICES[:] = first_services


@pytest.fixture
def make_app(tmp_path):
    """Make a Kinto inside this process, with settings over the usual ones."""

    def make(**settings):
        app = App(tmp_path / "files", **prefixed(settings))
        app.create_collection()
        return app

    return make


@pytest.fixture(scope="session")
def shared_apps():
    """The Kintos that tests share, by their settings."""
    return {}


@pytest.fixture
def share_app(shared_apps, tmp_path_factory):
    """Return the Kinto with these settings, empty: for tests that change nothing of it but data.

    (Making one takes most of the time of a small test.)
    """
    used = []

    def share(**settings):
        key = tuple(sorted(settings.items()))
        if key not in shared_apps:
            folder = tmp_path_factory.mktemp("shared") / "files"
            shared_apps[key] = App(folder, **prefixed(settings))
            freeze()
        app = shared_apps[key]
        app.create_collection()
        used.append(app)
        return app

    yield share
    for app in used:
        app.reset()


@pytest.fixture
def app(share_app):
    return share_app()


@pytest.fixture(scope="session")
def postgresql(external):
    """A real PostgreSQL, as a function that makes an empty database and returns its URL."""
    with postgresql_server() as server:
        yield lambda: create_database(server)


@pytest.fixture
def serve(external, tmp_path):
    """Start real servers, and stop them when the test ends."""
    servers = []

    def start(kind="granian", environment=None, **settings):
        files = {"kinto.attachment.base_path": str(tmp_path / "files")}
        number = len(servers)
        server = Server(
            kind,
            tmp_path / f"server{number}",
            base_settings() | files | prefixed(settings),
            environment,
        )
        servers.append(server)
        return server.wait_until_ready()

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def seaweedfs(external, tmp_path_factory):
    """A real S3 server, the same for all tests."""
    server = SeaweedFS(tmp_path_factory.mktemp("seaweedfs"))
    yield server.wait_until_ready()
    server.stop()


@pytest.fixture(scope="session")
def fake_s3(external):
    """The endpoint of moto's fake S3 server, the same for all tests."""
    # Not before: every process of the tests would import it when it starts.
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(seaweedfs):
    """An empty bucket on the real server."""
    bucket = Bucket(seaweedfs.endpoint_url, f"bucket-{uuid.uuid4()}")
    yield bucket
    # Every bucket has volumes of its own, of which the server has only so many.
    bucket.client.delete_bucket(Bucket=bucket.name)


@pytest.fixture
def fake_bucket(fake_s3):
    """An empty bucket on the fake server."""
    return Bucket(fake_s3, f"bucket-{uuid.uuid4()}")


@pytest.fixture(scope="session")
def fake_gcs(external):
    """A fake-gcs-server, the same for all tests."""
    server = FakeGCSServer()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def gcs_emulator(external):
    """A gcp-storage-emulator, the same for all tests."""
    server = GCPStorageEmulator()
    yield server
    server.stop()


@pytest.fixture
def gcs_bucket(fake_gcs):
    """An empty bucket on fake-gcs-server."""
    return GCSBucket(fake_gcs.url, f"bucket-{uuid.uuid4()}")


@pytest.fixture
def emulated_bucket(gcs_emulator):
    """An empty bucket on gcp-storage-emulator."""
    return GCSBucket(gcs_emulator.url, f"bucket-{uuid.uuid4()}")


@pytest.fixture
def proxy(bucket):
    """What sees the requests on the bucket."""
    proxy = Proxy(bucket.endpoint_url)
    yield proxy
    proxy.stop()


@pytest.fixture
def gcs_proxy(gcs_bucket):
    """What sees the requests on the bucket on fake-gcs-server."""
    proxy = GCSProxy(gcs_bucket.url)
    yield proxy
    proxy.stop()


@pytest.fixture
def emulator_proxy(emulated_bucket):
    """What sees the requests on the bucket on gcp-storage-emulator."""
    proxy = GCSProxy(emulated_bucket.url)
    yield proxy
    proxy.stop()


@pytest.fixture
def silence():
    """A server that never answers."""
    silence = Silence()
    yield silence
    silence.stop()


@pytest.fixture(scope="session", params=["local", "s3"])
def server(external, request, tmp_path_factory):
    """A real server for the scripts, with its files in a local folder or on S3."""
    with script_storage(request) as storage:
        server = start_server(tmp_path_factory.mktemp("server"), storage)
        yield server
        server.stop()


@pytest.fixture(scope="session")
def production(tmp_path_factory, postgresql):
    """The server of the guide to production, the same for all tests. Its user is admin."""
    server = ProductionServer(tmp_path_factory.mktemp("production"), postgresql())
    yield server.wait_until_ready()
    server.stop()


@pytest.fixture(scope="session")
def javascript(external, tmp_path_factory):
    """A folder with the scripts of tests/javascript, and the packages that they need."""
    return install(ROOT / "tests" / "javascript", tmp_path_factory.mktemp("javascript"))
