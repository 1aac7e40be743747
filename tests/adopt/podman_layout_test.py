#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Containers of podman whose runtime is upm-runc have the addresses of their device's key.

As podman_test.py: the default seccomp profile, an ordinary user, a mount namespace.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent))
import podman_test
from podman_test import SECONDS, Container

RUNC = Path(__file__).resolve().parents[2] / "build/bin/upm-runc"
# Says where its libraries and heap are, and what its children see.
PROGRAM = """
import json, subprocess, sys, threading
thread = threading.Thread(target=lambda: None)
thread.start()
thread.join()
lines = [line.split(maxsplit=5) for line in open("/proc/self/maps")]
maps = [(line[0], line[5].strip()) for line in lines if len(line) > 5]
shell = "ulimit -s; ulimit -Hs; cat /proc/self/personality; grep -m 1 libc /proc/self/maps"
print(json.dumps(dict(maps=maps, hash=hash("a"), argv=sys.orig_argv,
    seen=subprocess.check_output(shell, shell=True, text=True).split()[:4])))
"""
WHERE = "grep -m 1 libc.so /proc/self/maps"
Done = subprocess.CompletedProcess[str]


class Case(podman_test.Case):
    """Podman with that runtime."""

    def setUp(self) -> None:
        self.runtime = str(RUNC)
        super().setUp()
        (self.data / "program.py").write_text(PROGRAM)

    def podman(self) -> list[str]:
        """The engine, with this runtime in place of runc."""
        return [self.runtime if word == "runc" else word for word in super().podman()]

    def once(
        self, *command: str, options: tuple[str, ...] = (), device: str | None = "test"
    ) -> Done:
        """One container, to its end; without the device where that is None."""
        root, usual = self.this_system()
        asked = ("--user", "1000:1000", *usual, *options)
        if device is not None:
            asked = ("--device", f"upm.dev/share={device}", *asked)
        container = Container(self, root, *command, options=asked)
        out, errors = container.process.communicate(timeout=SECONDS)
        return subprocess.CompletedProcess(command, container.process.returncode, out, errors)

    def same_as_runc(self, *command: str, options: tuple[str, ...] = ()) -> Done:
        """Output, errors and exit status are those with runc."""
        results = []
        for runtime in ("runc", str(RUNC)):
            self.runtime = runtime
            results.append(self.once(*command, options=options))
        said = [(done.returncode, done.stdout, done.stderr) for done in results]
        self.assertEqual(said[0], said[1])
        return results[1]

    def answer(self, *options: str, device: str | None = "test") -> dict[str, Any]:
        """What the program says."""
        done = self.once("python3", "/data/program.py", options=options, device=device)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        found: dict[str, Any] = json.loads(done.stdout)
        found["maps"] = {name: place for place, name in reversed(found["maps"])}
        return found

    def keyed(self, *options: str) -> None:
        """A container with these options lies as one without them."""
        first, again = self.answer()["maps"], self.answer(*options)["maps"]
        self.assertEqual(first["[heap]"], again["[heap]"])
        libc = next(name for name in first if "/libc.so" in name)
        self.assertEqual(first[libc], again[libc])

    def usual(self, *options: str) -> None:
        """With these options the layout is the kernel's: another one each time."""
        first, again = self.answer(*options), self.answer(*options)
        self.assertEqual(first["seen"][2], "00000000")
        for name in first["maps"]:
            if "/libc.so" in name or name == "[heap]":
                self.assertNotEqual(first["maps"][name], again["maps"][name])


class Layout(Case):
    """Members of one domain lie alike."""

    def test_one_key_one_layout(self) -> None:
        first, again = self.answer(), self.answer()
        self.assertEqual(first["maps"], again["maps"])
        self.assertEqual(first["hash"], again["hash"])
        self.assertEqual(first["argv"], ["python3", "/data/program.py"])
        self.assertEqual(first["seen"][:3], ["8192", "unlimited", "00000000"])
        self.assertNotEqual(first["seen"][3], again["seen"][3], "children have the usual layout")
        self.generate("other")
        other = self.answer(device="other")
        for name, place in first["maps"].items():
            if not name.startswith(("[v", "[stack]")) and "python3." not in Path(name).name:
                self.assertNotEqual(place, other["maps"].get(name), name)
        self.assertNotEqual(first["hash"], other["hash"])

    def test_what_the_device_plugin_gives(self) -> None:
        """With --layout (tools/device-plugin/devices.cpp), by hand."""
        build = RUNC.parent
        mounts = [
            f"{build.parent}/lib/libupm-preload.so:/opt/upm/libupm-preload.so:ro",
            f"{build}/upm-layout:/opt/upm/upm-layout:ro",
            "/run/upm:/run/upm:ro",
        ]
        maps = []
        for name in ("one", "one", "other"):
            key = self.path / name
            if not key.exists():
                key.write_text(os.urandom(16).hex() + "\n")
                key.chmod(0o444)
            options = ["--env", "LD_PRELOAD=/opt/upm/libupm-preload.so"]
            options += ["--env", "UPM_DOMAIN=/opt/upm/domain"]
            for mount in (*mounts, f"{key}:/opt/upm/domain:ro"):
                options += ["--volume", mount]
            maps.append(self.answer(*options, device=None)["maps"])
        self.assertEqual(maps[0], maps[1])
        self.assertNotEqual(maps[0]["[heap]"], maps[2]["[heap]"])

    def test_with_other_options(self) -> None:
        for options in (
            ("--init",),
            ("--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges"),
            ("--user", "0:0", "--tty=false", "--workdir", "/usr"),
            ("--ulimit", "stack=8388608:-1", "--memory", "256m"),
            ("--uidmap", "0:0:65536", "--gidmap", "0:0:65536"),
        ):
            with self.subTest(options=options):
                if "--init" in options and not shutil.which("catatonit"):
                    continue
                self.keyed(*options)

    def test_programs_see_the_limits_that_they_would(self) -> None:
        self.same_as_runc("bash", "-c", "ulimit -Ss; ulimit -Hs; bash -c 'ulimit -a'")
        self.same_as_runc("bash", "-c", "exit 9")
        self.same_as_runc("bash", "-c", "kill -SEGV $$")
        for command in (
            ("java", "-Xmx64m", "-XX:-UsePerfData", "--version"),
            ("node", "-e", "console.log([3, 1, 2].sort())"),
            ("redis-server", "--version"),
            ("go", "version"),
        ):
            program = os.path.realpath(shutil.which(command[0]) or "")
            if program.startswith("/usr/"):
                with self.subTest(program=program):
                    done = self.same_as_runc(program, *command[1:])
                    self.assertEqual(done.returncode, 0, done.stderr)


