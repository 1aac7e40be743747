# SPDX-License-Identifier: MIT
"""One run of qemu: its command line, its channels, and its end.

Nothing is left on disk: what qemu reads and writes are file descriptors of
sockets and of unnamed files. The kernel kills qemu if this process dies.
"""

from __future__ import annotations

import os
import secrets
import selectors
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import VmError, initramfs, klog
from .kernels import Kernel

# What the kernel is told besides the console. Emulation is slow, so that what
# measures real time gets patience or is switched off; hung tasks are found by
# khungtaskd, whose limit guest-init sets.
_BOOT = (
    "console=ttyS0 loglevel=7 printk.time=1 printk.devkmsg=on log_buf_len=4M 8250.nr_uarts=1 "
    "oops=panic panic=-1 reboot=t "
    "rcupdate.rcu_cpu_stall_timeout=300 nowatchdog workqueue.watchdog_thresh=300 "
    "tsc=reliable no_timer_check random.trust_cpu=on mitigations=off nokaslr "
    "audit=0 cgroup_no_v1=all secretmem.enable=1 "
    # Else the first trace event has the scheduler patched, over which qemu stumbles (klog.py).
    "trace_options=norecord-cmd "
    "cryptomgr.notests initcall_blacklist=blake2s_mod_init"  # self-tests: a second of 6.1's boot
)
# Makes a kernel panic for want of a first process.
_BOOT_DYING = "rdinit=/none"
# page_poison finds writes to freed pages that only a TLB entry still reaches.
_BOOT_DEBUG = "page_owner=on page_poison=1"
# Bytes of a 9p message. Larger ones were not faster, and the guest would need
# buffers of more contiguous pages than a nearly full memory has.
_MSIZE = 131072
# Seconds without a word on the console after which a boot counts as dead. On a busy host
# a kernel may wait for ever for an interrupt of its emulated timer.
_SILENCE = 240.0


@dataclass
class Options:
    """What the caller may choose; see `run --help`."""

    command: Sequence[str]
    memory: int = 2048
    cpus: int = 2
    numa: int = 0
    timeout: float = 600
    icount: bool = False
    append: str = ""
    swap: int = 0
    module: Path | None = None
    out: Path | None = None
    keep: Sequence[Path] = ()
    kmemleak: bool = False
    panic_on_warn: bool = True
    dying_boots: int = 0
    """So many boots, from the first, panic before the guest is ready."""
    silence: float = _SILENCE
    halted: bool = False
    """The processors never start, to test that a silent boot is noticed."""


@dataclass
class Outcome:
    """What came back from the guest."""

    log: bytearray = field(default_factory=bytearray)
    """The kernel's console."""
    errors: bytearray = field(default_factory=bytearray)
    """What qemu wrote to its standard error."""
    status: int | None = None
    """The command's exit status, if the guest told one."""
    done: bool = False
    """The guest said by its token that all steps are complete."""
    failed: str = ""
    dirty: list[str] = field(default_factory=list)
    timed_out: bool = False
    silent: bool = False
    """Nothing more came from the kernel while it booted, and it was stopped."""
    boot_seconds: float = 0
    """When the guest was ready; 0 if it never was."""
    total_seconds: float = 0

    def died_in_boot(self) -> bool:
        """Returns true if the kernel died or fell silent before the guest was ready.

        Nothing of the project has run by then, the module included. A guest that
        gave up with a reason, one that is slow and a qemu that starts no kernel fail
        at each boot; they do not count.
        """
        if self.silent:
            return True
        ended = not (self.boot_seconds or self.failed or self.timed_out)
        return ended and bool(klog.dirty_lines(self.log.decode(errors="replace").splitlines()))


