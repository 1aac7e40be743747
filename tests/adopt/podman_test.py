#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Containers of podman that ask for upm.dev/share=NAME share memory, or run untouched.

The engine's defaults stay: its seccomp profile, its capabilities and, but for one test, an
ordinary user. Needs root (for podman), podman and runc. All runs in a mount namespace with
a /run/upm and an /etc/cdi of its own: nothing of the machine's is used or changed.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import unittest
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import hooked

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "upm"
INSIDE = "UPM_PODMAN_TEST_INSIDE"
PAGE = hooked.PAGE
SIZE = 32 << 20
SECONDS = 120
TRIES = 8
WEIGHTS = 0.97

# Reads a file into one large block, says where it is, and holds it until its input ends.
LOADER = f"""
import sys, zlib
with open("/data/weights", "rb", buffering=0) as file:
    block = file.read({SIZE})
place = id(block) + sys.getsizeof(b"") - 1
print(place, zlib.crc32(block), flush=True)
sys.stdin.read()
with open("/proc/self/mem", "r+b", buffering=0) as memory:
    memory.seek(place)
    memory.write(bytes([255 - block[0]]))
print(zlib.crc32(block), flush=True)
"""


def in_own_namespace(*more: str) -> int:
    """Runs this very test again, where /run/upm, /etc/cdi and more places are its own."""
    places = " ".join(["/run/upm", "/etc/cdi", *more])
    mounts = f"mount --make-rprivate / && for place in {places}; do mkdir -p $place &&"
    mounts += ' mount -t tmpfs -o mode=755 upm-test $place || exit; done && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", mounts, "sh", sys.executable, *sys.argv]
    return subprocess.run(command, env=os.environ | {INSIDE: "1"}, check=False).returncode


