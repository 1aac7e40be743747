#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Containers of containerd that are members of one domain share memory.

As podman_test.py, with the engine of Debian 13 in a folder of its own (engines.py): an ordinary
user, and the default seccomp profile. `ctr` is containerd's own command; pods are made by the
calls of a kubelet (cri.py).
"""

from __future__ import annotations

import json
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import cri
import engines
import hooked
import podman_test
from engines import IMAGE, LAYOUT, RUNC
from podman_test import SECONDS, Container

SOCKET = "run/containerd/containerd.sock"
POD_IMAGE = "example.com/upm-test:1"
PYTHON = "/usr/bin/python3"  # ctr gives a root without an image no PATH
# Says where the weights are, and holds them.
HOLDER = podman_test.LOADER.partition("sys.stdin")[0] + "import time\ntime.sleep(100000)\n"


class Case(engines.Case):
    """A containerd."""

    engine_command = "ctr"
    state = "/var/lib/containerd"
    settings_file = "/etc/containerd/config.toml"

    def daemon(self) -> list[str]:
        """Its groups are named when containers are made."""
        return ["containerd"]

    def settings(self) -> str:
        """The blocks of docs/containers.md, with this test's image.

        Containers and test machines may lack the right to a negative oom_score_adj.
        """
        cdi = podman_test.documented("containerd for Kubernetes")
        runtime = podman_test.documented("Equal addresses", 2)
        enable, binary = "enable_cdi = true\n", '"/usr/bin/upm-runc"'
        self.assertIn(enable, cdi)
        self.assertIn(binary, runtime)
        own = f'sandbox_image = "{POD_IMAGE}"\nrestrict_oom_score_adj = true\n'
        blocks = cdi.replace(enable, enable + own), runtime.replace(binary, f'"{RUNC}"')
        return "\n".join(["version = 2", *blocks])

    def remove_containers(self) -> None:
        """Of tasks and of pods."""
        for space in ("default", "k8s.io"):
            tasks = self.ask("--namespace", space, "tasks", "list", "--quiet").stdout.split()
            for name in tasks:
                self.ask("--namespace", space, "tasks", "delete", "--force", name)

    def command(self, pid_file: Path, options: tuple[str, ...]) -> list[str]:
        """The words that start a container with the data, up to its image."""
        mount = f"type=bind,src={self.data},dst=/data,options=rbind:ro"
        group = ("--cgroup", f"/{self.group}/{len(self.containers)}")
        usual = ["--rm", "--seccomp", *group, "--pid-file", str(pid_file), "--mount", mount]
        return [*self.folder.inside("ctr"), "run", *usual, *options]

    def image(self, root: Path) -> list[str]:
        """The words for an image that lies there, and the name of the container."""
        return ["--rootfs", str(root), f"upm-test-{len(self.containers)}"]

    def member(self) -> list[str]:
        """The options of docs/containers.md for a member, with this build's hook."""
        text = podman_test.documented("containerd")
        hook, _, line = text.partition("\n")
        self.assertEqual(hook, "hook=/usr/lib/x86_64-linux-gnu/libupm-preload.so")
        line = line.replace("\\\n", " ").replace("$hook", str(hooked.HOOK))
        words = shlex.split(line.replace("=KEY", "=" + "ab" * 16))
        self.assertEqual((words[:3], words[-2:]), (["ctr", "run", "--rm"], ["IMAGE", "NAME"]))
        return words[3:-2]

    def start(self, script: str, *options: str) -> Container:
        """A container of an ordinary user."""
        asked = ("--user", "1000:1000", *options)
        return Container(self, IMAGE, PYTHON, f"/data/{script}", options=asked)


class Share(Case):
    """By its own command."""

    def test_the_documented_lines(self) -> None:
        """Two members share, a stranger does not."""
        stranger = self.start("loader.py")
        place, digest = stranger.line().split()
        self.assertEqual(digest, self.digest)
        alone = podman_test.frames(stranger.pid, int(place))
        start = partial(self.start, "loader.py", *self.member())
        self.check_shares(start, start, alone=alone)


class Layout(Case):
    """By the runtime upm-runc as well."""

    def places(self) -> dict[str, str]:
        """Of one container."""
        launcher = f"type=bind,src={LAYOUT},dst=/opt/upm/upm-layout,options=rbind:ro"
        options = [*self.member(), "--mount", launcher, "--runc-binary", str(RUNC)]
        container = self.start("places.py", *options)
        out, errors = container.process.communicate(timeout=SECONDS)
        self.assertEqual((container.process.returncode, errors), (0, ""))
        found: dict[str, str] = json.loads(out)
        self.assertEqual(len(found), 2)
        return found

    def test_one_key_one_layout(self) -> None:
        self.assertEqual(self.places(), self.places())


