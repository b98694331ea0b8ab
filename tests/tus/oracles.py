"""Other servers of tus, which show that the tests ask for what the protocol says.

- ``@tus/server``, the reference server for Node.js, with its ``@tus/file-store``.
- SeaweedFS, whose filer has an endpoint for tus.
- ``resumable-upload``, a server in Python, the only one of these with checksums.
"""

import contextlib
import os
import signal
import subprocess
import sys
import urllib.request
import uuid
from pathlib import Path

from tests.support.node import ENVIRONMENT, install
from tests.support.paths import SCRIPTS
from tests.support.servers import eventually_answers, free_port
from tests.tus.target import Target


MAX_SIZE = 1 << 20

EXTENSIONS = {
    "tus-server": {
        "creation",
        "creation-with-upload",
        "creation-defer-length",
        "expiration",
        "termination",
    },
    "seaweedfs": {"creation", "creation-with-upload", "termination"},
    "resumable-upload": {
        "creation",
        "creation-with-upload",
        "creation-defer-length",
        "checksum",
        "expiration",
        "termination",
    },
}


@contextlib.contextmanager
def running(folder, command, url):
    """Run a server until the block ends."""
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=folder,
            env=ENVIRONMENT,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        eventually_answers(url)
        yield
    finally:
        # The command may have started the server, as that of Node.js does.
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


@contextlib.contextmanager
def tus_server(folder, request):
    install(Path(__file__).parent / "npm", folder)
    files = folder / "files"
    files.mkdir()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with running(folder, [SCRIPTS / "node", "server.js", port, files, MAX_SIZE], url):
        yield Target(
            creation_url=lambda: f"{url}/files",
            content=lambda _, upload: (files / upload.rpartition("/")[2]).read_bytes(),
            extensions=EXTENSIONS["tus-server"],
            max_size=MAX_SIZE,
            expiring_url=lambda: f"{url}/expiring",
        )


@contextlib.contextmanager
def seaweedfs(folder, request):
    ports = {f"{service}.port": free_port() for service in ("master", "volume", "filer")}
    grpc_ports = {f"{name}.grpc": free_port() for name in ports}
    options = {
        "dir": folder,
        "ip": "127.0.0.1",
        "filer.tusMaxSizeMB": MAX_SIZE >> 20,
        "master.telemetry": "false",
        "master.volumeSizeLimitMB": 64,
        **ports,
        **grpc_ports,
    }
    command = [SCRIPTS / "weed", "server", "-filer", *(f"-{k}={v}" for k, v in options.items())]
    url = f"http://127.0.0.1:{ports['filer.port']}"
    with running(folder, command, url):
        yield Target(
            creation_url=lambda: f"{url}/.tus/folder/{uuid.uuid4()}",
            content=lambda created, _: fetched(created.replace("/.tus/", "/")),
            extensions=EXTENSIONS["seaweedfs"],
            max_size=MAX_SIZE,
        )


@contextlib.contextmanager
def resumable_upload(folder, request):
    with (
        _resumable_upload(folder / "usual", "--enable-downloads") as url,
        _resumable_upload(folder / "expiring", "--upload-expiry=2") as expiring_url,
    ):
        yield Target(
            creation_url=lambda: url,
            content=lambda _, upload: fetched(upload),
            extensions=EXTENSIONS["resumable-upload"],
            max_size=MAX_SIZE,
            expiring_url=lambda: expiring_url,
        )


@contextlib.contextmanager
def _resumable_upload(folder, *options):
    folder.mkdir()
    port = free_port()
    command = [sys.executable, "-m", "resumable_upload", "serve", "--host=127.0.0.1"]
    command += [f"--port={port}", f"--max-size={MAX_SIZE}", *options]
    command += ["--checksum-algorithms=sha1,sha256,sha512,md5"]
    with running(folder, command, f"http://127.0.0.1:{port}/files"):
        yield f"http://127.0.0.1:{port}/files"


def fetched(url):
    with urllib.request.urlopen(url, timeout=30) as response:
        return response.read()


ORACLES = {
    "tus-server": tus_server,
    "seaweedfs": seaweedfs,
    "resumable-upload": resumable_upload,
}

DIFFERENCES = {
    "tus-server": {
        "test_an_unsupported_version_must_be_412": "it is 400",
        "test_the_response_to_an_unsupported_version_must_include_tus_version": "it does not",
        "test_the_method_must_be_that_of_x_http_method_override": "the header is ignored",
        "test_the_actual_method_must_be_ignored": "the header is ignored",
        "test_patch_of_another_content_type_should_be_415": "it is 400, or 403",
        "test_head_must_include_the_metadata_as_the_client_specified_it[bytes]": "UTF-8 only",
        "test_a_client_that_expects_100_gets_early_feedback": "it always gets 100",
    },
    "seaweedfs": {
        "test_the_response_to_an_unsupported_version_must_include_tus_version": "it does not",
        "test_the_method_must_be_that_of_x_http_method_override": "the header is ignored",
        "test_the_actual_method_must_be_ignored": "the header is ignored",
        "test_head_must_include_the_offset_even_if_the_upload_is_completed": "it is 404",
        "test_patch_may_come_in_chunks_of_http": "a Content-Length is required",
        "test_options_must_be_204_or_200_with_tus_version": "not for an upload",
        "test_an_upload_of_length_0_is_complete_when_it_is_created": "there is no file",
        "test_head_must_include_the_metadata_as_the_client_specified_it": "it has none",
        "test_head_of_an_upload_with_data_must_include_its_metadata": "it has none",
        "test_metadata_must_be_unique_keys_with_values_in_base64": "it is not checked",
        "test_the_length_of_a_creation_must_not_be_changed": "another length is ignored",
        "test_a_creation_may_include_all_data": "the completed upload is 404",
        "test_later_requests_should_be_404_or_410": "another DELETE is 204",
        "test_delete_of_what_does_not_exist_is_404": "it is 204",
    },
    "resumable-upload": {
        "test_the_response_to_an_unsupported_version_must_include_tus_version": "it does not",
        "test_the_actual_method_must_be_ignored": "not if it is DELETE",
        "test_head_must_include_the_metadata_as_the_client_specified_it[bytes]": "UTF-8 only",
        "test_metadata_must_be_unique_keys_with_values_in_base64[no key]": "it is not checked",
        "test_head_must_say_that_the_length_is_deferred_as_long_as_it_is_not_known": "the first "
        "PATCH has to have the length",
        "test_a_patch_of_nothing_may_set_the_length_and_complete_the_upload": "the first PATCH has "
        "to have the length",
        "test_a_deferred_length_is_not_less_than_what_is_there": "the first PATCH has to have the "
        "length",
        "test_a_creation_with_more_data_than_its_length_is_refused": "it is 201",
        "test_a_client_that_expects_100_gets_early_feedback": "it always gets 100",
        "test_upload_checksum_must_be_an_algorithm_and_a_checksum_in_base64[sha1 ***]": "it is 460",
        "test_upload_checksum_must_be_an_algorithm_and_a_checksum_in_base64[]": "it is ignored",
    },
}
"""What they do otherwise, ``{server: {test: reason}}``, with the parameter if only one fails."""