def frames(pid: int, address: int) -> list[int]:
    """Of the whole pages of the block that begins there."""
    first = -(-address // PAGE)
    entries = hooked.pagemap(pid, first * PAGE, (address + SIZE) // PAGE - first)
    return [entry & hooked.FRAME if entry & hooked.PRESENT else 0 for entry in entries]


def shared(one: list[int], other: list[int]) -> float:
    """How many of the pages are in the same frames."""
    return sum(a == b != 0 for a, b in zip(one, other, strict=True)) / len(one)


class Member(Protocol):
    """A program that has loaded the weights, for check_shares()."""

    @property
    def pid(self) -> int:
        """Of its process, as this namespace counts."""

    def line(self) -> str:
        """Where its weights are, and their sum."""

    def end(self) -> str:
        """Ends it; what it says then, which must not be the sum."""


class Container:
    """One run of an engine; stands still until its input is closed."""

    def __init__(self, case: "Case", root: Path, *command: str, options: tuple[str, ...]) -> None:
        self.case = case
        self.pid_file = case.path / f"pid-{len(case.containers)}"
        self.process = subprocess.Popen(
            [*case.command(self.pid_file, options), *case.image(root), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        case.containers.append(self)

    def line(self) -> str:
        """The next line of its output."""
        assert self.process.stdout is not None
        text = self.process.stdout.readline()
        if not text:
            self.case.fail(f"no answer: {self.process.communicate()[1]}")
        return text.strip()

    def end(self) -> str:
        """What it says at its end, which must be a good one."""
        out, errors = self.process.communicate(timeout=SECONDS)
        self.case.assertEqual(self.process.returncode, 0, errors)
        return out + errors

    @property
    def pid(self) -> int:
        """Of its first process, as this namespace counts."""
        return int(self.pid_file.read_text())


class Case(unittest.TestCase):
    """A broker, a device and a file with weights."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="upm-podman-")
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name)
        self.path.chmod(0o755)
        self.data = self.path / "data"
        self.data.mkdir()
        weights = os.urandom(SIZE)
        self.digest = str(zlib.crc32(weights))
        (self.data / "weights").write_bytes(weights)
        (self.data / "loader.py").write_text(LOADER)
        self.containers: list[Container] = []
        self.addCleanup(self.stop)
        socket = Path("/run/upm/upmd.sock")
        self.broker = subprocess.Popen([hooked.UPMD, "--mode", "0666", "--socket", socket])
        self.addCleanup(self.stop_broker)
        hooked.wait_until(socket.exists, "the socket of the broker")
        self.generate("test")

    def generate(self, domain: str, *more: str) -> None:
        """A device of that name."""
        done = subprocess.run(
            [hooked.UPM, "cdi", "generate", "--domain", domain, *more],
            capture_output=True,
            text=True,
            check=True,
        )
        self.assertIn(f"podman run --device upm.dev/share={domain}", done.stdout)
        self.assertEqual(done.stderr, "")

    def podman(self) -> list[str]:
        """The engine, with a store of its own."""
        places = ["--root", str(self.path / "store"), "--runroot", str(self.path / "run")]
        manager = ["--cgroup-manager", "cgroupfs", "--events-backend", "file"]
        return ["podman", "--log-level", "error", "--runtime", "runc", *places, *manager]

    def command(self, pid_file: Path, options: tuple[str, ...]) -> list[str]:
        """The words that start a container with the data, up to its image."""
        limits = ["--ulimit", "nofile=1000:1000", "--ulimit", "nproc=1000:1000"]
        usual = ["--rm", "--interactive", "--network=none", *limits]
        places = ["--pidfile", str(pid_file), "--volume", f"{self.data}:/data:ro"]
        return [*self.podman(), "run", *usual, *places, *options]

    def image(self, root: Path) -> list[str]:
        """The words for an image that lies there."""
        return ["--rootfs", f"{root}:O"]

    def stop(self) -> None:
        """Every container that a failed test left."""
        for container in self.containers:
            if container.process.poll() is None:
                container.process.communicate(timeout=SECONDS)
        subprocess.run([*self.podman(), "rm", "--all", "--force"], capture_output=True, check=False)

    def stop_broker(self) -> None:
        """If it is still there."""
        self.broker.terminate()
        self.broker.wait()

    def this_system(self) -> tuple[Path, tuple[str, ...]]:
        """An image with the programs of this system, and the options that it needs."""
        root = self.path / "image"
        for name in ("usr", "etc", "proc", "sys", "dev", "tmp", "run", "data"):
            (root / name).mkdir(parents=True, exist_ok=True)
        for name in ("bin", "lib", "lib64", "sbin"):
            if not (root / name).is_symlink():
                (root / name).symlink_to(f"usr/{name}")
        return root, ("--volume", "/usr:/usr:ro")

    def loader(self, root: Path, *options: str, device: str = "test") -> Container:
        """A container that loads the weights, as an ordinary user unless told otherwise."""
        asked = ("--device", f"upm.dev/share={device}", "--user", "1000:1000", *options)
        return Container(self, root, "python3", "/data/loader.py", options=asked)

    def check_shares(self, *starts: Callable[[], Member], alone: list[int] | None = None) -> None:
        """Two containers, one of each kind, come to hold one copy of the weights.

        A program does not wait for a broker that a busy machine keeps from answering: it
        reads for itself then. So there are several of each kind.
        """
        held: list[dict[str, list[int]]] = [{} for _ in starts]
        best = 0.0
        for _ in range(TRIES):
            for kind, start in enumerate(starts):
                container = start()
                place, digest = container.line().split()
                self.assertEqual(digest, self.digest)
                pages = frames(container.pid, int(place))
                self.assertEqual(shared(pages, alone or [0] * len(pages)), 0)
                others = [p for k, known in enumerate(held) for p in known.values() if k != kind]
                best = max([best, *(shared(pages, other) for other in others)])
                held[kind][place] = pages
            if best >= WEIGHTS:
                break
        self.assertGreaterEqual(best, WEIGHTS)
        for container in self.containers:
            self.assertNotIn(self.digest, container.end().split())


class Share(Case):
    """Where sharing is possible it happens."""

    def test_two_containers_of_an_ordinary_user(self) -> None:
        root, options = self.this_system()
        start = partial(self.loader, root, *options)
        self.check_shares(start, start)

    def test_root_in_a_container_with_a_root_that_is_read_only(self) -> None:
        root, options = self.this_system()
        options = (*options, "--user", "0:0", "--read-only", "--cap-drop", "all")
        start = partial(self.loader, root, *options)
        self.check_shares(start, start)

    def test_another_glibc(self) -> None:
        """Debian 11 beside this system: one domain, one copy."""
        old = CACHE / "debian-11"
        if not old.exists():
            self.skipTest(f"no {old}: tests/adopt/debian-folder 11 gets it")
        root, options = self.this_system()
        self.check_shares(partial(self.loader, root, *options), partial(self.loader, old))

    def test_containers_of_two_devices_share_nothing(self) -> None:
        self.generate("other")
        root, options = self.this_system()
        for device in ("test", "other") * 2:
            self.loader(root, *options, device=device)
        pages = []
        for container in self.containers:
            place, digest = container.line().split()
            self.assertEqual(digest, self.digest)
            pages.append(frames(container.pid, int(place)))
        for one in pages[0::2]:
            for other in pages[1::2]:
                self.assertEqual(shared(one, other), 0)

    def test_what_the_device_plugin_gives(self) -> None:
        """Its mounts and environment (tools/device-plugin/devices.cpp), by hand."""
        root, options = self.this_system()
        keys = []
        for name in ("one", "other"):
            keys.append(self.path / name)
            keys[-1].write_text(os.urandom(16).hex() + "\n")
            keys[-1].chmod(0o444)

        def start(key: Path) -> Container:
            asked = ("--user", "1000:1000", *options)
            hook = f"{hooked.ROOT}/build/lib/libupm-preload.so:/opt/upm/libupm-preload.so:ro"
            for mount in (hook, f"{key}:/opt/upm/domain:ro", "/run/upm:/run/upm:ro"):
                asked += ("--volume", mount)
            asked += ("--env", "LD_PRELOAD=/opt/upm/libupm-preload.so")
            asked += ("--env", "UPM_DOMAIN=/opt/upm/domain")
            return Container(self, root, "python3", "/data/loader.py", options=asked)

        stranger = start(keys[1])
        place, digest = stranger.line().split()
        self.assertEqual(digest, self.digest)
        alone = frames(stranger.pid, int(place))
        self.check_shares(partial(start, keys[0]), partial(start, keys[0]), alone=alone)

    def test_a_new_key_is_another_domain(self) -> None:
        root, options = self.this_system()
        one = self.loader(root, *options)
        one.line()
        before = Path("/etc/cdi/upm.dev-share-test.json").read_text()
        self.generate("test")
        self.assertEqual(Path("/etc/cdi/upm.dev-share-test.json").read_text(), before)
        self.generate("test", "--new-key")
        specification = Path("/etc/cdi/upm.dev-share-test.json")
        self.assertNotEqual(specification.read_text(), before)
        self.assertEqual(specification.stat().st_mode & 0o777, 0o600)
        one.end()


def documented(heading: str, number: int = 0) -> str:
    """A block below that heading of docs/containers.md, which people copy."""
    page = (hooked.ROOT / "docs/containers.md").read_text()
    before, found, rest = page.partition(f"# {heading}\n")
    assert found and before.endswith("#"), f"no heading '{heading}'"
    return rest.split("```\n")[2 * number + 1]


class Preload(Case):
    """An image that preloads something itself, such as an allocator of its own."""

    OWN = "/lib/x86_64-linux-gnu/libm.so.6"
    TELL = (
        "import os; print(os.environ['LD_PRELOAD'], '/libm.so' in open('/proc/self/maps').read())"
    )

    def test_the_device_names_it_as_well(self) -> None:
        self.generate("test", "--preload", self.OWN)
        root, options = self.this_system()
        options = ("--device", "upm.dev/share=test", *options)
        said = Container(self, root, "python3", "-c", self.TELL, options=options).line()
        self.assertEqual(said, f"/opt/upm/libupm-preload.so:{self.OWN} True")


class Documented(Case):
    """What docs/containers.md says for podman, with CDI and without, as it stands there."""

    def typed(self, heading: str, changes: dict[str, str], root: Path, *more: str) -> Container:
        """The block with an image, with what differs here, and this place's options."""
        text = documented(heading).replace("\\\n", " ")
        for word, here in changes.items():
            self.assertIn(word, text)
            text = text.replace(word, here)
        words = shlex.split(text)
        self.assertEqual((words[:2], words[-1]), (["podman", "run"], "IMAGE"))
        options = ("--user", "1000:1000", *words[2:-1], *more)
        return Container(self, root, "python3", "/data/loader.py", options=options)

    def test_the_line_with_cdi(self) -> None:
        root, options = self.this_system()
        start = partial(self.typed, "podman", {"=team-a": "=test"}, root, *options)
        self.check_shares(start, start)

    def test_the_lines_without_cdi(self) -> None:
        root, options = self.this_system()
        installed = "/usr/lib/x86_64-linux-gnu/libupm-preload.so"
        changes = {"=KEY": "=" + "ab" * 16, installed: str(hooked.HOOK)}
        start = partial(self.typed, "Without CDI", changes, root, *options)
        self.check_shares(start, start)


class Untouched(Case):
    """Where it is not, programs run as without it."""

    def run_both(self, root: Path, *command: str, options: tuple[str, ...] = ()) -> None:
        """The same output and exit status with the device and without."""
        results = []
        for asked in ((), ("--device", "upm.dev/share=test")):
            container = Container(self, root, *command, options=(*options, *asked))
            out, errors = container.process.communicate(timeout=SECONDS)
            results.append((container.process.returncode, out, errors))
        self.assertEqual(results[0], results[1])
        self.assertEqual(results[0][0], 0, results[0])

    def test_an_image_of_musl(self) -> None:
        compiler = shutil.which("musl-gcc")
        if not compiler:
            self.skipTest("no musl-gcc: apt-get install musl-tools")
        root = self.path / "musl"
        for name in ("lib", "bin", "proc", "sys", "dev", "data", "etc"):
            (root / name).mkdir(parents=True)
        shutil.copy("/lib/ld-musl-x86_64.so.1", root / "lib", follow_symlinks=True)
        source = self.path / "program.c"
        source.write_text(
            "#include <stdio.h>\n#include <stdlib.h>\nint main(void)\n{\n"
            'FILE *f = fopen("/data/weights", "rb"); char *p = malloc(1 << 25);\n'
            "unsigned s = 0; size_t n = fread(p, 1, 1 << 25, f);\n"
            "for (size_t i = 0; i < n; i++) s = s * 31 + (unsigned char)p[i];\n"
            'printf("%zu %u\\n", n, s); return 0; }\n'
        )
        subprocess.run([compiler, "-O2", source, "-o", root / "bin/program"], check=True)
        self.run_both(root, "/bin/program", options=("--user", "1000:1000"))

    def test_no_broker(self) -> None:
        self.stop_broker()
        root, options = self.this_system()
        script = "import zlib; print(zlib.crc32(open('/data/weights', 'rb').read()))"
        options = (*options, "--user", "1000:1000")
        self.run_both(root, "python3", "-c", script, options=options)

    def test_a_user_namespace(self) -> None:
        root, options = self.this_system()
        script = "import zlib; print(zlib.crc32(open('/data/weights', 'rb').read()))"
        for path in (root, *root.iterdir()):
            os.chown(path, 100000, 100000, follow_symlinks=False)
        mapped = ("--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536")
        self.run_both(root, "python3", "-c", script, options=(*options, *mapped))

    def test_programs_that_children_start(self) -> None:
        root, options = self.this_system()
        script = "for i in 1 2 3; do ls /usr | sort | tail -n 1; done; exit 0"
        options = (*options, "--user", "1000:1000")
        self.run_both(root, "sh", "-c", script, options=options)


class Command(unittest.TestCase):
    """The command itself."""

    def test_what_it_cannot_do_it_says(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            foreign = Path(folder) / "upm.dev-share-default.json"
            foreign.write_text(json.dumps({"devices": []}))
            for arguments, words in (
                (["generate", "--domain", "a b"], "is no name of a device"),
                (["generate", "--hook", "relative.so"], "by its full path"),
                (["generate", "--hook", "/etc/passwd"], "is no shared library"),
                (["generate", "--hook", "/opt"], "Is a directory"),
                (["generate", "--preload", "a.so"], "is no list of full paths"),
                (["generate", "--output", folder], "is no specification of upm cdi"),
                (["remove", "--output", folder, "--domain", "none"], "No such file"),
                (["what"], "say upm cdi generate"),
                ([], "say upm cdi generate"),
            ):
                done = subprocess.run(
                    [hooked.UPM, "cdi", *arguments], capture_output=True, text=True, check=False
                )
                self.assertNotEqual(done.returncode, 0, arguments)
                self.assertIn(words, done.stderr)
            self.assertEqual(json.loads(foreign.read_text()), {"devices": []})

    def test_a_container_starts_where_no_broker_ever_ran(self) -> None:
        """Engines do not start a container whose device mounts a folder that is not there."""
        run = Path("/run/upm")
        subprocess.run(["mount", "-t", "tmpfs", "upm-test", run.parent], check=True)
        self.addCleanup(subprocess.check_call, ["umount", run.parent])
        done = subprocess.run(
            [hooked.UPM, "cdi", "generate", "--domain", "first"],
            capture_output=True,
            text=True,
            check=True,
            umask=0o077,
        )
        self.assertIn("there is no /run/upm/upmd.sock", done.stderr)
        self.assertEqual(run.stat().st_mode & 0o777, 0o755)

    def cdi(self, what: str, folder: Path, domain: str) -> str:
        """Makes a device in that folder, or removes it. What it had to say."""
        command: list[str | Path] = [
            hooked.UPM,
            "cdi",
            what,
            "--output",
            folder,
            "--domain",
            domain,
        ]
        if what == "generate":
            command += ["--hook", hooked.HOOK]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr

    def test_a_copy_of_a_device_is_told(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            self.assertNotIn("as well", self.cdi("generate", folder, "one"))
            copy = folder / "before.json"
            shutil.copy(folder / "upm.dev-share-one.json", copy)
            said = self.cdi("generate", folder, "one")
            self.assertIn(f"engines then take neither: rm {copy}", said)
            self.assertNotIn("as well", self.cdi("generate", folder, "two"))
            self.assertIn(f"still get it: rm {copy}", self.cdi("remove", folder, "one"))

    def test_a_folder_that_it_made_goes_with_its_last_device(self) -> None:
        with tempfile.TemporaryDirectory(dir=hooked.ROOT / "build") as name:
            made, other = Path(name) / "made", Path(name) / "other"
            other.mkdir()
            for folder in (made, other):
                for domain in ("one", "two"):
                    self.cdi("generate", folder, domain)
                self.cdi("remove", folder, "one")
                self.assertTrue((folder / "upm.dev-share-two.json").exists())
                self.cdi("remove", folder, "two")
            self.assertFalse(made.exists())
            self.assertTrue(other.exists(), "it was there before")

    def test_what_others_put_into_its_folder_stays(self) -> None:
        with tempfile.TemporaryDirectory(dir=hooked.ROOT / "build") as name:
            folder = Path(name) / "made"
            self.cdi("generate", folder, "one")
            (folder / "vendor.json").write_text("{}")
            self.cdi("remove", folder, "one")
            self.assertEqual([path.name for path in folder.iterdir()], ["vendor.json"])


def main() -> None:
    """Runs the tests of the script that was called, in a mount namespace, or says why not."""
    if os.geteuid() != 0 or not shutil.which("podman") or not shutil.which("runc"):
        print("skipped: needs root, podman and runc")
        sys.exit(4)
    if INSIDE not in os.environ:
        sys.exit(in_own_namespace())
    unittest.main()


if __name__ == "__main__":
    main()
