#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Containers of the function text: by runc where that works, and as plain processes."""

import json
import os
import unittest
from pathlib import Path
from unittest import mock

import support
from faas import bundle, containers, functions, image
from faas.bundle import Spec

TEXT = functions.find("text")


def namespace(pid: int, kind: str) -> str:
    """What tells two namespaces apart."""
    return str(Path(f"/proc/{pid}/ns/{kind}").readlink())


class ContainersTest(support.TemporaryDirectory):
    """Start, serve, be killed, end."""

    def _host(self, how: str, copies: bool = False) -> containers.Host:
        host = containers.Host(TEXT, None, self.directory / "images", how, copies)
        if how == "runc":
            try:
                host.__enter__()
            except containers.ContainerError as error:
                self.skipTest(f"no runc containers here: {error}")
            self.addCleanup(host.__exit__)
        else:
            self.enterContext(host)
        return host

    def _start(self, host: containers.Host, count: int) -> list[containers.Container]:
        made = [host.create(f"test-{os.getpid()}-{number}") for number in range(count)]
        for one in made:
            host.start(one, [], {}, [])
        for one in made:
            one.wait_ready(60)
        return made

    def test_processes_say_what_they_are(self) -> None:
        """And work like containers."""
        host = self._host("process")
        self.assertIn("plain processes, not containers: as asked for", host.kind)
        first, second = self._start(host, 2)
        self.assertEqual(first.client.ask({"text": "a"}), second.client.ask({"text": "a"}))
        first.kill()
        self.assertFalse(first.alive())
        self.assertEqual(second.client.ask({"text": "a b"})["words"], 2)

    def test_runc_containers_have_walls(self) -> None:
        """Namespaces and root file systems of their own, and a memory limit."""
        host = self._host("runc")
        first, second = self._start(host, 2)
        self.assertEqual(first.client.ask({"text": "a"}), second.client.ask({"text": "a"}))
        for kind in ("pid", "mnt", "net"):
            names = {namespace(pid, kind) for pid in (first.pid, second.pid, os.getpid())}
            self.assertEqual(len(names), 3, kind)
        self.assertIn(first.name, Path(f"/proc/{first.pid}/cgroup").read_text())
        first.kill()
        self.assertEqual(second.client.ask({"text": "a b"})["words"], 2)
        host.remove(first)
        self.assertEqual(list(Path("/sys/fs/cgroup").glob(f"*/{first.group}")), [])

    def test_copies_are_other_files(self) -> None:
        """The same path in two containers: one inode if shared, two if copied."""
        for copies, inodes in ((False, 1), (True, 2)):
            made = self._start(self._host("runc", copies), 2)
            files = {Path(f"/proc/{c.pid}/root/usr/bin/python3.11").stat().st_ino for c in made}
            self.assertEqual(len(files), inodes)
            for one in made:
                one.stop()

    def test_a_container_that_ends_is_reported(self) -> None:
        """With what it printed."""
        host = self._host("process")
        one = host.create("failing")
        one.start(Spec(["/bin/sh", "-c", "echo so it goes; exit 3"], {}))
        with self.assertRaisesRegex(containers.ContainerError, "(?s)failing ended.*so it goes"):
            one.wait_ready(30)

    def test_unknown_kind_is_refused(self) -> None:
        """Before anything happens."""
        with self.assertRaisesRegex(ValueError, "'docker'; it must be auto, runc or process"):
            containers.Host(TEXT, None, self.directory, "docker")


class BundleTest(support.TemporaryDirectory):
    """The bundle's settings."""

    def test_limits_and_binds(self) -> None:
        """As the specification has them."""
        spec = Spec(
            ["/bin/true"], {"A": "b"}, "/x", 64, [bundle.Bind(self.directory, "/y", writable=True)]
        )
        found = json.loads(json.dumps(bundle.config(spec, self.directory, "name", "a/name")))
        self.assertEqual(found["linux"]["resources"]["memory"]["limit"], 64 << 20)
        self.assertEqual(found["process"]["env"], ["A=b"])
        self.assertIn("rw", found["mounts"][-1]["options"])
        self.assertNotIn("CAP_SYS_ADMIN", found["process"]["capabilities"]["effective"])


class ImageTest(unittest.TestCase):
    """Images of packages."""

    def test_missing_package_is_named(self) -> None:
        """So that it can be installed."""
        try:
            image.closure([])
        except image.ImageError as error:
            self.skipTest(str(error))
        with self.assertRaisesRegex(image.ImageError, "not installed: no-such-package"):
            image.closure(["no-such-package"])

    def test_a_package_whose_triggers_have_yet_to_run_is_there(self) -> None:
        """As many are while apt-get works beside."""
        names = [*image.BASE_PACKAGES, *image.RUNTIME_PACKAGES]
        states = {name: "installed" for name in names} | {"libc-bin": "triggers-pending"}

        def output(program: str, *_: str) -> str:
            if program == "dpkg-query":
                return "".join(f"{name}:all {name} {state}\n" for name, state in states.items())
            return "\n".join(names)

        with mock.patch.object(image, "_output", output):
            self.assertIn("libc-bin:all", image.closure([]))
            states["libc-bin"] = "unpacked"
            with self.assertRaisesRegex(image.ImageError, "not installed: libc-bin"):
                image.closure([])


if __name__ == "__main__":
    support.main()
