# SPDX-License-Identifier: MIT
"""Container images without a registry: trees made of files of this Debian system.

Two layers, as images have them: *base* holds Debian packages with all that they
depend on, *function* the function, its weights and the server. Overlayfs puts
them together. faas-integration/Containerfile is the same for those who have a
registry and a builder.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from faas.functions import Function

HERE = Path(__file__).resolve().parents[1]
RUNTIME = HERE / "runtimes"
SERVER = Path("http", "server.py")  # below RUNTIME, and below RUNTIME_THERE in images
RUNTIME_THERE = Path("/opt/faas")
RUNTIME_FILES = (SERVER, *(Path("common", file.name) for file in (RUNTIME / "common").glob("*.py")))

BASE_PACKAGES = ("base-files", "coreutils", "dash", "libc-bin", "libc6", "python3", "util-linux")
RUNTIME_PACKAGES = ("python3-waitress",)
# Of dpkg: the files are there, and at most triggers have yet to run, as while apt-get works.
INSTALLED = {"installed", "triggers-awaited", "triggers-pending"}
ALTERNATIVES = Path("/var/lib/dpkg/alternatives")
MERGED = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")
LEFT_OUT = re.compile(
    r"/usr/(include|games|src)/|/usr/share/(doc|man|info|locale|lintian|icons|X11|iso-codes|"
    r"perl5?|bash-completion|proj|mime)/|/(perl5?|dri|cmake|pkgconfig)/|\.(a|h|pc)$|^/(boot|var|run)/"
)
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "etc/group": "root:x:0:\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
}
POINTS = ("dev", "proc", "sys", "tmp", "root", "run", "var/task", "var/tmp", "opt")


class ImageError(Exception):
    """An image cannot be made here; the text says why."""


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except FileNotFoundError as error:
        raise ImageError(f"no {command[0]} here: images are made of Debian packages") from error
    except subprocess.CalledProcessError as error:
        raise ImageError(f"{' '.join(command[:3])} …: {error.stderr.strip()[-300:]}") from error


def closure(packages: Iterable[str]) -> list[str]:
    """The packages with all that they depend on, as installed here. Raises ImageError."""
    wanted = sorted(set(packages) | set(BASE_PACKAGES) | set(RUNTIME_PACKAGES))
    status = _output("dpkg-query", "-W", "-f", "${binary:Package} ${Package} ${db:Status-Status}\n")
    known = {}
    for line in status.splitlines():
        full, plain, state = line.split()
        if state in INSTALLED:
            known[plain] = full
    if missing := [name for name in wanted if name not in known]:
        raise ImageError(f"packages that are not installed: {', '.join(missing)}")
    no = [f"--no-{kind}" for kind in ("recommends", "suggests", "conflicts", "breaks")]
    no += ["--no-replaces", "--no-enhances"]
    listing = _output("apt-cache", "depends", "--recurse", "--installed", *no, *wanted)
    names = {line.partition(":")[0] for line in listing.splitlines() if line[:1].isalnum()}
    return sorted(known[name] for name in names if name in known)


def _canonical(path: str) -> str:
    """The path with its directory resolved: packages name files by /lib, which is /usr/lib."""
    directory, name = os.path.split(path)
    return os.path.join(os.path.realpath(directory), name)  # noqa: PTH118  # keeps the link itself


def _alternatives(have: set[str]) -> set[str]:
    """Links of update-alternatives that lead to files that are had; no package lists them."""
    found = set()
    for admin in ALTERNATIVES.glob("*"):
        lines = admin.read_text().partition("\n\n")[0].splitlines()
        for name, link in zip([admin.name, *lines[2::2]], lines[1::2], strict=False):
            if os.path.realpath(link) in have:
                found |= {_canonical(link), f"/etc/alternatives/{name}"}
    return {path for path in found if os.path.lexists(path)}


def _files(packages: list[str], programs: Iterable[Path]) -> list[str]:
    """What goes into the base layer: absolute paths, no directories."""
    listing = _output("dpkg-query", "-L", *packages).splitlines()
    paths = {_canonical(line) for line in listing if line.startswith("/")}
    paths = {path for path in paths if not LEFT_OUT.search(path)}
    paths |= _alternatives(paths)
    for program in programs:
        for library in re.findall(r"=> (/\S+) \(", _output("ldd", str(program))):
            if not Path(library).is_relative_to(HERE.parent):
                paths |= {_canonical(library), os.path.realpath(library)}
    compiled = set()
    for path in paths:
        if path.endswith(".py"):
            directory, name = os.path.split(path)
            compiled |= {str(p) for p in Path(directory, "__pycache__").glob(f"{name[:-3]}.*.pyc")}
    return sorted(p for p in paths | compiled if Path(p).is_symlink() or Path(p).is_file())


def _stamp(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _is_current(directory: Path, stamp: str) -> bool:
    file = directory.with_suffix(".stamp")
    return directory.is_dir() and file.exists() and file.read_text() == stamp


def _finish(unfinished: Path, directory: Path, stamp: str) -> Path:
    directory.with_suffix(".stamp").unlink(missing_ok=True)
    if directory.exists():
        shutil.rmtree(directory)
    unfinished.rename(directory)
    directory.with_suffix(".stamp").write_text(stamp)
    return directory


def _fresh(directory: Path) -> Path:
    unfinished = directory.with_name(f"unfinished-{directory.name}")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir(parents=True)
    return unfinished


def base(directory: Path, packages: Iterable[str], programs: Iterable[Path]) -> Path:
    """The layer of those packages and of the libraries of those programs, made if not there.

    Raises ImageError where the packages are missing or this is no Debian system.
    """
    names = closure(packages)
    programs = list(programs)
    versions = _output("dpkg-query", "-W", *names).splitlines()
    linked = [f"{p} {_output('ldd', str(p)).count('=>')}" for p in programs]
    stamp = _stamp(["2", *versions, *linked])
    if _is_current(directory, stamp):
        return directory
    print(f"making an image of {len(names)} packages in {directory}", flush=True)
    tree = _fresh(directory)
    (tree / "usr").mkdir()
    for name in MERGED:
        if Path("/", name).is_symlink():
            (tree / name).symlink_to(Path("/", name).readlink())
            (tree / "usr" / name).mkdir()
    # Two processes and no loop: there are some ten thousand files.
    listing = "\0".join(path.lstrip("/") for path in _files(names, programs))
    pack = ["tar", "-C", "/", "-c", "--no-recursion", "--null", "-T", "-"]
    packed = subprocess.Popen(pack, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    unpack = subprocess.Popen(
        ["tar", "-C", str(tree), "-x", "--no-same-owner"], stdin=packed.stdout
    )
    assert packed.stdin is not None and packed.stdout is not None
    packed.stdout.close()
    packed.stdin.write(listing.encode())
    packed.stdin.close()
    if packed.wait() or unpack.wait():
        raise ImageError(f"cannot copy the packages' files to {tree}")
    for point in POINTS:
        (tree / point).mkdir(parents=True, exist_ok=True)
    for name, text in FILES.items():
        (tree / name).write_text(text)
    _output("/usr/sbin/ldconfig", "-r", str(tree))
    return _finish(tree, directory, stamp)


def function(directory: Path, what: Function, weights: Path | None) -> Path:
    """The layer of a function with its weights' file and the server, made if not there."""
    own = {Path("var/task", p.name): p for p in sorted(what.directory.iterdir()) if p.is_file()}
    there = RUNTIME_THERE.relative_to("/")
    sources = own | {there / name: RUNTIME / name for name in RUNTIME_FILES}
    parts = [f"{to} {hashlib.sha256(p.read_bytes()).hexdigest()}" for to, p in sources.items()]
    if weights is not None:
        parts.append(f"{weights.name} {weights.stat().st_mtime_ns} {weights.stat().st_size}")
    stamp = _stamp(parts)
    if _is_current(directory, stamp):
        return directory
    tree = _fresh(directory)
    for to, path in sources.items():
        (tree / to).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tree / to)
    if weights is not None:
        (tree / "var/task/weights").mkdir()
        shutil.copy(weights, tree / "var/task/weights")
    return _finish(tree, directory, stamp)


def copy(layers: list[Path], directory: Path) -> list[Path]:
    """The layers once more, as files of their own: a container's own copy of its image."""
    copies = []
    for layer in layers:
        there = directory / layer.name
        stamp = layer.with_suffix(".stamp").read_text()
        if not _is_current(there, stamp):
            tree = _fresh(there)
            subprocess.run(["cp", "-a", "--reflink=never", f"{layer}/.", str(tree)], check=True)
            _finish(tree, there, stamp)
        copies.append(there)
    return copies
