"""The problems that ``kinto-attachment check`` finds and ``repair`` repairs."""

import shlex
from unittest import mock

import pytest

from kinto_attachment.commands import check, problems, rows
from kinto_attachment.commands.main import main
from kinto_attachment.links import Links
from tests.support.app import App
from tests.support.commands import COLLECTION, GCS, S3, Deployment
from tests.support.faults import BREAKAGES, LOSSES, is_sound, location, lose_link
from tests.support.postgresql import postgresql_backends
from tests.support.users import ALICE


def test_the_faults_here_are_all_in_the_table():
    faults = {name: kind for name, kind in problems.KINDS.items() if kind.severity == "fault"}
    assert set(BREAKAGES) == {name for name, kind in faults.items() if kind.repair}
    assert set(LOSSES) == {name for name, kind in faults.items() if not kind.repair}


def test_the_next_command_is_printed_with_the_options_that_it_needs(deployment, capsys):
    deployment.upload()
    deployment.store.remove(location(deployment))
    with mock.patch.object(check, "open_server", deployment._open_once):
        assert main(["check", "--grace", "2h", "--ini", deployment.ini]) == 0
        assert main(["check", "--grace", "0", "--ini", deployment.ini]) == 1
    line = capsys.readouterr().out.splitlines()[1]
    assert line.endswith(
        "(the record's file does not exist); attach the file again or restore it from a backup; "
        f"next: kinto-attachment check --ini {deployment.ini} --grace 0"
    )


def test_a_server_in_normal_use_has_no_problems(anywhere):
    anywhere.upload("first")
    anywhere.upload("first", b"another")
    anywhere.copy("first", "copy")
    anywhere.upload("gone")
    anywhere.app.delete(f"{COLLECTION}/records/gone", headers=ALICE)
    before = anywhere.state()
    assert anywhere.check("--hash") == (0, {})
    assert anywhere.repair() == (0, {})
    assert anywhere.state() == before
    assert is_sound(anywhere)


@pytest.mark.parametrize("kind", BREAKAGES)
def test_a_fault_is_reported_and_repaired(deployment, kind):
    break_and_repair(deployment, kind)


@pytest.mark.parametrize("kind", [problems.ORPHAN_FILE.name, problems.MISSING_LINK.name])
def test_a_fault_is_reported_and_repaired_on_s3(make_deployment, bucket, kind):
    break_and_repair(make_deployment(S3(bucket)), kind)


def test_a_fault_is_reported_and_repaired_on_google_cloud_storage(make_deployment, emulated_bucket):
    break_and_repair(make_deployment(GCS(emulated_bucket)), problems.ORPHAN_FILE.name)


def break_and_repair(deployment, kind):
    deployment.upload("second", b"another")
    deployment.upload()
    BREAKAGES[kind](deployment)
    assert list(deployment.check("--hash")[1]) == [kind]
    code, output = deployment.run("check", "--grace", "0", "--hash")
    assert (code, [one["what"] for one in output]) == (1, [kind, "summary"])
    program, *command = shlex.split(output[0]["next"])
    assert (program, command[-4:]) == (
        "kinto-attachment",
        ["--ini", deployment.ini, "--grace", "0"],
    )

    before = deployment.state()
    assert deployment.repair("--dry-run", "--delete-files") == (1, {"to repair": [kind]})
    assert deployment.state() == before

    code, output = deployment.run(*command)
    assert (code, output[0]["what"], output[0]["finding"]) == (0, "repaired", kind)
    assert deployment.check("--hash") == (0, {})
    assert is_sound(deployment)
    assert "second" in str(deployment.links())


@pytest.mark.parametrize("kind", LOSSES)
def test_a_loss_is_reported_and_left(deployment, kind):
    deployment.upload("second", b"another")
    deployment.upload()
    LOSSES[kind](deployment)
    before = deployment.state()
    code, found = deployment.check("--hash")
    assert (code, list(found)) == (1, [kind])
    if kind != problems.HASH_MISMATCH.name:
        assert deployment.repair("--delete-files") == (1, {"left": [kind]})
    assert deployment.state() == before


def test_files_are_read_only_with_hash(deployment):
    deployment.upload()
    LOSSES[problems.HASH_MISMATCH.name](deployment)
    assert deployment.check() == (0, {})


@pytest.mark.parametrize("command", ["repair", "relocate", "check"])
def test_a_lost_database_is_reported_in_a_line(postgresql, tmp_path, capsys, monkeypatch, command):
    app = App(tmp_path / "files", **postgresql_backends(postgresql()))
    app.create_collection()
    deployment = Deployment(app, tmp_path, app.files, capsys)
    deployment.upload()
    deployment._open_once(deployment.ini)
    arguments = {
        "repair": ["--grace", "0"],
        "relocate": ["--base-url", "", "https://new.example.org/"],
    }
    if command == "repair":
        lose_link(deployment)
    owner, name = (rows, "valid_size") if command == "check" else (Links, "add")
    original = getattr(owner, name)

    def then_lost(*args):
        result = original(*args)
        deployment.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid != pg_backend_pid()"
        )
        return result

    monkeypatch.setattr(owner, name, then_lost)
    code, output = deployment.run(command, *arguments.get(command, []))
    assert (code, output[-1]["what"]) == (1, "summary" if command == "relocate" else "failure")
    message = output[0]["reason"] if command == "relocate" else output[-1]["message"]
    assert "connection" in message
    assert len(message.splitlines()) == 1