def _command_script(options: Options) -> bytes:
    """A shell script that runs the command as it would run here."""
    passed = {"PATH": os.environ.get("PATH", os.defpath), "HOME": "/root", "USER": "root"}
    passed |= {"LOGNAME": "root", "SHELL": "/bin/bash", "TERM": "dumb", "LANG": "C.UTF-8"}
    passed |= {k: v for k, v in os.environ.items() if k.startswith(("UPM_", "GTEST_"))}
    words = ["/usr/bin/env", "-i", *(f"{k}={v}" for k, v in passed.items()), *options.command]
    text = f"cd {shlex.quote(str(Path.cwd()))} && exec {shlex.join(words)}\n"
    return os.fsencode(text)


def _keep_list(options: Options) -> list[Path]:
    """The directories that the guest's own /tmp and the like would hide."""
    hidden = ("/tmp", "/run", "/dev/shm")
    wanted = sorted({Path.cwd(), *options.keep})
    found = [p for p in wanted if any(p.is_relative_to(h) and p != Path(h) for h in hidden)]
    return [p for p in found if not any(p != q and p.is_relative_to(q) for q in found)]


class Machine:
    """A virtual machine that runs one command."""

    def __init__(
        self,
        kernel: Kernel,
        options: Options,
        on_output: Callable[[bytes], None],
        on_log: Callable[[bytes], None],
    ) -> None:
        """Prepares a run; the callbacks get the command's output and the console."""
        self._kernel = kernel
        self._options = options
        self._on_output = on_output
        self._on_log = on_log
        self._token = secrets.token_hex(8)
        self._outcome = Outcome()
        self._report = b""
        self._fds: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._heard = 0.0  # when the kernel last said something

    def run(self) -> Outcome:
        """Boots, runs the command and waits for the end of the machine."""
        selector = selectors.DefaultSelector()
        try:
            self._start(selector)
            self._wait(selector)
        finally:
            self._stop()
            selector.close()
        self._outcome.total_seconds = time.monotonic() - self._started
        return self._outcome

    # --- start ----------------------------------------------------------

    def _start(self, selector: selectors.BaseSelector) -> None:
        if shutil.which("qemu-system-x86_64") is None:
            raise VmError("qemu-system-x86_64 is missing: apt-get install qemu-system-x86")
        try:
            arguments = self._arguments()
            for name, take in (
                ("console", self._take_log),
                ("output", self._on_output),
                ("report", self._take_report),
            ):
                here, there = socket.socketpair()
                self._fds.append(there.detach())
                selector.register(here, selectors.EVENT_READ, take)
                arguments += ["-chardev", f"socket,id={name},fd={self._fds[-1]}"]
            self._started = self._heard = time.monotonic()
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=self._fds,
                start_new_session=True,
            )
        finally:
            for fd in self._fds:
                os.close(fd)
        if self._process.stderr is None:
            raise AssertionError
        selector.register(self._process.stderr, selectors.EVENT_READ, self._take_error)

    def _unnamed(self, content: bytes = b"", size: int = 0) -> str:
        """A path by which qemu can open a temporary file that has no name."""
        fd, name = tempfile.mkstemp()
        self._fds.append(fd)
        Path(name).unlink()
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        os.truncate(fd, size or len(content))
        return f"/dev/fd/{fd}"

    def _arguments(self) -> list[str]:
        o = self._options
        threads = "single" if o.icount else "multi"
        line = ["setpriv", "--pdeathsig", "KILL", "--"]
        line += ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot"]
        line += ["-display", "none", "-accel", f"tcg,thread={threads}", "-machine", "q35"]
        line += ["-cpu", "max", "-m", f"{o.memory}M"]
        if o.icount:
            line += ["-icount", "shift=0,sleep=off"]
        if o.halted:
            line.append("-S")
        # A socket for each processor, since one cannot stretch over two nodes.
        line += ["-smp", f"{o.cpus},sockets={o.cpus},cores=1,threads=1"]
        line += self._numa_arguments()
        line += ["-kernel", str(self._kernel.image), "-append", self._boot_parameters()]
        line += ["-initrd", self._unnamed(self._initramfs())]
        line += [
            "-virtfs",
            "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
        ]
        if o.out is not None:
            path = str(o.out).replace(",", ",,")
            line += ["-virtfs", f"local,path={path},mount_tag=out,security_model=none"]
        if o.swap:
            disk = self._unnamed(size=o.swap << 20)
            line += ["-drive", f"file={disk},format=raw,if=none,id=swap,cache=unsafe"]
            line += ["-device", "virtio-blk-pci,drive=swap"]
        line += ["-serial", "chardev:console", "-device", "virtio-serial-pci"]
        line += ["-device", "virtserialport,chardev=output,nr=1"]
        line += ["-device", "virtserialport,chardev=report,nr=2"]
        return line

    def _numa_arguments(self) -> list[str]:
        o = self._options
        line: list[str] = []
        for node in range(o.numa):
            first = node * o.cpus // o.numa
            last = (node + 1) * o.cpus // o.numa - 1
            memory = o.memory * (node + 1) // o.numa - o.memory * node // o.numa
            line += ["-object", f"memory-backend-ram,id=m{node},size={memory}M"]
            cpus = f",cpus={first}-{last}" if first <= last else ""
            line += ["-numa", f"node,nodeid={node},memdev=m{node}{cpus}"]
        return line

    def _boot_parameters(self) -> str:
        o = self._options
        words = [_BOOT]
        if self._kernel.name == "debug":
            words.append(_BOOT_DEBUG)
        if o.panic_on_warn:
            words.append("panic_on_warn=1")
        if o.dying_boots:
            words.append(_BOOT_DYING)
        return " ".join([*words, o.append]).strip()

    def _initramfs(self) -> bytes:
        o = self._options
        settings = {
            "job_msize": str(_MSIZE),
            "job_keep": "\n".join(str(p) for p in _keep_list(o)),
            "job_out": str(o.out or ""),
            "job_modules": str(self._kernel.modules or ""),
            "job_upm": "1" if o.module else "",
            "job_swap": "1" if o.swap else "",
            "job_kmemleak": "1" if o.kmemleak else "",
            "job_token": self._token,
        }
        module = o.module.read_bytes() if o.module else None
        return initramfs.base(self._kernel) + initramfs.job(settings, _command_script(o), module)

    # --- while it runs --------------------------------------------------

    def _wait(self, selector: selectors.BaseSelector) -> None:
        deadline = self._started + self._options.timeout
        while selector.get_map():
            now = time.monotonic()
            if now >= deadline:
                self._outcome.timed_out = True
                return
            until = deadline
            if not self._outcome.boot_seconds:
                until = min(deadline, self._heard + self._options.silence)
            if now >= until:
                self._outcome.silent = True
                return
            for key, _ in selector.select(until - now):
                data = os.read(key.fd, 1 << 16)
                if data:
                    key.data(data)
                else:
                    selector.unregister(key.fileobj)

    def _take_log(self, data: bytes) -> None:
        self._outcome.log += data
        self._heard = time.monotonic()
        self._on_log(data)

    def _take_error(self, data: bytes) -> None:
        self._outcome.errors += data

    def _take_report(self, data: bytes) -> None:
        *lines, self._report = (self._report + data).split(b"\n")
        for line in lines:
            word, _, text = line.decode(errors="replace").partition(" ")
            if word == "ready":
                self._outcome.boot_seconds = time.monotonic() - self._started
            elif word == "exit":
                self._outcome.status = int(text)
            elif word == "dirty":
                self._outcome.dirty.append(text)
            elif word == "failed":
                self._outcome.failed = text
            elif word == "done" and text == self._token:
                self._outcome.done = True

    # --- end ------------------------------------------------------------

    def _stop(self) -> None:
        process = self._process
        if process is None:
            return
        if self._outcome.timed_out or self._outcome.silent or sys.exc_info()[0] is not None:
            process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