class Documented(Case):
    """What docs/containers.md says for podman's settings, as it stands there."""

    def podman(self) -> list[str]:
        """The engine, whose settings name the runtime."""
        words = super().podman()
        at = words.index("--runtime")
        return words[:at] + words[at + 2 :]

    def test_the_settings_of_podman(self) -> None:
        text = podman_test.documented("Equal addresses")
        self.assertIn('"/usr/bin/upm-runc"', text)
        settings = self.path / "containers.conf"
        settings.write_text(text.replace("/usr/bin/upm-runc", str(RUNC)))
        with mock.patch.dict(os.environ, CONTAINERS_CONF=str(settings)):
            self.assertEqual(self.answer()["maps"], self.answer()["maps"])


class Untouched(Case):
    """Where it cannot be, containers run as with runc."""

    def test_odd_ones(self) -> None:
        self.usual("--env", "UPM_DOMAIN=")
        self.usual("--ulimit", "stack=8388608:8388608")

    def test_seccomp_profiles_of_their_own(self) -> None:
        given = json.loads(Path("/usr/share/containers/seccomp.json").read_text())
        for rule in given["syscalls"]:
            rule["names"] = [name for name in rule["names"] if name != "personality"]
        profile = self.path / "seccomp.json"
        profile.write_text(json.dumps(given))
        self.usual("--security-opt", f"seccomp={profile}")
        given["syscalls"].append({"names": ["personality"], "action": "SCMP_ACT_KILL_PROCESS"})
        profile.write_text(json.dumps(given))
        done = self.same_as_runc("sh", "-c", "echo fine", options=(
            "--security-opt", f"seccomp={profile}"))  # fmt: skip
        self.assertEqual(done.stdout, "fine\n")

    def test_what_is_no_member(self) -> None:
        root, options = self.this_system()
        outs = set()
        for _ in range(2):
            container = Container(self, root, "sh", "-c", WHERE, options=options)
            outs.add(container.end())
        self.assertEqual(len(outs), 2)

    def test_static_programs(self) -> None:
        program = self.data / "static"
        source = self.path / "static.c"
        source.write_text(
            "#include <stdio.h>\n#include <sys/personality.h>\n#include <sys/resource.h>\n"
            "int main(void) { struct rlimit l; getrlimit(RLIMIT_STACK, &l);\n"
            'printf("%d %lu\\n", personality(0xffffffff), (long)l.rlim_cur); }\n'
        )
        subprocess.run(["gcc", "-static", "-o", program, source], check=True)
        self.assertEqual(self.same_as_runc("/data/static").stdout, "0 8388608\n")

    def test_programs_that_do_not_exist(self) -> None:
        for runtime in ("runc", str(RUNC)):
            self.runtime = runtime
            done = self.once("no-such-program")
            self.assertEqual(done.returncode, 127, done.stderr)

    def test_what_exec_starts(self) -> None:
        """It has the usual layout, in a container whose program has not."""
        root, options = self.this_system()
        asked = ("--device", "upm.dev/share=test", "--name", "one", *options)
        container = Container(self, root, "python3", "/data/loader.py", options=asked)
        container.line()
        outs = set()
        for _ in range(2):
            done = subprocess.run(
                [*self.podman(), "exec", "one", "bash", "-c", f"ulimit -s; {WHERE}; exit 3"],
                capture_output=True,
                text=True,
                check=False,
            )
            self.assertEqual(done.returncode, 3, done.stderr)
            self.assertEqual(done.stdout.split()[0], "8192")
            outs.add(done.stdout)
        self.assertEqual(len(outs), 2)
        container.end()

    def test_a_missing_runtime(self) -> None:
        self.runtime = str(self.path / "upm-no-such-runtime")
        Path(self.runtime).symlink_to(RUNC)
        done = self.once("true")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("cannot find the runtime no-such-runtime", done.stderr)


if __name__ == "__main__":
    podman_test.main()
