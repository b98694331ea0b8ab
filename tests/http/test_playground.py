"""The playground: when it is served, and what keeps it from running foreign scripts."""

import pytest
from pyramid.exceptions import ConfigurationError

from tests.support.node import run_node
from tests.support.paths import ROOT
from tests.support.settings import base_settings


PAGE = "/__playground__/"
IMPORTED = {"attachments.js", "page.js", "resumable.js", "uploads.js"}
NAMES = sorted(IMPORTED | {"playground.js", "playground.css", "icon.svg"})
INCLUDES = "kinto.plugins.default_bucket kinto_attachment kinto_attachment.playground"


def policy(app):
    """Return ``{directive: sources}`` of the page's Content-Security-Policy."""
    header = app.get(PAGE).headers["Content-Security-Policy"]
    directives = [directive.split() for directive in header.split(";")]
    return {name: sources for name, *sources in directives}


def test_the_page_is_served_only_if_it_is_included(share_app):
    assert base_settings()["kinto.includes"] == "kinto.plugins.default_bucket kinto_attachment"
    share_app().get(PAGE + "playground.js", status=404)
    page = share_app(includes=INCLUDES).get(PAGE)
    assert page.content_type == "text/html"
    assert "Drop files here" in page.text


@pytest.mark.parametrize("name", NAMES)
def test_every_file_of_the_page_is_served(share_app, name):
    app = share_app(includes=INCLUDES)
    assert app.get(PAGE + name).headers["X-Content-Type-Options"] == "nosniff"
    assert name in app.get(PAGE).text or name in IMPORTED


def test_nothing_else_is_served_beside_the_page(share_app):
    app = share_app(includes=INCLUDES)
    app.get(PAGE + "../__init__.py", status=404)
    app.get(PAGE + "%2e%2e/__init__.py", status=404)


def test_the_page_is_found_without_its_slash(share_app):
    response = share_app(includes=INCLUDES).get(PAGE.rstrip("/"), status=301)
    assert response.location.endswith("/v1" + PAGE)


def test_the_page_runs_its_own_scripts_and_none_inline(share_app):
    directives = policy(share_app(includes=INCLUDES))
    assert directives["default-src"] == ["'none'"]
    assert directives["script-src"] == ["'self'"]
    assert directives["img-src"] == ["'self'"]


def test_thumbnails_may_come_from_where_the_files_are(make_app):
    app = make_app(includes=INCLUDES, attachment__base_url="https://files.test:8443/some/folder")
    assert policy(app)["img-src"] == ["'self'", "https://files.test:8443"]


@pytest.mark.parametrize(
    ("options", "origins"),
    [
        ({}, ["http://127.0.0.1:1"]),
        ({"base_url": "https://files.test/"}, ["http://127.0.0.1:1", "https://files.test"]),
    ],
)
def test_thumbnails_may_come_by_links_to_the_bucket(make_app, monkeypatch, options, origins):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    app = make_app(
        includes=INCLUDES,
        attachment__base_path="",
        attachment__aws__bucket_name="files",
        attachment__aws__endpoint_url="http://127.0.0.1:1",
        **{f"attachment__{name}": value for name, value in options.items()},
    )
    assert policy(app)["img-src"] == ["'self'", *origins]


def test_the_page_without_the_plugin_stops_the_server(make_app):
    with pytest.raises(ConfigurationError, match="must come after kinto_attachment"):
        make_app(includes="kinto_attachment.playground kinto_attachment")


@pytest.mark.external
def test_its_client_of_resumable_uploads():
    run_node("node", "--test", "resumable.test.mjs", cwd=ROOT / "tests" / "javascript")
