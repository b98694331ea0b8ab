"""The sessions with ``kinto-attachment`` in the documentation, run as printed."""

import logging
import re
import shlex

import pytest
import transaction

from kinto_attachment.commands.main import main
from kinto_attachment.locks import is_locked
from tests.support.app import App
from tests.support.commands import Deployment, write_ini
from tests.support.documentation import blocks, sessions
from tests.support.postgresql import postgresql_backends


OLD = "https://files.example.com/"
ORPHAN = "0d6b0d1c-7b5a-4d8e-9a53-0a7f6a1f1d11.txt"
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@pytest.fixture
def deployment(postgresql, tmp_path, capsys):
    """A server with three records that have files."""
    settings = {**postgresql_backends(postgresql()), "kinto.attachment.base_url": OLD}
    app = App(tmp_path / "files", **settings)
    app.create_collection()
    deployment = Deployment(app, tmp_path, app.files, capsys)
    for record in ("first", "second", "third"):
        deployment.upload(record)
    yield deployment
    deployment.close()


def path_of(deployment, record):
    location = deployment.record(record)["attachment"]["location"]
    return deployment.app.folder / location.removeprefix(OLD)


def damage(deployment):
    """Make the problems that the guide is about."""
    path_of(deployment, "first").unlink()
    assert deployment.sql("DELETE FROM objects WHERE parent_id LIKE '%/records/second'") == 1
    assert deployment.sql("DELETE FROM objects WHERE id = 'third'") == 1
    (deployment.app.folder / ORPHAN).write_bytes(b"orphan!")


@pytest.fixture
def run(deployment, tmp_path, monkeypatch, capsys):
    """Return a function that returns what a command prints."""
    monkeypatch.setenv("KINTO_INI", deployment.ini)
    there = {"kinto.attachment.base_path": str(tmp_path / "there")}
    write_ini(str(tmp_path / "s3.ini"), deployment.app.settings | there)
    level = logging.getLogger("kinto").level

    def run_inside(command):
        command = command.replace("/etc/kinto/kinto.ini", deployment.ini)
        name, *arguments = shlex.split(command.replace("/etc/kinto/s3.ini", f"{tmp_path}/s3.ini"))
        assert name == "kinto-attachment"
        capsys.readouterr()
        main(arguments)
        printed = capsys.readouterr()
        assert printed.err == ""
        return without_names(printed.out)

    yield run_inside
    logging.getLogger("kinto").setLevel(level)


def without_names(text):
    """Return the lines and what they list in any order, since random names decide about it."""
    lines = UUID.sub("NAME", text).splitlines()
    return sorted(sorted(re.split("[,;] ", line)) for line in lines)


def test_check_and_repair_print_what_the_guide_shows(deployment, run):
    (fine, printed), *others = sessions("docs/how-to/check")
    assert run(fine) == without_names(printed)
    damage(deployment)
    for command, printed in others:
        assert run(command) == without_names(printed), command
    assert len(others) >= 4


def test_relocate_and_copy_print_what_the_guide_shows(run, tmp_path):
    shown = sessions("docs/how-to/moving-storages")
    for command, printed in shown:
        assert run(command) == without_names(printed), command
    assert len(list((tmp_path / "there").glob("*.txt"))) == 3
    assert len(shown) >= 4


def test_move_private_prints_what_the_guide_shows(deployment, run):
    write_ini(deployment.ini, deployment.app.settings | {"kinto.attachment.downloads": "private"})
    shown = [one for one in sessions("docs/how-to/private-files") if "kinto-att" in one[0]]
    for command, printed in shown:
        assert run(command) == without_names(printed), command
    keys = deployment.files()
    assert len(keys) == 3
    assert all(key.startswith("private/") for key in keys)
    assert len(shown) == 3


def test_the_check_after_a_restore_finds_nothing_if_nothing_is_lost(run):
    (command,) = [code for code in blocks("docs/how-to/backup", "shell") if "check" in code]
    assert run(command) == without_names("Compared 3 files, 3 links, 3 records")


def test_server_code_locks_a_record_as_shown(deployment):
    (code,) = blocks("docs/how-to/server-code", "python")
    with transaction.manager:
        exec(code, {"storage": deployment.app.registry.storage})
        assert is_locked("/buckets/blog/collections/photos/records/first")
