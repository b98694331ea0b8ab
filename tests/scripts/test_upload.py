"""Uploads: which files are sent, and which records are deleted."""

import requests

from tests.support.fake_kinto import FlakyProxy, stored_as_sent
from tests.support.scripts import (
    Scripts,
    actions,
    failures,
    make_folder,
    names_in,
    tree,
)


def test_folder_survives_a_round_trip_and_is_not_sent_again(scripts, tmp_path):
    source = make_folder(tmp_path / "source", 200)
    (source / "a" / "b").mkdir(parents=True)
    (source / "a" / "b" / "file 1.bin").write_bytes(b"another of this name")
    lines = scripts.upload(source, "--recursive")
    assert lines[-1] == {"action": "summary", "uploaded": 201}
    scripts.download(tmp_path / "copy")
    assert tree(tmp_path / "copy") == tree(source)
    assert actions(scripts.upload(source, "-r")).keys() == {"unchanged"}


def test_only_what_changed_is_sent(scripts, source, tmp_path):
    scripts.upload(source, "-r")
    scripts.download(tmp_path / "copy")
    # Of the same size, so that only the hash differs.
    content = (source / "file 3.bin").read_bytes()
    (source / "file 3.bin").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (source / "new.txt").write_bytes(b"new")
    assert actions(scripts.upload(source, "-r"))["uploaded"] == {"file 3.bin", "new.txt"}
    assert actions(scripts.download(tmp_path / "copy"))["downloaded"] == {"file 3.bin", "new.txt"}
    assert tree(tmp_path / "copy") == tree(source)


