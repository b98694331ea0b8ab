from tests.support import *
import pytest, requests


def test_smoke(app):
    response = app.upload()
    assert response.status_code == 201
    assert app.stored(response.json) == b"once upon a time"
    assert len(app.links()) == 1


@pytest.mark.parametrize("kind", ["granian", "waitress"])
def test_smoke_pg(serve, postgresql, kind, tmp_path):
    url = postgresql()
    s = {k.removeprefix("kinto."): v for k, v in postgresql_backends(url).items()}
    server = serve(kind, attachment__serve_files=True, **s)
    rec = f"{server.url}/buckets/default/collections/photos/records/first"
    r = requests.post(
        rec + "/attachment", files={"attachment": ("a.txt", b"x" * 1000000)}, auth=("alice", "s")
    )
    assert r.status_code == 201, r.text + server.log.read_text()
    r = requests.post(
        rec + "/attachment", files={"attachment": ("a.txt", b"x" * 1000000)}, auth=("alice", "s")
    )
    assert r.status_code == 200, r.text + server.log.read_text()
    print(server.peak_memory(), server.written())
    print(list(tmp_path.rglob("*")))
