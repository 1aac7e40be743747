# SPDX-License-Identifier: MIT
"""A virtual environment with tools for deploy/ that Debian does not package, and its scripts.

It is made once, by pip; a test that needs it is skipped where that is not possible.
"""

import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "upm"
WANTED = Path(__file__).resolve().parent / "requirements.txt"


def environment(wanted: Path = WANTED, folder: Path = CACHE / "adopt-venv") -> Path | None:
    """The folder of the environment with what `wanted` lists, or None and why on stdout."""
    stamp = folder / "requirements.txt"
    if stamp.exists() and stamp.read_text() == wanted.read_text():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    pip: list[str | Path] = [folder / "bin/python", "-m", "pip", "install", "--quiet"]
    pip += ["--disable-pip-version-check", "--requirement", wanted]
    make: list[str | Path] = [sys.executable, "-m", "venv", folder]
    for command in (make, pip):
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if done.returncode != 0:
            last = done.stdout.strip().splitlines()[-1:]
            print(f"skipped: no environment of {wanted.relative_to(ROOT)}: {' '.join(last)}")
            return None
    shutil.copy(wanted, stamp)
    return folder


def enter() -> bool:
    """Runs the script again by the environment's Python; False where there is none."""
    folder = environment()
    if folder is None:
        return False
    if Path(sys.prefix) != folder:
        python = str(folder / "bin/python")
        os.execv(python, [python, "-B", *sys.argv])
    return True


def script(path: str) -> Any:
    """The script at that place of the project as a module."""
    loader = importlib.machinery.SourceFileLoader(Path(path).name, str(ROOT / path))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module