def test_names_survive_a_round_trip(scripts, tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ('a "quoted".txt', "100%25.txt", "naïve ☃.txt", ".hidden", "no extension", "a;b=c"):
        (folder / name).write_bytes(name.encode())
    (folder / "empty.txt").touch()
    scripts.upload(folder, "-r")
    scripts.download(tmp_path / "copy")
    assert tree(tmp_path / "copy") == tree(folder)


def test_record_id_is_the_uuid_of_the_md5_of_the_name(scripts, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"a photo")
    [line, _] = scripts.upload(tmp_path / "photo.jpg")
    # As printed by md5sum for the name.
    assert line["record"] == "72acded3-acd4-5e4c-8b6e-d680854b8ab1"
    record = requests.get(f"{scripts.collection}/records/{line['record']}", auth=scripts.auth)
    assert record.json()["data"]["attachment"]["filename"] == "photo.jpg"


def test_state_of_the_download_script_is_not_sent(scripts, source, tmp_path):
    scripts.upload(source, "-r")
    scripts.download(tmp_path / "copy")
    make_folder(tmp_path / "copy" / ".partial", 2)
    assert actions(scripts.upload(tmp_path / "copy", "-r")) == {"unchanged": names_in(source)}


def test_force_sends_unchanged_files(scripts, source):
    scripts.upload(source, "-r")
    assert actions(scripts.upload(source, "-r", "--force")) == {"uploaded": names_in(source)}


def test_records_on_several_pages_are_compared(serve, source):
    scripts = Scripts(serve(attachment__extensions="any", paginate_by=2).url)
    scripts.upload(source, "-r")
    assert actions(scripts.upload(source, "-r")) == {"unchanged": names_in(source)}


def test_mimetype_is_guessed_from_the_name(scripts, tmp_path):
    for name in ("page.html", "archive.tar.gz", "what.isthis"):
        (tmp_path / name).write_bytes(b"content")
    scripts.upload(*tmp_path.glob("*.*"))
    mimetypes = {name: r["attachment"]["mimetype"] for name, r in scripts.records().items()}
    assert mimetypes == {
        "page.html": "text/html",
        "archive.tar.gz": "application/gzip",
        "what.isthis": "application/octet-stream",
    }


def test_keep_filenames_is_a_parameter_of_the_request(upload_to, kinto, tmp_path):
    paths = []
    kinto.post = lambda handler, body: (paths.append(handler.path), stored_as_sent(handler, body))
    (tmp_path / "a.txt").write_bytes(b"a")
    upload_to(tmp_path / "a.txt")
    upload_to(tmp_path / "a.txt", "--keep-filenames")
    assert [path.partition("?")[2] for path in paths] == ["", "randomize=false"]


def test_bearer_tokens_are_sent(upload_to, kinto, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a")
    upload_to(tmp_path / "a.txt", auth="Bearer To:ken")
    assert {headers["Authorization"] for headers in kinto.headers} == {"Bearer To:ken"}


# Deletion and dry runs


def test_delete_removes_the_records_of_deleted_files(scripts, source, tmp_path):
    scripts.upload(source, "-r")
    scripts.download(tmp_path / "copy")
    (source / "file 2.bin").unlink()
    assert "deleted" not in actions(scripts.upload(source, "-r"))
    assert actions(scripts.upload(source, "-r", "--delete"))["deleted"] == {"file 2.bin"}
    assert scripts.records().keys() == names_in(source)
    assert actions(scripts.download(tmp_path / "copy", "--delete")) == {"deleted": {"file 2.bin"}}
    assert tree(tmp_path / "copy") == tree(source)


def test_delete_keeps_the_records_of_other_clients(scripts, source):
    scripts.upload(source, "-r")
    plain, other = f"{scripts.collection}/records/plain", f"{scripts.collection}/records/other"
    requests.put(plain, json={"data": {"no": "file"}}, auth=scripts.auth)
    requests.post(f"{other}/attachment", files={"attachment": ("a", b"a")}, auth=scripts.auth)
    assert actions(scripts.upload(source, "-r", "--delete")).keys() == {"unchanged"}
    assert requests.get(plain, auth=scripts.auth).ok
    assert requests.get(other, auth=scripts.auth).ok


def test_nothing_is_deleted_when_files_cannot_be_found(scripts, source):
    scripts.upload(source, "-r")
    lines = scripts.upload(source / "file 1.bin", source / "typo.bin", "--delete", code=1)
    assert failures(lines) == {"typo.bin": "does not exist"}
    assert scripts.records().keys() == names_in(source)


def test_nothing_is_deleted_when_a_file_cannot_be_sent(scripts, server, source):
    def refuse(handler, number):
        if handler.command != "POST":
            return False
        handler.rfile.read(int(handler.headers["Content-Length"]))
        handler.answer(400, {"message": "Not this one."})
        return True

    scripts.upload(source, "-r")
    (source / "file 1.bin").rename(source / "file 9.bin")
    with FlakyProxy(server.url, refuse) as proxy:
        lines = scripts.but(url=proxy.url).upload(source, "-r", "--delete", code=1)
    assert "deleted" not in actions(lines)
    assert "not all files could be sent" in lines[-2]["message"]
    assert "file 1.bin" in scripts.records()
    assert actions(scripts.upload(source, "-r", "--delete"))["deleted"] == {"file 1.bin"}


def test_nothing_is_deleted_for_an_empty_folder(scripts, source, tmp_path):
    scripts.upload(source, "-r")
    (tmp_path / "not mounted").mkdir()
    lines = scripts.upload(tmp_path / "not mounted", "-r", "--delete")
    assert lines[0]["message"] == "nothing is deleted, since there are no files"
    assert scripts.records().keys() == names_in(source)


def test_records_of_a_folder_that_became_a_link_are_kept(scripts, source, tmp_path):
    make_folder(source / "sub", 1, seed=2)
    scripts.upload(source, "-r")
    (source / "sub").rename(tmp_path / "elsewhere")
    (source / "sub").symlink_to(tmp_path / "elsewhere")
    (source / "file 1.bin").unlink()
    lines = actions(scripts.upload(source, "-r", "--delete"))
    assert lines["deleted"] == {"file 1.bin"}
    assert lines["warning"] == {"sub"}
    assert len(scripts.records()) == 5


def test_dry_run_prints_and_changes_nothing(scripts, source):
    missing = actions(scripts.upload(source, "-r", "--dry-run"))
    assert missing == {"would upload": names_in(source)}
    # Neither the bucket nor the collection was created (which Kinto reports as 403).
    assert requests.get(scripts.collection, auth=scripts.auth).status_code == 403
    scripts.upload(source, "-r")
    before = scripts.records()
    (source / "file 2.bin").write_bytes(b"changed")
    (source / "file 3.bin").unlink()
    lines = actions(scripts.upload(source, "-r", "--delete", "--dry-run"))
    assert lines["would upload"] == {"file 2.bin"}
    assert lines["would delete"] == {"file 3.bin"}
    assert scripts.records() == before
