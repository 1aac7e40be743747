# SPDX-License-Identifier: MIT
"""Starts and ends function containers: by runc over overlayfs, or as plain processes.

Where namespaces may not be made (no root, no runc, a sandbox), processes take
the containers' place; Host.kind says which it is, and why.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from faas import bundle, cgroups, image
from faas.bundle import Bind, Spec
from faas.client import Client
from faas.functions import Function

ROOT = Path(__file__).resolve().parents[2]
GRACE = 10.0  # seconds between SIGTERM and SIGKILL
RUN_DIRECTORY = "/run/faas"
BASE_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
}


class ContainerError(Exception):
    """A container could not be started, or ended by itself; the text says why."""


@dataclass(frozen=True)
class Paths:
    """Where a process of a container finds things."""

    server: str
    task: str
    weights: str
    run: str
    """Directory of the socket; the host sees it too."""


def _wait(pid_fd: int, seconds: float) -> bool:
    """Whether the process ended within that time."""
    poll = select.poll()
    poll.register(pid_fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


class Container:
    """One container with a function that is served over HTTP on a Unix socket."""

    def __init__(self, name: str, directory: Path) -> None:
        """Nothing is started yet; `directory` is the container's own on the host."""
        self.name = name
        self.directory = directory
        self.log = directory / "log"
        self.run = directory / "run"
        self.run.mkdir(parents=True, exist_ok=True)
        self.client = Client(self.run / "socket")
        self.pid = 0
        self.group = ""
        """Path of its control group; empty if it has none of its own."""
        self._pid_fd = -1

    def start(self, spec: Spec) -> None:
        """Starts it. Raises ContainerError."""
        (self.run / "socket").unlink(missing_ok=True)
        self.pid = self._start(spec)
        self._pid_fd = os.pidfd_open(self.pid)

    def alive(self) -> bool:
        """Whether its first process runs."""
        return self._pid_fd >= 0 and not _wait(self._pid_fd, 0)

    def wait_ready(self, seconds: float) -> None:
        """Until it takes requests. Raises ContainerError if it ended or takes longer."""
        if not self.client.wait_ready(seconds, self.alive):
            what = "is not ready" if self.alive() else "ended"
            raise ContainerError(f"{self.name} {what}; its output:\n{self.log_end()}")

    def log_end(self, lines: int = 20) -> str:
        """The last lines that it printed."""
        if not self.log.exists():
            return "(none)"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        """Asks it to end, then makes it; cleans up."""
        if self._pid_fd >= 0:
            self._signal(signal.SIGTERM)
            if not _wait(self._pid_fd, GRACE):
                self.kill()
            os.close(self._pid_fd)
            self._pid_fd = -1
        self._clean()

    def kill(self) -> None:
        """Ends it at once, as the out-of-memory killer would."""
        self._signal(signal.SIGKILL)
        _wait(self._pid_fd, GRACE)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pid_fd, number)

    def _start(self, spec: Spec) -> int:
        raise NotImplementedError

    def _clean(self) -> None:
        raise NotImplementedError


class Process(Container):
    """In place of a container: a process without walls around it."""

    _process: subprocess.Popen[bytes] | None = None

    def _start(self, spec: Spec) -> int:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                spec.command,
                env=spec.environment,
                cwd=spec.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self._process.pid

    def _clean(self) -> None:
        if self._process is not None:
            self._process.wait()


