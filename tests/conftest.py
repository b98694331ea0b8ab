import uuid

import pytest
from hypothesis.configuration import set_hypothesis_home_dir
from kinto.core.cornice.service import SERVICES
from moto.server import ThreadedMotoServer

from tests.support.app import App
from tests.support.documentation import ProductionServer
from tests.support.paths import ROOT
from tests.support.postgresql import create_database, postgresql_server
from tests.support.s3 import Bucket, Proxy, SeaweedFS, Silence
from tests.support.scripts import FakeKinto, download_from, script_storage, start_server
from tests.support.servers import Server
from tests.support.settings import base_settings


# Beside what else is written here, and not in a folder of its own.
set_hypothesis_home_dir(ROOT / "var" / "hypothesis")


@pytest.fixture(scope="session")
def first_services(tmp_path_factory):
    """The services of a first Kinto, and those that are made when its modules are imported."""
    App(tmp_path_factory.mktemp("first") / "files")
    return list(SERVICES)


@pytest.fixture(autouse=True)
def forget_services(first_services):
    """Let the Kintos of a test be freed: a service that is remembered holds its Kinto in memory."""
    yield
    SERVICES[:] = first_services


@pytest.fixture
def make_app(tmp_path):
    """Make a Kinto inside of this process, with settings over the usual ones."""

    def make(**settings):
        prefixed = {f"kinto.{name.replace('__', '.')}": value for name, value in settings.items()}
        app = App(tmp_path / "files", **prefixed)
        app.create_collection()
        return app

    return make


@pytest.fixture
def app(make_app):
    return make_app()


@pytest.fixture(scope="session")
def postgresql():
    """A real PostgreSQL, as a function that makes an empty database and returns its URL."""
    with postgresql_server() as server:
        yield lambda: create_database(server)


@pytest.fixture
def serve(tmp_path):
    """Start real servers, and stop them when the test ends."""
    servers = []

    def start(kind="granian", environment=None, **settings):
        prefixed = {f"kinto.{name.replace('__', '.')}": value for name, value in settings.items()}
        files = {"kinto.attachment.base_path": str(tmp_path / "files")}
        number = len(servers)
        server = Server(
            kind, tmp_path / f"server{number}", base_settings() | files | prefixed, environment
        )
        servers.append(server)
        return server.wait_until_ready()

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory):
    """A real S3 server, the same for all tests."""
    server = SeaweedFS(tmp_path_factory.mktemp("seaweedfs"))
    yield server.wait_until_ready()
    server.stop()


@pytest.fixture(scope="session")
def fake_s3():
    """The endpoint of moto's fake S3 server, the same for all tests."""
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


@pytest.fixture
def proxy(bucket):
    """What sees the requests on the bucket."""
    proxy = Proxy(bucket.endpoint_url)
    yield proxy
    proxy.stop()


@pytest.fixture
def silence():
    """A server that never answers."""
    silence = Silence()
    yield silence
    silence.stop()


@pytest.fixture
def kinto():
    """A fake Kinto for the scripts, which answers as a test wants."""
    with FakeKinto() as server:
        yield server


@pytest.fixture
def folder(tmp_path):
    """Where the script downloads to."""
    return tmp_path / "copy"


@pytest.fixture
def get(kinto, folder, capsys):
    """Run the download script in this process on the fake server, and return the lines of JSON."""
    return download_from(kinto, folder, capsys)


@pytest.fixture(scope="session", params=["local", "s3"])
def server(request, tmp_path_factory):
    """A real server for the scripts, with its files in a local folder or on S3."""
    with script_storage(request) as storage:
        server = start_server(tmp_path_factory.mktemp("server"), storage)
        yield server
        server.stop()


@pytest.fixture(scope="session")
def production(tmp_path_factory, postgresql):
    """The server of the README's guide to production, the same for all tests. Its user is admin."""
    server = ProductionServer(tmp_path_factory.mktemp("production"), postgresql())
    yield server.wait_until_ready()
    server.stop()
