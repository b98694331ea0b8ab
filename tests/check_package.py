"""Builds the wheel from a clean export of the last commit, and checks that it installs alone.

And that the tools of Debian 12 install its commands so that they run.

Run by ``make package``: it takes a virtual environment of its own.
"""

import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path


ROOT = Path(__file__).parent.parent
OLD_TOOLS = ("pip==23.0.1", "setuptools==66.1.1")


def main():
    with tempfile.TemporaryDirectory() as folder:
        source, dist = Path(folder) / "source", Path(folder) / "dist"
        export(source)
        run(sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(dist), str(source))
        (wheel,) = dist.glob("*.whl")
        check_content(wheel)
        check_import(wheel, Path(folder) / "venv")
        check_old_tools(source, Path(folder) / "old")
    print(f"{wheel.name}: holds the package and nothing else, and works where it is installed")


def export(target):
    target.mkdir()
    archive = subprocess.run(
        ["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True
    ).stdout
    subprocess.run(["tar", "-x", "-C", str(target)], input=archive, check=True)


def check_content(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    strangers = [
        name
        for name in names
        if not name.startswith("kinto_attachment/") and ".dist-info/" not in name
    ]
    tracked = run_for_output("git", "ls-files", "kinto_attachment").split()
    missing = set(tracked) - set(names)
    if strangers or missing:
        raise SystemExit(f"The wheel holds {strangers} and lacks {missing}")


def check_import(wheel, environment):
    venv.create(environment, with_pip=True)
    python = str(environment / "bin" / "python")
    run(python, "-m", "pip", "install", "-q", str(wheel))
    run(python, "-c", "import kinto_attachment.http.attachment, kinto_attachment.storage.local")


def check_old_tools(source, environment):
    venv.create(environment, with_pip=True)
    python = str(environment / "bin" / "python")
    # Newer ones of Python have no pip that is as old.
    old = [f"{tool}; python_version < '3.12'" for tool in OLD_TOOLS]
    run(python, "-m", "pip", "install", "-q", *old)
    run(python, "-m", "pip", "install", "-q", f"{source}[scripts]")
    for script in ("kinto-attachment", "kinto-attachment-upload", "kinto-attachment-download"):
        subprocess.run(
            [environment / "bin" / script, "--help"], check=True, stdout=subprocess.DEVNULL
        )


def run_for_output(*command):
    return subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout


def run(*command):
    subprocess.run(command, check=True, cwd="/")


if __name__ == "__main__":
    main()
