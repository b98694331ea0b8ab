"""Debian's nginx, with configurations of the documentation."""

import os
import subprocess

import requests

from tests.support.app import ATTACHMENT
from tests.support.documentation import only, replaced
from tests.support.servers import eventually_answers, free_port
from tests.support.users import basic_auth


AROUND = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{servers}
}}
"""

FILES = {"Host": "files.example.com"}
API = {"Host": "kinto.example.com", "Authorization": basic_auth("admin")}


class Nginx:
    """A context in which nginx runs.

    :ivar url: where all its servers answer.
    :ivar temporary: the folder into which it would write bodies of requests.
    """

    def __init__(self, folder, servers):
        """Take servers of a configuration that listen as Debian's do, on port 80."""
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.temporary = folder / "body"
        folder.mkdir()
        servers = replaced(servers, {"listen 80;": f"listen 127.0.0.1:{port};"})
        # As the workers are another user, who cannot enter the test's folder.
        user = "user root;" if os.geteuid() == 0 else ""
        configuration = folder / "nginx.conf"
        configuration.write_text(user + AROUND.format(folder=folder, servers=servers))
        # Before it reads its configuration, it opens another log, which is the system's otherwise.
        self._command = ["nginx", "-e", folder / "error.log", "-p", folder, "-c", configuration]

    def __enter__(self):
        self._process = subprocess.Popen(self._command)
        try:
            eventually_answers(self.url)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait(20)

    def status(self, path, headers=()):
        """Return the status of a GET of a path as it is, with its dots and slashes."""
        request = requests.Request("GET", self.url, headers=dict(headers)).prepare()
        request.url = f"{self.url}{path}"
        with requests.Session() as session:
            return session.send(request, timeout=30, allow_redirects=False).status_code


class ProductionNginx(Nginx):
    """The nginx of the guide to production in front of its Kinto, with both of its servers.

    :ivar kinto: the :class:`~tests.support.documentation.ProductionServer`.
    """

    def __init__(self, folder, kinto):
        self.kinto = kinto
        printed = only("docs/how-to/production", "nginx", "server_name")
        places = {
            "http://127.0.0.1:8888": f"http://127.0.0.1:{kinto.port}",
            "/srv/kinto/files": str(kinto.files),
        }
        super().__init__(folder, replaced(printed, places))

    def api(self, method, path, headers=API, **kwargs):
        """Send a request to Kinto, by default one of the user admin."""
        return requests.request(
            method,
            f"{self.url}/v1{path}",
            headers=headers,
            timeout=120,
            allow_redirects=False,
            **kwargs,
        )

    def create_collection(self, name="photos"):
        """Have a collection in the bucket "blog"."""
        for path in ("/buckets/blog", f"/buckets/blog/collections/{name}"):
            assert self.api("PUT", path).ok

    def attach(self, name, content, path=ATTACHMENT):
        """Attach a file to a record."""
        return self.api("POST", path, files={"attachment": (name, content)})

    def file(self, attachment, **headers):
        """Fetch a public file from its location."""
        path = attachment["location"].removeprefix("https://files.example.com")
        return requests.get(self.url + path, headers={**FILES, **headers}, timeout=60)
