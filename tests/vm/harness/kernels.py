# SPDX-License-Identifier: MIT
"""Finds, fetches and unpacks the kernel that a virtual machine boots.

Images come from Debian's packages and are only unpacked below the cache
directory, never installed. What is booted is the ELF image inside the bzImage,
by its PVH entry: the decompressor would cost several seconds under emulation.
"""

from __future__ import annotations

import fcntl
import gzip
import io
import lzma
import os
import re
import shutil
import struct
import subprocess
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import VmError

_HEADERS = Path("/usr/src")
_HERE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Kernel:
    """A kernel that is ready to boot."""

    name: str
    """What the caller asked for: `6.1`, `6.12`, `debug` or a path."""
    release: str
    """What `uname -r` says in the guest."""
    image: Path
    """An ELF image with a PVH entry, or a bzImage where there is none."""
    modules: Path | None
    """`…/lib/modules/<release>`; None if the kernel has all it needs built in."""
    upm_dir: str
    """The directory below build/kmod/ that has the module for this kernel."""


def cache_dir() -> Path:
    """The directory for everything that is kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    return Path(base) / "upm"


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Holds a lock on a cache directory, which is made if it is not there."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def default() -> str:
    """6.1 if its headers are installed, else the newest series of which there are any."""
    series = [
        m[1]
        for p in _HEADERS.glob("linux-headers-*-amd64")
        if (m := re.match(r"linux-headers-(\d+\.\d+)", p.name))
    ]
    if "6.1" in series or not series:
        return "6.1"
    return max(series, key=_numbers)


def find(name: str) -> Kernel:
    """The kernel called `name` (see Kernel.name), fetched if need be."""
    if name == "debug":
        return _debug()
    if re.fullmatch(r"\d+\.\d+", name):
        return _debian(name)
    path = Path(name)
    if not path.is_file():
        raise VmError(f"--kernel {name}: neither a version such as 6.1, nor debug, nor a file")
    return _from_file(path.resolve())


def _debug() -> Kernel:
    script = _HERE / "debug-kernel"
    found = subprocess.run([script, "--path"], capture_output=True, text=True, check=False)
    if found.returncode:
        raise VmError(f"{found.stderr.strip()}\nbuild it with {script} (15 to 30 minutes)")
    # Not by the PVH entry: on 6.1 its C code is instrumented by KASAN, and runs
    # before KASAN's shadow memory is there.
    image = Path(found.stdout.split()[-1]) / "bzImage"
    return Kernel("debug", _release_of(image), image, None, "debug")


def _debian(version: str) -> Kernel:
    sid = cache_dir() / "sid" / version
    if sid.is_dir() and not _releases(version, _HEADERS):
        return _sid(version, sid)
    release = _newest_release(version)
    kernels = cache_dir() / "kernels"
    with locked(kernels):
        root = _unpack(_fetch(kernels, release), release)
    image = root / "boot" / f"vmlinuz-{release}"
    return Kernel(version, release, _boot_image(image), _modules_of(image, release), release)


def _sid(version: str, folder: Path) -> Kernel:
    """What tests/vm/sid-kernel has unpacked."""
    release = _releases(version, folder / "root" / "usr" / "src")[-1]
    modules = folder / "image" / "lib" / "modules" / release
    return Kernel(version, release, _boot_image(modules / "vmlinuz"), modules, release)


def _from_file(image: Path) -> Kernel:
    release = _release_of(image)
    modules = _modules_of(image, release)
    return Kernel(str(image), release, _boot_image(image), modules, release)


def _modules_of(image: Path, release: str) -> Path | None:
    """The modules beside `…/boot/vmlinuz`, as in an unpacked package."""
    for lib in ("lib", "usr/lib"):
        modules = image.parent.parent / lib / "modules" / release
        if (modules / "modules.dep").is_file():
            return modules
    return None


def _releases(version: str, headers: Path) -> list[str]:
    """The releases of a kernel series of which a folder has headers, the newest last."""
    pattern = re.compile(rf"linux-headers-({re.escape(version)}[.+].*-amd64)")
    found = [m[1] for p in headers.iterdir() if (m := pattern.fullmatch(p.name))]
    return sorted((r for r in found if "-cloud-" not in r and "-rt-" not in r), key=_numbers)


def _newest_release(version: str) -> str:
    """The newest release of a kernel series whose headers are installed.

    The module is built against these headers, so only this image will do.
    """
    found = _releases(version, _HEADERS)
    if not found:
        raise VmError(
            f"no linux-headers-{version}*-amd64 in {_HEADERS}; for 6.1: apt-get install "
            "linux-headers-amd64, for 6.12: apt-get install linux-headers-6.12-amd64; for the "
            f"kernel of Debian sid: make kmod-{version}"
        )
    return found[-1]


def _numbers(version: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", version)]


def _fetch(kernels: Path, release: str) -> Path:
    """The package with the image of `release`, from the cache or by apt."""
    package = f"linux-image-{release}"
    if cached := sorted(kernels.glob(f"{package}_*.deb")):
        return cached[-1]
    incoming = kernels / "incoming"
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.mkdir()
    command = ["apt-get", "-q", "download", package]
    got = subprocess.run(command, cwd=incoming, capture_output=True, text=True, check=False)
    debs = sorted(incoming.glob("*.deb"))
    if got.returncode or not debs:
        raise VmError(f"{' '.join(command)} failed (is `apt-get update` due?):\n{got.stderr}")
    return debs[-1].rename(kernels / debs[-1].name)


def _unpack(deb: Path, release: str) -> Path:
    root = deb.with_suffix("")
    if root.is_dir():
        return root
    partial = deb.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    subprocess.run(["dpkg-deb", "-x", deb, partial], check=True)
    depmod = shutil.which("depmod", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if depmod is None:
        raise VmError("depmod is missing: apt-get install kmod")
    subprocess.run([depmod, "-b", partial, release], check=True)
    return partial.rename(root)


def _release_of(image: Path) -> str:
    """The release string in a bzImage's header."""
    with image.open("rb") as f:
        head = f.read(0x10000)
    if head[0x202:0x206] != b"HdrS":
        raise VmError(f"{image} is not a bzImage")
    start = struct.unpack_from("<H", head, 0x20E)[0] + 0x200
    return head[start : head.index(b"\0", start)].split()[0].decode()


