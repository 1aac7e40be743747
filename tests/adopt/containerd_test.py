#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Containers of containerd that are members of one domain share memory.

As podman_test.py, with the engine of Debian 13 in a folder of its own: an ordinary user, and
the default seccomp profile. `ctr` is containerd's own command; pods are made by the calls of a
kubelet (cri.py). Needs root and debootstrap; the folder (tests/adopt/debian-folder containerd,
400 MB) is made once.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import unittest
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import cri
import hooked
import podman_test
from folder import CACHE, ENVIRONMENT, ROOT, Entered, mount_overlay
from podman_test import SECONDS, Container

FOLDER = CACHE / "debian-containerd"
IMAGE = Path("/srv/image")
SOCKET = "run/containerd/containerd.sock"
POD_IMAGE = "example.com/upm-test:1"
RUNC = ROOT / "build/bin/upm-runc"
LAYOUT = ROOT / "build/bin/upm-layout"
PYTHON = "/usr/bin/python3"  # ctr gives a root without an image no PATH
# Says where the weights are, and holds them.
HOLDER = podman_test.LOADER.partition("sys.stdin")[0] + "import time\ntime.sleep(100000)\n"
# Says where a library and the heap are.
PLACES = """
import json
lines = [line.split(maxsplit=5) for line in open("/proc/self/maps")]
found = {line[5].strip(): line[0] for line in reversed(lines) if len(line) > 5}
print(json.dumps({name: found[name] for name in found if "/libc.so" in name or name == "[heap]"}))
"""


def settings() -> str:
    """The blocks of docs/containers.md for containerd's settings, with this test's image.

    Containers and test machines may lack the right to a negative oom_score_adj.
    """
    cdi = podman_test.documented("containerd for Kubernetes")
    runtime = podman_test.documented("Equal addresses", 2)
    assert "enable_cdi = true\n" in cdi and '"/usr/bin/upm-runc"' in runtime
    image = f'enable_cdi = true\n  sandbox_image = "{POD_IMAGE}"\n  restrict_oom_score_adj = true\n'
    cdi = cdi.replace("enable_cdi = true\n", image)
    return "\n".join(["version = 2", cdi, runtime.replace("/usr/bin/upm-runc", str(RUNC))])


def unmount(place: Path) -> None:
    """What mount_overlay() has mounted."""
    subprocess.run(["umount", place], check=True)


def remove_groups(name: str) -> None:
    """The control groups of that name, which are empty, by whatever version there is."""
    top = Path("/sys/fs/cgroup")
    for group in [*top.glob(name), *top.glob(f"*/{name}")]:
        for folder in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
            folder.rmdir()
        group.rmdir()


def libraries_of(program: Path) -> list[Path]:
    """That the dynamic linker finds for it."""
    done = subprocess.run(["ldd", program], capture_output=True, text=True, check=True)
    found = [word for word in done.stdout.split() if word.startswith("/")]
    return [Path("/usr") / word.removeprefix("/usr").lstrip("/") for word in found]


class Case(podman_test.Case):
    """A containerd in its Debian, with this build's hook and a broker beside it."""

    def setUp(self) -> None:
        super().setUp()
        (self.data / "places.py").write_text(PLACES)
        (self.data / "holder.py").write_text(HOLDER)
        layers = self.path / "image"
        layers.mkdir()
        image = mount_overlay(FOLDER, layers)
        self.addCleanup(unmount, image)
        where = self.path / "engine"
        (where / "state").mkdir(parents=True)
        binds = {
            str(self.path): self.path,
            str(ROOT): ROOT,
            "/run/upm": Path("/run/upm"),
            "/etc/cdi": Path("/etc/cdi"),
            str(image): IMAGE,
            str(where / "state"): Path("/var/lib/containerd"),
        }
        mounts = [f"mkdir -p .{to}; mount --bind '{here}' .{to}" for here, to in binds.items()]
        # This release's libraries, for upm-runc.
        for library in libraries_of(RUNC):
            if not (FOLDER / library.relative_to("/")).exists():
                mounts.append(f"cp {library} .{library}")
        self.folder = Entered(FOLDER, where, mounts)
        self.addCleanup(self.folder.close)
        self.inside = Path(f"/proc/{self.folder.pid}/root")
        configuration = self.inside / "etc/containerd/config.toml"
        configuration.parent.mkdir(exist_ok=True)
        configuration.write_text(settings())
        self.group = f"upm-containerd-test-{os.getpid()}"
        self.addCleanup(remove_groups, self.group)
        self.engine_log = (self.path / "containerd.log").open("wb")
        self.addCleanup(self.engine_log.close)
        self.engine = subprocess.Popen(
            self.folder.inside("containerd"),
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=self.engine_log,
            stderr=self.engine_log,
        )
        self.addCleanup(self.stop_engine)
        hooked.wait_until(self.answers, "containerd answers")

    def answers(self) -> bool:
        """The engine takes calls."""
        if self.engine.poll() is not None:
            self.fail(f"containerd: {(self.path / 'containerd.log').read_text()}")
        return self.ctr("version").returncode == 0

    def ctr(self, *words: str) -> subprocess.CompletedProcess[str]:
        """One command, to its end."""
        return subprocess.run(
            self.folder.inside("ctr", *words),
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )

    def stop_engine(self) -> None:
        """With what a failed test left."""
        for name in self.ctr("tasks", "list", "--quiet").stdout.split():
            self.ctr("tasks", "delete", "--force", name)
        self.engine.terminate()
        self.engine.wait()

    def stop(self) -> None:
        """Ends the input of every container that runs."""
        for container in self.containers:
            if container.process.poll() is None:
                container.process.communicate(timeout=SECONDS)

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
        self.pods: list[Pod] = []
        self.started = 0
        scratch = self.path / "scratch"
        scratch.mkdir()
        self.client = cri.Client(self.inside / SOCKET, scratch)
        self.addCleanup(self.client.close)
        self.addCleanup(self.remove_pods)
        cri.make_image(self.path / "image.tar", POD_IMAGE, scratch)
        done = self.ctr("--namespace", "k8s.io", "images", "import", str(self.path / "image.tar"))
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


def main() -> None:
    """Runs the tests in a mount namespace, or says why not."""
    why = ""
    if os.geteuid() != 0:
        why = "needs root"
    elif not FOLDER.exists():
        if not shutil.which("debootstrap"):
            why = "no debootstrap: tools/dev/deps packages"
        else:
            subprocess.run([Path(__file__).parent / "debian-folder", "containerd"], check=True)
    if why:
        print(f"skipped: {why}")
        sys.exit(hooked.EXIT_SKIPPED)
    if podman_test.INSIDE not in os.environ:
        sys.exit(podman_test.in_own_namespace())
    unittest.main()


if __name__ == "__main__":
    main()