class Runc(Container):
    """A container by runc: an overlay of the image's layers, and a bundle."""

    def __init__(self, group: str, directory: Path, layers: list[Path], state: Path) -> None:
        """`group`: path of its control group, which ends in its name; `layers`: of the image,
        the lowest first; `state`: where runc keeps its own.
        """
        super().__init__(Path(group).name, directory)
        self.group = group
        self._runc = ["runc", "--root", str(state)]
        self._rootfs = directory / "rootfs"
        for part in ("rootfs", "upper", "work"):
            (directory / part).mkdir(exist_ok=True)
        lower = ":".join(str(layer) for layer in reversed(layers))
        options = f"lowerdir={lower},upperdir={directory}/upper,workdir={directory}/work"
        _run(["mount", "-t", "overlay", "-o", options, "upm-demo", str(self._rootfs)])

    def _start(self, spec: Spec) -> int:
        settings = bundle.config(spec, self._rootfs, self.name, self.group)
        (self.directory / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
        pid_file = self.directory / "pid"
        pid_file.unlink(missing_ok=True)
        command = [*self._runc, "run", "--detach", "--bundle", str(self.directory)]
        with self.log.open("ab") as log:
            done = subprocess.run(
                [*command, "--pid-file", str(pid_file), self.name],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=False,
            )
        if done.returncode != 0:
            raise ContainerError(f"runc: {self.log_end(3)}")
        return int(pid_file.read_text())

    def _clean(self) -> None:
        subprocess.run(
            [*self._runc, "delete", "--force", self.name], check=False, capture_output=True
        )
        cgroups.remove(self.group)
        subprocess.run(["umount", str(self._rootfs)], check=False, capture_output=True)


def _run(command: list[str]) -> None:
    """Runs it. Raises ContainerError with what it said."""
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise ContainerError(f"no {command[0]} here") from error
    except subprocess.CalledProcessError as error:
        raise ContainerError(f"{command[0]}: {error.stderr.strip()[-300:]}") from error


class Host:
    """Makes the containers of one function; a context manager that ends all of them."""

    def __init__(  # noqa: PLR0913  # settings, named by callers
        self,
        function: Function,
        weights: Path | None,
        images: Path,
        how: str = "auto",
        copies: bool = False,
        programs: tuple[Path, ...] = (),
    ) -> None:
        """Nothing happens before `with`.

        how: auto, runc or process. images: where image layers are kept. copies: a
        copy of the image for each container. programs: what is to run in the
        containers besides the function, mounted from the host; their libraries go
        into the image. Raises ValueError for another `how`.
        """
        if how not in {"auto", "runc", "process"}:
            raise ValueError(f"containers by {how!r}; it must be auto, runc or process")
        self.function = function
        self.kind = ""
        """How containers are made, and if they are not, why; for people."""
        self.isolated = False
        self.group = f"upm-demo-{os.getpid()}"
        """Path of the control group that containers are made in."""
        self.paths = Paths("", "", "", "")
        self._weights, self._images, self._how = weights, images, how
        self._copies, self._programs = copies, programs
        self._layers: list[Path] = []
        self._stack = contextlib.ExitStack()
        self._directory = Path()
        self._all: list[Container] = []

    def __enter__(self) -> Host:
        """Makes the image, and finds out whether runc works. Raises ContainerError."""
        with contextlib.ExitStack() as stack:
            self._directory = Path(tempfile.mkdtemp(prefix="upm-demo-"))
            stack.callback(shutil.rmtree, self._directory, ignore_errors=True)
            stack.callback(cgroups.remove, self.group)
            stack.callback(self._stop_all)
            reason = "as asked for" if self._how == "process" else self._try_runc(stack)
            if reason and self._how == "runc":
                raise ContainerError(f"no containers: {reason}")
            self._choose_paths(reason)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends all containers and removes what they wrote."""
        self._stack.close()

    def make_image(self) -> list[Path]:
        """The layers of the image, made if not there, the lowest first. Raises ImageError."""
        name, top = self.function.name, self._weights.stem if self._weights else "function"
        return [
            image.base(self._images / f"{name}-base", self.function.packages, self._programs),
            image.function(self._images / f"{name}-{top}", self.function, self._weights),
        ]

    def create(self, name: str) -> Container:
        """A container, not started. Raises ContainerError."""
        directory = self._directory / name
        directory.mkdir()
        made: Container
        if self.isolated:
            layers = self._layers
            if self._copies:
                layers = image.copy(layers, self._images / "copies" / name)
            made = Runc(f"{self.group}/{name}", directory, layers, self._directory / "runc")
        else:
            made = Process(name, directory)
        self._all.append(made)
        return made

    @contextlib.contextmanager
    def within(self, name: str) -> Iterator[str]:
        """Containers are made in a control group of that name, whose path it gives.

        The group is removed at the end; its containers must have ended.
        """
        outer, self.group = self.group, f"{self.group}/{name}"
        try:
            yield self.group
        finally:
            cgroups.remove(self.group)
            self.group = outer

    def remove(self, container: Container) -> None:
        """Ends a container for good."""
        container.stop()
        self._all.remove(container)
        shutil.rmtree(container.directory, ignore_errors=True)

    def start(
        self,
        container: Container,
        prefix: list[str],
        environment: dict[str, str],
        binds: list[Bind],
    ) -> None:
        """Starts the function in it, by a command that begins with `prefix`."""
        own = "/run/faas" if self.isolated else str(container.run)
        variables = {
            **BASE_ENVIRONMENT,
            **self.function.environment,
            "WEIGHTS": self.paths.weights,
            "LISTEN": f"unix:{own}/socket",
            "upstream_lock": f"{own}/lock",
            **environment,
        }
        command = [*prefix, "/usr/bin/python3", self.paths.server, self.paths.task]
        binds = [*binds, Bind(container.run, RUN_DIRECTORY, writable=True)]
        container.start(
            Spec(command, variables, self.paths.task, self.function.memory, binds),
        )

    def _choose_paths(self, reason: str) -> None:
        namespaces = ", ".join(bundle.NAMESPACES)
        if reason:
            self.kind = f"plain processes, not containers: {reason}"
            directory = self._weights.parent if self._weights else Path("/nonexistent")
            self.paths = Paths(
                str(image.RUNTIME / image.SERVER), str(self.function.directory), str(directory), ""
            )
            return
        self.isolated = True
        source = "a copy of the image each" if self._copies else "one shared image"
        self.kind = f"runc containers (own {namespaces} namespaces, memory limit), {source}"
        server = str(image.RUNTIME_THERE / image.SERVER)
        self.paths = Paths(server, "/var/task", "/var/task/weights", RUN_DIRECTORY)

    def _try_runc(self, stack: contextlib.ExitStack) -> str:
        """Why there can be no containers; empty if there can."""
        if os.geteuid() != 0:
            return "not root"
        if shutil.which("runc") is None:
            return "no runc"
        try:
            # On a file system of its own: overlayfs wants one that is not an overlay itself.
            _run(["mount", "-t", "tmpfs", "-o", "mode=700", "upm-demo", str(self._directory)])
            stack.callback(_unmount, self._directory)
            self._layers = self.make_image()
            trial = self._directory / "trial"
            trial.mkdir()
            state = self._directory / "runc"
            container = Runc(f"{self.group}/trial", trial, self._layers, state)
            try:
                container.start(Spec(["/usr/bin/true"], BASE_ENVIRONMENT))
            finally:
                container.stop()
        except (ContainerError, image.ImageError) as error:
            return str(error)
        except ProcessLookupError:
            return ""  # it was that quick
        return ""

    def _stop_all(self) -> None:
        for container in reversed(self._all):
            container.stop()
        self._all.clear()


def _unmount(directory: Path) -> None:
    subprocess.run(["umount", "-l", str(directory)], check=False, capture_output=True)
