import pytest

from tests.scripts_support import STORAGES, Scripts, actions, make_folder, tree


@pytest.fixture(params=STORAGES.values(), ids=STORAGES.keys())
def server(request, serve):
    return serve(attachment__extensions="any", **request.param)


@pytest.fixture
def scripts(server):
    return Scripts(server.url)


def test_folder_comes_back_as_it_was(scripts, tmp_path):
    source = make_folder(tmp_path / "source", 200)
    (source / "a" / "b").mkdir(parents=True)
    (source / "a" / "b" / "file 1.bin").write_bytes(b"another of this name")
    lines = scripts.upload(source, "--recursive")
    assert lines[-1] == {"action": "summary", "uploaded": 201}
    scripts.download(tmp_path / "copy")
    assert tree(tmp_path / "copy") == tree(source)
    assert actions(scripts.upload(source, "-r")).keys() == {"unchanged"}
