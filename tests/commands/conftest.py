"""Deployments with their records in one PostgreSQL."""

import pytest

from tests.support.app import App
from tests.support.commands import FILES_URL, GCS, S3, Deployment, Folder, write_ini
from tests.support.postgresql import postgresql_backends
from tests.support.settings import unprefixed


@pytest.fixture(scope="session")
def database(postgresql):
    """One database for all tests here, since each has connections of its own."""
    return postgresql()


@pytest.fixture
def make_deployment(make_app, database, tmp_path, capsys):
    deployments = []

    def make(store=None, **settings):
        store = store or Folder(tmp_path / "files")
        app = make_app(**unprefixed(postgresql_backends(database)), **store.settings(), **settings)
        deployment = Deployment(app, tmp_path, store.files, capsys)
        deployment.store = store
        deployments.append(deployment)
        return deployment

    yield make
    for deployment in deployments:
        deployment.close()


@pytest.fixture(scope="session")
def shared_app(database, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared") / "files"
    return App(folder, **postgresql_backends(database))


@pytest.fixture
def deployment(shared_app, capsys):
    """A deployment with its files in a folder, all empty, without settings of its own."""
    shared_app.create_collection()
    store = Folder(shared_app.folder)
    deployment = Deployment(shared_app, shared_app.folder.parent, store.files, capsys)
    deployment.store = store
    yield deployment
    deployment.close()
    for name in store.files():
        store.remove(name)


@pytest.fixture(params=["folder", "S3"])
def either(request, external):
    """A deployment with its files in a folder, or in SeaweedFS."""
    return deployment_in(request, request.param)


@pytest.fixture(params=["folder", "S3", "GCS"])
def anywhere(request, external):
    """A deployment with its files in a folder, in SeaweedFS, or in Google Cloud Storage."""
    return deployment_in(request, request.param)


def deployment_in(request, place):
    if place == "folder":
        return request.getfixturevalue("deployment")
    if place == "S3":
        store = S3(request.getfixturevalue("bucket"))
    else:
        store = GCS(request.getfixturevalue("emulated_bucket"))
    return request.getfixturevalue("make_deployment")(store)


@pytest.fixture
def make_switched(make_deployment, request):
    """Return a deployment whose setting changes to the opposite before the command runs."""

    def make(place="folder", is_private=False, **settings):
        store = {
            "folder": lambda: None,
            "S3": lambda: S3(request.getfixturevalue("bucket")),
            "GCS": lambda: GCS(request.getfixturevalue("emulated_bucket")),
        }[place]()
        before, after = ("private", "public") if is_private else ("public", "private")
        settings = {"attachment__base_url": FILES_URL, **settings}
        made = make_deployment(store, attachment__downloads=before, **settings)
        made.app.create_collection()
        changed = {"kinto.attachment.downloads": after}
        write_ini(made.ini, made.app.settings | {"kinto.http_host": "localhost:80"} | changed)
        return made

    return make