def _boot_image(bzimage: Path) -> Path:
    """The ELF image of a bzImage, kept in the cache; or the bzImage itself.

    The latter boots as well, only more slowly.
    """
    stat = bzimage.stat()
    key = f"{stat.st_dev:x}-{stat.st_ino:x}-{stat.st_mtime_ns:x}-{stat.st_size:x}"
    directory = cache_dir() / "vmlinux"
    elf = directory / f"{key}.elf"
    with locked(directory):
        if elf.exists():
            return elf
        data = _elf_of(bzimage.read_bytes())
        if data is None:
            return bzimage
        partial = elf.with_suffix(".partial")
        partial.write_bytes(data)
        return partial.rename(elf)


def _elf_of(bzimage: bytes) -> bytes | None:
    setup_sectors = bzimage[0x1F1] or 4
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    payload = bzimage[start : start + length]
    try:
        elf = _decompress(payload)
    except (OSError, EOFError, lzma.LZMAError, zlib.error, subprocess.SubprocessError):
        return None
    return elf if elf.startswith(b"\x7fELF") and _has_pvh_entry(elf) else None


def _decompress(payload: bytes) -> bytes:
    # The last four bytes are the size of the result, which gzip has anyway.
    if payload.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=io.BytesIO(payload)).read()
    if payload.startswith(b"\xfd7zXZ"):
        return lzma.LZMADecompressor().decompress(payload)
    if payload.startswith(b"\x28\xb5\x2f\xfd"):
        command = ["zstd", "-dcq"]
        return subprocess.run(command, input=payload[:-4], stdout=-1, check=True).stdout
    return b""


def _has_pvh_entry(elf: bytes) -> bool:
    """Whether there is a Xen note of type 18, XEN_ELFNOTE_PHYS32_ENTRY."""
    return re.search(rb"\x04\0\0\0[\x04\x08]\0\0\0\x12\0\0\0Xen\0", elf) is not None
