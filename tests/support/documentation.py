"""The examples of the documentation, as they are printed."""

import os
import re
import textwrap
import time

from tests.support.paths import ROOT, SCRIPTS
from tests.support.servers import Server, free_port


CODE_BLOCK = re.compile(
    r"^(?P<indent> *)\.\. code-block:: (?P<language>\w+)\n\n"
    r"(?P<code>(?:(?:(?P=indent) {4}.*)?\n)+)",
    re.MULTILINE,
)


# curl would look for a proxy, and for settings of its own.
ENVIRONMENT = {"PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}", "HOME": "/nonexistent"}

PAGES = [
    path
    for path in [*ROOT.glob("*.rst"), *sorted(ROOT.glob("docs/**/*.rst"))]
    if ".. include::" not in path.read_text()
]
NAMES = [str(path.relative_to(ROOT).with_suffix("")) for path in PAGES]


def page(name):
    """Return the text of a page, like ``"README"`` or ``"docs/tutorial"``."""
    return (ROOT / f"{name}.rst").read_text()


def blocks(name, language):
    """Return the code blocks of a page that are in a language, in their order."""
    return [
        textwrap.dedent(block["code"]).strip()
        for block in CODE_BLOCK.finditer(page(name))
        if block["language"] == language
    ]


def only(name, language, text):
    """Return the one code block of a page that is in a language and contains this text."""
    (found,) = [block for block in blocks(name, language) if text in block]
    return found


def table(name, first, number=0):
    """Return the rows of a table on a page, without the headers.

    :param first: its first header.
    :param number: which one of several with that header.
    """
    tables = re.split(r"^\.\. list-table::\n", page(name), flags=re.MULTILINE)[1:]
    rows = [re.split(r"^   \* - ", text, flags=re.MULTILINE)[1:] for text in tables]
    cells = [[_cells(row) for row in one] for one in rows]
    return [one for one in cells if one[0][0] == first][number][1:]


def _cells(row):
    """Return the cells of a row, each in one line."""
    # The last one ends with its table.
    row = re.split(r"\n(?! {5})", row)[0]
    return [" ".join(cell.split()) for cell in re.split(r"^ {5}- ", row, flags=re.MULTILINE)]


def sessions(name):
    """Return ``[(command, what it prints)]`` of the terminal sessions on a page, in their order."""
    text = "\n".join(blocks(name, "console"))
    found = re.findall(r"^\$ (.+(?:\\\n.+)*)\n?((?:(?!\$ ).*\n?)*)", text, re.MULTILINE)
    return [(command, printed.strip()) for command, printed in found]


class ProductionServer(Server):
    """The Kinto of the guide to production, with its commands, on other ports and folders.

    :ivar files: the folder of its files.
    """

    def __init__(self, folder, database_url, settings=""):
        """Take settings beside those of the guide, as a text."""
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.log = folder / "server.log"
        self.files = folder / "files"
        ini = folder / "production.ini"
        printed = only("docs/how-to/production", "ini", "kinto.plugins.prometheus")
        places = {"/srv/kinto/files": str(self.files), "[loggers]": f"{settings}\n\n[loggers]"}
        printed = replaced(printed, places)
        ini.write_text(re.sub(r"postgresql\+psycopg2://kinto:\S+", database_url, printed))
        commands = replaced(
            only("docs/how-to/production", "shell", "kinto migrate"),
            {
                "/etc/kinto/production.ini": str(ini),
                "/run/kinto-metrics": str(folder / "metrics"),
                "--port 8888": f"--port {self.port}",
                # It would ask for the password.
                "--username admin": "--username admin --password secret",
                # The shell is there already.
                "cd config\n": "",
            },
        )
        *first, last = commands.replace("\\\n", "").splitlines()
        # The signal that stops the server has to reach it, and not the shell.
        commands = "\n".join([*first, f"exec env {last}"])
        path = f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"
        self._command = ["bash", "-e", "-c", commands]
        self._environment = {**os.environ, "PATH": path}
        self.start()

    def wait_until_ready(self, seconds=60):
        """Wait for both workers before any request.

        Each deletes the metrics of all when it starts, in any order, and a worker that has counted
        a request by then goes on to count where nobody looks.
        """
        deadline = time.monotonic() + seconds
        while not all(f"Started worker-{n}" in self.log.read_text() for n in (1, 2)):
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)
        return super().wait_until_ready(seconds)


def replaced(text, replacements):
    """Return a text in which all of these are replaced, each of which it has to have."""
    for old, new in replacements.items():
        assert old in text, old
        text = text.replace(old, new)
    return text