class Pod:
    """A pod with one container, with what check_shares() asks of a container."""

    def __init__(self, case: Pods, script: str, asks: dict[str, Any], handler: str = "") -> None:
        """`asks`: what its container's configuration has beside the usual."""
        self.case = case
        case.started += 1
        name = f"pod-{case.started}"
        annotations = asks.pop("of_the_pod", {})
        self.pod = case.client.wire.PodSandboxConfig(
            metadata={"name": name, "uid": name, "namespace": "team-a"},
            log_directory=str(case.path),
            annotations=annotations,
            linux={
                "cgroup_parent": f"/{case.group}",
                "security_context": {"namespace_options": {"network": "NODE"}},
            },
        )
        self.sandbox = case.client.run_sandbox(self.pod, handler)
        case.pods.append(self)
        self.log = case.path / f"{name}.log"
        user = {"value": 1000}
        config = case.client.wire.ContainerConfig(
            metadata={"name": "main"},
            image={"image": POD_IMAGE},
            command=[PYTHON, f"/data/{script}"],
            mounts=[
                {"container_path": "/usr", "host_path": "/usr", "readonly": True},
                {"container_path": "/data", "host_path": str(case.data), "readonly": True},
            ],
            log_path=self.log.name,
            linux={
                "security_context": {
                    "run_as_user": user,
                    "run_as_group": user,
                    "seccomp": {"profile_type": 0},
                    "namespace_options": {"network": "NODE", "pid": "CONTAINER"},
                }
            },
            **asks,
        )
        self.container = case.client.start(self.sandbox, self.pod, config)

    @property
    def pid(self) -> int:
        """Of its first process, as this machine counts."""
        return self.case.client.pid(self.container)

    def line(self) -> str:
        """The first line of its output; before it are time, stream and tag."""
        hooked.wait_until(lambda: "\n" in self.text(), "the pod says something")
        return self.text().splitlines()[0].split(maxsplit=3)[3]

    def text(self) -> str:
        """Its log."""
        return self.log.read_text() if self.log.exists() else ""

    def end(self) -> str:
        """Removes it."""
        if self in self.case.pods:
            self.case.pods.remove(self)
            self.case.client.remove_sandbox(self.sandbox)
        return ""


class Pods(Case):
    """By the calls of a kubelet."""

    def setUp(self) -> None:
        if why := cri.missing():
            self.skipTest(why)
        super().setUp()
        (self.data / "holder.py").write_text(HOLDER)
        self.pods: list[Pod] = []
        self.started = 0
        scratch = self.path / "scratch"
        scratch.mkdir()
        self.client = cri.Client(self.inside / SOCKET, scratch)
        self.addCleanup(self.client.close)
        self.addCleanup(self.remove_pods)
        cri.make_image(self.path / "image.tar", POD_IMAGE, scratch)
        done = self.ask("--namespace", "k8s.io", "images", "import", str(self.path / "image.tar"))
        self.assertEqual(done.returncode, 0, done.stderr)
        hooked.wait_until(lambda: self.client.has_image(POD_IMAGE), "the runtime has the image")

    def remove_pods(self) -> None:
        """Those that a failed test left."""
        for pod in self.pods[:]:
            pod.end()

    def stop(self) -> None:
        """Nothing that has an input was started."""

    def holder(self, **asks: Any) -> Pod:
        """A pod that loads the weights."""
        pod = Pod(self, "holder.py", asks)
        self.containers.append(pod)  # type: ignore[arg-type]
        return pod

    def test_devices_of_the_call_and_annotations_of_the_container(self) -> None:
        """A kubelet has both from a device plugin. An annotation of the pod is not enough."""
        device = "upm.dev/share=test"
        stranger = self.holder(of_the_pod={"cdi.k8s.io/upm": device})
        place, digest = stranger.line().split()
        self.assertEqual(digest, self.digest)
        alone = podman_test.frames(stranger.pid, int(place))
        by_call = partial(self.holder, CDI_devices=[{"name": device}])
        by_annotation = partial(self.holder, annotations={"cdi.k8s.io/upm": device})
        self.check_shares(by_call, by_annotation, alone=alone)

    def test_a_runtime_class_has_one_layout(self) -> None:
        asks = {"CDI_devices": [{"name": "upm.dev/share=test"}]}
        found = []
        for handler in ("upm", "upm", ""):
            pod = Pod(self, "places.py", dict(asks), handler)
            found.append(json.loads(pod.line()))
            pod.end()
        self.assertEqual(found[0], found[1])
        self.assertNotEqual(found[0], found[2])


if __name__ == "__main__":
    engines.main()
