# SPDX-License-Identifier: MIT
"""The initramfs: busybox, the modules that reach the host's files, and a job.

It is two cpio archives one after the other, as the kernel allows: a base,
kept per kernel, and what one run adds to it.
"""

from __future__ import annotations

import hashlib
import lzma
import shlex
import shutil
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

from . import VmError
from .kernels import Kernel, cache_dir, locked

_GUEST_INIT = Path(__file__).resolve().parent.parent / "guest-init"
_MODULES = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay")
_SWAP_MODULES = ("virtio_blk",)


class _Cpio:
    """Writes an archive in the `newc` format."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._inode = 0

    def add(self, name: str, content: bytes, mode: int = stat.S_IFREG | 0o644) -> None:
        self._inode += 1
        path = name.encode() + b"\0"
        fields = (self._inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
        self._data += b"070701" + b"".join(b"%08X" % f for f in fields) + path
        self._pad()
        self._data += content
        self._pad()

    def add_directory(self, name: str) -> None:
        self.add(name, b"", stat.S_IFDIR | 0o755)

    def finish(self) -> bytes:
        self.add("TRAILER!!!", b"", 0)
        return bytes(self._data)

    def _pad(self) -> None:
        self._data += b"\0" * (-len(self._data) % 4)


def base(kernel: Kernel) -> bytes:
    """The part that depends on the kernel alone."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise VmError("busybox is missing: apt-get install busybox-static")
    key = _key(kernel, Path(busybox))
    directory = cache_dir() / "initramfs"
    archive = directory / f"{kernel.release}-{key}.cpio"
    with locked(directory):
        if not archive.exists():
            for old in directory.glob(f"{kernel.release}-*"):
                old.unlink()
            partial = archive.with_suffix(".partial")
            partial.write_bytes(_build(kernel, Path(busybox)))
            partial.rename(archive)
        return archive.read_bytes()


def _key(kernel: Kernel, busybox: Path) -> str:
    """A hash of the inputs; big ones count by size and time of change."""
    digest = hashlib.sha256(_GUEST_INIT.read_bytes() + Path(__file__).read_bytes())
    inputs = [busybox, kernel.image]
    if kernel.modules:
        inputs.append(kernel.modules / "modules.dep")
    for path in inputs:
        info = path.stat()
        digest.update(f"{path} {info.st_size} {info.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _build(kernel: Kernel, busybox: Path) -> bytes:
    linked = subprocess.run(["ldd", busybox], capture_output=True, check=False)
    if linked.returncode == 0:
        raise VmError(f"{busybox} is not static: apt-get install busybox-static")
    cpio = _Cpio()
    for name in ("bin", "dev", "host", "links", "mnt", "modules", "proc", "tmp"):
        cpio.add_directory(name)
    for number, name in enumerate(("fd", "stdin", "stdout", "stderr")):
        target = "/proc/self/fd" + (f"/{number - 1}" if number else "")
        cpio.add(f"links/{name}", target.encode(), stat.S_IFLNK | 0o777)
    cpio.add("dev/console", b"", stat.S_IFCHR | 0o600)
    cpio.add("bin/busybox", busybox.read_bytes(), stat.S_IFREG | 0o755)
    cpio.add("init", _GUEST_INIT.read_bytes(), stat.S_IFREG | 0o755)
    have: set[str] = set()
    for list_name, wanted in (("modules.list", _MODULES), ("swap.list", _SWAP_MODULES)):
        lines = ""
        for path in _in_load_order(kernel, wanted):
            name = path.name.partition(".")[0] + ".ko"
            if name not in have:
                cpio.add(f"modules/{name}", _read_module(path))
                have.add(name)
                lines += name + "\n"
        cpio.add(list_name, lines.encode())
    return cpio.finish()


def _in_load_order(kernel: Kernel, wanted: tuple[str, ...]) -> list[Path]:
    """The files of the modules and of all that they depend on, dependencies first."""
    if kernel.modules is None:
        return []
    needs: dict[str, list[str]] = {}
    by_name: dict[str, str] = {}
    for line in (kernel.modules / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
        by_name[Path(path).name.partition(".")[0].replace("-", "_")] = path
    order: dict[str, None] = {}

    def visit(path: str) -> None:
        for dependency in needs[path]:
            visit(dependency)
        order.setdefault(path)

    for name in wanted:
        if name in by_name:  # otherwise it is built in
            visit(by_name[name])
    return [kernel.modules / path for path in order]


def _read_module(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dcq"], input=data, stdout=-1, check=True).stdout
    return data


def job(settings: Mapping[str, str], command: bytes, module: bytes | None) -> bytes:
    """The part that depends on the run.

    `settings` become shell variables of guest-init; `command` is a shell
    script that becomes the command; `module` is the module to load.
    """
    cpio = _Cpio()
    lines = "".join(f"{key}={shlex.quote(value)}\n" for key, value in settings.items())
    cpio.add("job", lines.encode(errors="surrogateescape"))
    cpio.add("command", command)
    if module is not None:
        cpio.add("upm.ko", module)
    return cpio.finish()
