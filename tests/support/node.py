"""The Node.js of the virtual environment."""

import os
import shutil
import subprocess

from tests.support.paths import SCRIPTS


ENVIRONMENT = {**os.environ, "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"}


def run_node(command, *arguments, cwd, timeout=120):
    """Return what a command of Node.js printed."""
    finished = subprocess.run(
        [SCRIPTS / command, *map(str, arguments)],
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def install(source, folder):
    """Copy a folder of scripts, and install the packages that they need."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    run_node("npm", "ci", "--ignore-scripts", "--cache", folder / "cache", cwd=folder)
    return folder
