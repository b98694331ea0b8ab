"""What the tests of the helper scripts share: folders, runs of a script, servers that fail."""

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import requests

from kinto_attachment.scripts import download
from tests.support.gcs import GCSBucket
from tests.support.paths import ROOT
from tests.support.s3 import Bucket
from tests.support.servers import Server
from tests.support.settings import base_settings


MEASURED = """
import re, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print(re.search(r"VmHWM:.*", open("/proc/self/status").read())[0], file=sys.stderr)
"""


MIB = 1 << 20
STORY = b"once upon a time " * 100


def make_folder(folder, count, seed=1):
    """Fill a folder with so many small files, random and of different sizes."""
    numbers = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"file {number}.bin").write_bytes(numbers.randbytes(numbers.randrange(3000)))
    return folder


def make_large_file(path, size, seed=1):
    """Write a file of random MiB, repeated in random order, so that it is made fast."""
    numbers = random.Random(seed)
    blocks = [numbers.randbytes(1 << 20) for _ in range(16)]
    with path.open("wb") as file:
        for _ in range(size >> 20):
            file.write(numbers.choice(blocks))
    return path


def tree(folder):
    """Return ``{name: SHA-256}`` of all there is in a folder, but for the state of the script."""
    return {
        str(path.relative_to(folder)): sha256_of(path)
        for path in Path(folder).rglob("*")
        if path.is_file() and path.name != ".last_sync"
    }


def sha256_of(path):
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def script_storage(request):
    """Return the settings of a server with the storage that the parameter of a fixture names.

    (``base_path`` is added to those of a local folder.)
    """
    if request.param == "local":
        yield {"attachment__serve_files": True}
        return
    if request.param == "gcs":
        fake_gcs = request.getfixturevalue("fake_gcs")
        yield GCSBucket(fake_gcs.url, f"scripts-{uuid.uuid4()}").settings()
        return
    bucket = Bucket(request.getfixturevalue("seaweedfs").endpoint_url, f"scripts-{uuid.uuid4()}")
    yield bucket.settings()
    stored = bucket.keys()
    for key in stored:
        bucket.client.delete_object(Bucket=bucket.name, Key=key)
    bucket.client.delete_bucket(Bucket=bucket.name)


def start_server(folder, storage, **settings):
    """Return a real server that takes files of any kind.

    :param storage: what :func:`script_storage` gives.
    """
    settings = {"attachment__extensions": "any", **storage, **settings}
    prefixed = {f"kinto.{name.replace('__', '.')}": value for name, value in settings.items()}
    files = {"kinto.attachment.base_path": str(folder / "files")}
    server = Server("granian", folder / "server", base_settings() | files | prefixed)
    return server.wait_until_ready()


class Scripts:
    """Runs the scripts of the checkout on one collection.

    :ivar options: the command line's, before those of each run.
    """

    def __init__(self, url, auth="alice:secret", bucket="blog", collection="photos"):
        self._arguments = {"url": url, "auth": auth, "bucket": bucket, "collection": collection}
        self.collection = f"{url}/buckets/{bucket}/collections/{collection}"
        self.auth = tuple(auth.split(":"))
        self.options = ["--server", url, "--auth", auth, "--bucket", bucket]
        self.options += ["--collection", collection]

    def but(self, **arguments):
        """Return others like these, with something changed."""
        return Scripts(**{**self._arguments, **arguments})

    def command(self, name, *args, code=None):
        """Return the command that runs a script, or code that is given the script's arguments."""
        script = str(ROOT / "scripts" / f"{name}.py")
        python = [sys.executable, *(["-c", code] if code else [])]
        return [*python, script, *self.options, *map(str, args)]

    def run(self, name, *args, code=0, **kwargs):
        """Return what the script printed, by lines of JSON, when it ended with this code."""
        done = self.run_plain(name, "--json", *args, code=code, **kwargs)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def run_plain(self, name, *args, code=0, **kwargs):
        """Return the ended process, its output as text."""
        command = self.command(name, *args)
        done = subprocess.run(command, capture_output=True, text=True, **kwargs)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def upload(self, *args, **kwargs):
        return self.run("upload", *args, **kwargs)

    def download(self, folder, *args, **kwargs):
        return self.run("download", "--folder", folder, *args, **kwargs)

    def start(self, name, *args, code=None):
        # What is started in the background of a shell ignores it, and hands that on.
        reset = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = self.command(name, *args, code=code)
        return subprocess.Popen(command, text=True, **pipes, **reset)

    def peak_memory(self, name, *args):
        """Return the largest resident memory of a run, in bytes."""
        command = self.command(name, *args, code=MEASURED)
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return int(done.stderr.split()[-2]) * 1024

    def records(self):
        """Return ``{name: record}`` of the collection, by the names that the upload gave."""
        records = requests.get(f"{self.collection}/records", auth=self.auth).json()["data"]
        return {self._name(record): record for record in records}

    def _name(self, record):
        content = record.get("original") or record["attachment"]
        return record.get("path") or content["filename"]


def actions(lines):
    """Return ``{action: names}`` of what a script printed, without the summary."""
    by_action = {}
    for line in lines:
        if line["action"] != "summary":
            by_action.setdefault(line["action"], set()).add(line["name"])
    return by_action


def failures(lines):
    """Return ``{name: message}`` of what failed."""
    return {line["name"]: line["message"] for line in lines if line["action"] == "failed"}


def download_from(kinto, folder, capsys):
    """Return what runs the download script in this process, and returns its lines of JSON."""

    def run(*args, code=0, url=kinto.url, auth="alice:secret"):
        options = ["-s", url, "-b", "blog", "-c", "photos", "--json", "--folder", str(folder)]
        options += ["--retry-after", "0", *(["-a", auth] if auth else []), *map(str, args)]
        assert download.main(options) == code
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


def kill(process, how=signal.SIGKILL):
    process.send_signal(how)
    return (*process.communicate(timeout=30), process.returncode)


def without_modules(folder, *names):
    """Return an environment in which Python does not find these modules.

    :param folder: for the file that does that.
    """
    code = "".join(f"import sys; sys.modules[{name!r}] = None\n" for name in names)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(code)
    return {**os.environ, "PYTHONPATH": str(folder)}


def download_ranges(kinto):
    """Return the ``Range`` headers of all downloads."""
    requests = zip(kinto.seen, kinto.headers, strict=True)
    return [headers["Range"] for (_, path), headers in requests if "stored-" in path]


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def everything_in(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def write_journal(folder, *lines):
    """Write the journal of a run that did not finish."""
    (folder / ".partial").mkdir()
    (folder / ".partial" / "journal").write_text("\n" + "\n".join(lines))


def saved_state(kinto, **changes):
    """Return what the script saves before it downloads anything, with these changes."""
    source = [kinto.url, "blog", "photos"]
    nothing = {"source": source, "timestamp": None, "names": {}, "hashes": {}, "obsolete": {}}
    return json.dumps(nothing | changes)
