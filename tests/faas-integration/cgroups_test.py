#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Control groups of both versions, in a tree of the test's own and in the real one."""

import os
import subprocess
import time
from pathlib import Path
from unittest import mock

import support
from faas import cgroups, containers
from faas.bundle import Bind, Spec

MIB = 1 << 20


class TreeTest(support.TemporaryDirectory):
    """Which file says what."""

    def _tree(self, files: dict[str, str]) -> None:
        self.enterContext(mock.patch.object(cgroups, "ROOT", self.directory))
        self.enterContext(mock.patch.object(cgroups, "PAUSE", 0.001))
        for name, text in files.items():
            path = self.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def test_first_version(self) -> None:
        """Each controller has a tree of its own."""
        self._tree(
            {"memory/a/b/memory.usage_in_bytes": "4096\n", "freezer/a/b/freezer.state": "THAWED\n"}
        )
        self.assertEqual(cgroups.memory("a/b"), 4096)
        self.assertIsNone(cgroups.memory("a/c"))
        cgroups.freeze("a/b", frozen=True)
        self.assertEqual((self.directory / "freezer/a/b/freezer.state").read_text(), "FROZEN")

    def test_second_version(self) -> None:
        """One tree; the kernel says when all processes have stopped."""
        self._tree(
            {
                "cgroup.controllers": "memory\n",
                "a/b/memory.current": "8192\n",
                "a/b/cgroup.events": "populated 1\nfrozen 1\n",
                "a/b/cgroup.freeze": "0\n",
                "cgroup.subtree_control": "",
                "a/cgroup.subtree_control": "",
            }
        )
        self.assertEqual(cgroups.memory("a/b"), 8192)
        cgroups.freeze("a/b", frozen=True)
        self.assertEqual((self.directory / "a/b/cgroup.freeze").read_text(), "1")
        with self.assertRaisesRegex(cgroups.CgroupError, "a/b is not frozen 0"):
            cgroups.freeze("a/b", frozen=False)
        prefix = cgroups.entering("a/broker")
        for parent in ("", "a"):
            text = (self.directory / parent / "cgroup.subtree_control").read_text()
            self.assertEqual(text, "+memory")
        subprocess.run([*prefix, "/bin/true"], check=True)
        pid = (self.directory / "a/broker/cgroup.procs").read_text()
        self.assertNotEqual(int(pid), os.getpid())

    def test_remove(self) -> None:
        """All that is below, in all trees."""
        self._tree({})
        for name in ("memory/a/b/c", "memory/a/d", "freezer/a/b", "a/e"):
            (self.directory / name).mkdir(parents=True)
        cgroups.remove("a")
        self.assertEqual(
            [path.name for path in sorted(self.directory.glob("*"))], ["freezer", "memory"]
        )
        self.assertEqual(list(self.directory.glob("*/*")), [])

    def test_a_command_runs_where_there_is_no_group(self) -> None:
        """And says nothing of it."""
        self.enterContext(mock.patch.object(cgroups, "ROOT", Path("/proc/nothing")))
        command = [*cgroups.entering("a"), "/bin/echo", "runs"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        self.assertEqual((done.stdout, done.stderr), ("runs\n", ""))


# Takes 16 MiB of shared memory, says so, and counts.
COUNTING = """
import os, time
fd = os.memfd_create("test")
os.write(fd, bytes(16 << 20))
number = 0
while True:
    number += 1
    with open("/run/faas/count", "w") as file:
        file.write(str(number))
    time.sleep(0.01)
"""


class RealTest(support.RuntimeCase):
    """Containers by runc."""

    def setUp(self) -> None:
        """A container that counts."""
        super().setUp()
        host = containers.Host(self.text, None, self.directory / "images", "runc")
        try:
            self.enterContext(host)
        except containers.ContainerError as error:
            self.skipTest(f"no runc containers here: {error}")
        self.group = self.enterContext(host.within("phase"))
        self.one = host.create("counting")
        self.addCleanup(self.one.stop)
        bind = Bind(self.one.run, containers.RUN_DIRECTORY, writable=True)
        command = ["/usr/bin/python3", "-c", COUNTING]
        self.one.start(Spec(command, containers.BASE_ENVIRONMENT, binds=[bind]))
        self.wait_for(self.one.run / "count")

    def _count(self) -> str:
        return (self.one.run / "count").read_text()

    def test_memory_counts_for_the_group_above(self) -> None:
        """Shared memory too; of what goes, nothing stays."""
        self.assertGreater(cgroups.memory(self.one.group) or 0, 16 * MIB)
        self.assertGreater(cgroups.memory(self.group) or 0, 16 * MIB)
        self.one.stop()
        self.assertIsNone(cgroups.memory(self.one.group))
        self.assertLess(cgroups.memory(self.group) or 0, 16 * MIB)

    def test_freeze_and_thaw(self) -> None:
        """Nothing runs between the two."""
        cgroups.freeze(self.one.group, frozen=True)
        before = self._count()
        time.sleep(0.3)
        self.assertEqual(self._count(), before)
        cgroups.freeze(self.one.group, frozen=False)
        end = time.monotonic() + 30
        while self._count() in {before, ""}:
            self.assertLess(time.monotonic(), end)
            time.sleep(0.01)


if __name__ == "__main__":
    support.main()
