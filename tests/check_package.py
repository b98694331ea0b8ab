"""Checks what a clean export of the last commit is built to, and that it can be installed.

The wheel is built from the sdist, installed without anything else, and installed by the tools of
Debian 12, whose pip writes the scripts of the commands in another way.
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
        run(
            sys.executable,
            "-m",
            "build",
            "--outdir",
            str(dist),
            str(source),
            stdout=subprocess.PIPE,
        )
        (wheel,) = dist.glob("*.whl")
        check_content(wheel)
        check_import(wheel, Path(folder) / "venv")
        check_old_tools(source, Path(folder) / "old")
    print(f"{wheel.name}: contains the package and nothing else, and works when it is installed")


def export(target):
    target.mkdir()
    archive = subprocess.run(
        ["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True
    ).stdout
    subprocess.run(["tar", "-x", "-C", str(target)], input=archive, check=True)


def check_content(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    others = [
        name
        for name in names
        if not name.startswith("kinto_attachment/") and ".dist-info/" not in name
    ]
    tracked = run_for_output("git", "ls-files", "kinto_attachment").split()
    missing = set(tracked) - set(names)
    if others or missing:
        raise SystemExit(f"The wheel contains {others} and lacks {missing}")


def check_import(wheel, environment):
    venv.create(environment, with_pip=True)
    python = str(environment / "bin" / "python")
    run(python, "-m", "pip", "install", "-q", str(wheel))
    run(python, "-c", "import kinto_attachment.http.attachment, kinto_attachment.storage.local")


def check_old_tools(source, environment):
    venv.create(environment, with_pip=True)
    python = str(environment / "bin" / "python")
    # Newer versions of Python do not run a pip that is as old.
    old = [f"{tool}; python_version < '3.12'" for tool in OLD_TOOLS]
    run(python, "-m", "pip", "install", "-q", *old)
    run(python, "-m", "pip", "install", "-q", f"{source}[scripts]")
    for script in ("kinto-attachment", "kinto-attachment-upload", "kinto-attachment-download"):
        subprocess.run(
            [environment / "bin" / script, "--help"], check=True, stdout=subprocess.DEVNULL
        )


def run_for_output(*command):
    return subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout


def run(*command, **kwargs):
    subprocess.run(command, check=True, cwd="/", **kwargs)


if __name__ == "__main__":
    main()
