#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Containers of Docker that ask for upm.dev/share=NAME share memory.

As podman_test.py, with the engine of Debian 13 in a folder of its own (engines.py): an ordinary
user, and the default seccomp profile. The daemon makes no network, and changes none.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import engines
import podman_test
from engines import IMAGE, RUNC
from folder import ENVIRONMENT
from podman_test import SECONDS


class Container(podman_test.Container):
    """One run of Docker, which writes no file with the number of a process."""

    @property
    def pid(self) -> int:
        """As this machine counts."""
        assert isinstance(self.case, Case)
        name = self.pid_file.name
        done = self.case.ask("inspect", "--format", "{{.State.Pid}}", name)
        return int(done.stdout)


class Case(engines.Case):
    """A Docker, with an image that has the programs of the folder."""

    engine_command = "docker"
    state = "/var/lib/docker"
    settings_file = "/etc/docker/daemon.json"
    block = ("Docker", 0)  # of docs/containers.md

    def daemon(self) -> list[str]:
        """Without a network: the machine's filters and forwarding stay as they are."""
        network = ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"]
        groups = ["--exec-opt", "native.cgroupdriver=cgroupfs", f"--cgroup-parent=/{self.group}"]
        return ["dockerd", *network, *groups]

    def settings(self) -> str:
        """The block of the documentation, with this build's runtime."""
        text = podman_test.documented(*self.block)
        return json.dumps(json.loads(text.replace("/usr/bin/upm-runc", str(RUNC))))

    def setUp(self) -> None:
        super().setUp()
        folders = "mkdir -p usr etc proc sys dev tmp run data && ln -s usr/bin usr/lib usr/lib64 ."
        script = f"mkdir /image && cd /image && {folders} && tar -c . | docker import - image"
        subprocess.run(
            self.folder.inside("sh", "-c", script),
            env=ENVIRONMENT,
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def remove_containers(self) -> None:
        """By their names."""
        self.ask("rm", "--force", *self.ask("ps", "--all", "--quiet").stdout.split())

    def command(self, pid_file: Path, options: tuple[str, ...]) -> list[str]:
        """The words that start a container with the data, up to its image."""
        usual = ["--rm", "--interactive", "--network=none", "--name", pid_file.name]
        places = ["--volume", "/usr:/usr:ro", "--volume", f"{self.data}:/data:ro"]
        return [*self.folder.inside("docker"), "run", *usual, *places, *options]

    def image(self, root: Path) -> list[str]:
        """The only one."""
        return ["image"]

    def member(self, *more: str) -> list[str]:
        """The options of the documented line, with this test's device."""
        words = shlex.split(podman_test.documented("Docker", 1).replace("=team-a", "=test"))
        self.assertEqual((words[:2], words[-1]), (["docker", "run"], "IMAGE"))
        self.assertIn("upm.dev/share=test", words)
        return [*words[2:-1], *more]

    def begin(self, script: str, *options: str) -> Container:
        """A container of an ordinary user."""
        asked = ("--user", "1000:1000", *options)
        return Container(self, IMAGE, "python3", f"/data/{script}", options=asked)


class Share(Case):
    """By CDI."""

    def test_the_documented_lines(self) -> None:
        """Two members share, a stranger does not."""
        stranger = self.begin("loader.py")
        place, digest = stranger.line().split()
        self.assertEqual(digest, self.digest)
        alone = podman_test.frames(stranger.pid, int(place))
        start = partial(self.begin, "loader.py", *self.member())
        self.check_shares(start, start, alone=alone)


class Layout(Case):
    """By the runtime upm-runc as well."""

    block = ("Equal addresses", 1)

    def places(self, *options: str) -> dict[str, str]:
        """Of one container."""
        container = self.begin("places.py", *self.member(*options))
        out, errors = container.process.communicate(timeout=SECONDS)
        self.assertEqual((container.process.returncode, errors), (0, ""))
        found: dict[str, str] = json.loads(out)
        return found

    def test_one_key_one_layout(self) -> None:
        found = [self.places("--runtime", "upm") for _ in range(2)]
        self.assertEqual(len(found[0]), 2)
        self.assertEqual(found[0], found[1])
        self.assertNotEqual(found[0], self.places())


if __name__ == "__main__":
    engines.main()
