#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Large real programs under the hook at its most eager: they do what they do without.

    tests/preload/real_programs.py [CLASS...]        CPython, Redis, Sqlite, Compiler

Each runs without the hook, with it (idle for 10 ms, blocks of 64 KiB and more), and by
`upm run --layout keyed`, and the results are compared; UPM_TEST_WAYS names fewer of the ways
`hook` and `keyed`. Memory is merged by UPM_BACKEND, by default the store, with a broker of
the test's own. Takes the better part of an hour. `make test-programs` installs what it
needs; what is missing all the same is skipped, and all skipped is exit status 4.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import ClassVar, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from hooked import PYTHON, ROOT, UPM, Broker, Words, environment, hook, main

SECONDS = 3600
JOBS = os.environ.get("JOBS", "2")
WAYS = os.environ.get("UPM_TEST_WAYS", "hook keyed").split()

# CPython's own tests of what has to do with memory, threads, processes, files and
# numbers, and of much of the library.
PYTHON_TESTS = """
    test_array test_ast test_asyncgen test_base64 test_bigmem test_binascii test_bisect
    test_buffer test_builtin test_bytes test_bz2 test_call test_capi test_charmapcodec test_class
    test_codecs test_collections test_complex test_contextlib test_copy test_coroutines test_csv
    test_ctypes test_dataclasses test_datetime test_decimal test_deque test_descr test_dict
    test_difflib test_enum test_enumerate test_exceptions test_fileio test_float test_fork1
    test_format test_fractions test_functools test_gc test_generators test_genexps test_grammar
    test_gzip test_hash test_hashlib test_heapq test_hmac test_import test_importlib test_index
    test_inspect test_int test_io test_itertools test_json test_list test_long test_lzma
    test_mailbox test_marshal test_math test_memoryio test_memoryview test_mmap
    test_multiprocessing_forkserver test_operator test_ordered_dict test_os test_pickle
    test_posix test_pprint test_pyexpat test_queue test_random test_range test_re test_richcmp
    test_runpy test_select test_selectors test_set test_shelve test_shutil test_signal test_slice
    test_socket test_sort test_statistics test_str test_string test_struct test_subprocess
    test_sys test_tarfile test_tempfile test_textwrap test_thread test_threading
    test_threadedtempfile test_time test_traceback test_tuple test_types test_typing test_unicode
    test_userdict test_uuid test_wait3 test_weakref test_xml_etree test_zipfile test_zlib
""".split()


class Way(NamedTuple):
    """How programs are run: behind these words, in this environment."""

    name: str
    prefix: Words
    variables: dict[str, str]


PLAIN = Way("plain", [], environment())


class Case(unittest.TestCase):
    """A broker, and the ways to run a program that are compared with the plain one."""

    hooked: ClassVar[dict[str, str]]
    ways: ClassVar[list[Way]]

    @classmethod
    def setUpClass(cls) -> None:
        broker = Broker()
        cls.addClassCleanup(broker.end)
        cls.hooked = environment(
            **hook(
                os.environ.get("UPM_BACKEND", "store"),
                UPM_SOCKET=str(broker.socket),
                UPM_MIN_BYTES="64K",
            )
        )
        # upm run sets these itself: the layout goes with the scope `all`.
        others = {k: v for k, v in cls.hooked.items() if k not in ("LD_PRELOAD", "UPM_SCOPE")}
        keyed = Way(
            "keyed", [UPM, "run", "--layout", "keyed", "--"], others | {"UPM_DOMAIN": "77" * 16}
        )
        cls.ways = [way for way in (Way("hook", [], cls.hooked), keyed) if way.name in WAYS]
        for way in cls.ways:
            done = subprocess.run(
                [*way.prefix, PYTHON, "-c", ""],
                env=way.variables,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != 0 or "stock layout" in done.stderr:
                raise AssertionError(f"{way.name}: {done.stderr}")

    def inserted(self) -> int:
        """Bytes that hooked programs of this class have published."""
        variables = {k: v for k, v in self.hooked.items() if k != "LD_PRELOAD"}
        done = subprocess.run(
            [UPM, "status", "--json"], env=variables, capture_output=True, text=True, check=True
        )
        return int(json.loads(done.stdout)["service"]["upmd_published_bytes_total"])


class CPython(Case):
    """Each test of the selection has the same outcome; what differs gets a second try."""

    def outcomes(self, modules: list[str], way: Way) -> dict[str, str]:
        """Outcome of each test by its name; each module has a process of its own."""
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.xml"
            command: list[str | Path] = [
                PYTHON,
                "-m",
                "test",
                "-j",
                JOBS,
                "--timeout",
                "600",
                "--python",
                shlex.join(str(word) for word in (*way.prefix, PYTHON)),
                "--junit-xml",
                report,
            ]
            done = subprocess.run(
                [*command, *modules],
                env=way.variables,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
            if not report.exists():
                raise AssertionError(f"no report; status {done.returncode}:\n{done.stdout}")
            tree = ET.parse(report)
        found: dict[str, str] = {}
        for case in tree.iter("testcase"):
            kinds = sorted({child.tag for child in case if child.tag not in {"system-out"}})
            status = case.get("status", "run") + case.get("result", "")
            found[case.get("name", "?")] = " ".join([status, *kinds])
        return found

    def test_suite(self) -> None:
        if subprocess.run([PYTHON, "-c", "import test.regrtest"], check=False).returncode != 0:
            self.skipTest("no libpython3-testsuite")
        before = self.outcomes(PYTHON_TESTS, PLAIN)
        self.assertGreater(len(before), 5000)
        for way in self.ways:
            with self.subTest(way.name):
                self.compare(before, way)

    def compare(self, before: dict[str, str], way: Way) -> None:
        """With a second try of what differs, in both ways."""
        published = self.inserted()
        after = self.outcomes(PYTHON_TESTS, way)
        self.assertGreater(self.inserted(), published, "the hook merged nothing")
        differ = {name for name in before | after if before.get(name) != after.get(name)}
        print(f"{way.name}: {len(before)} tests, {len(differ)} differ at first: {sorted(differ)}")
        modules = {module for module in PYTHON_TESTS if any(f"{module}." in n for n in differ)}
        if differ:
            again = self.outcomes(sorted(modules) or PYTHON_TESTS, PLAIN)
            with_hook = self.outcomes(sorted(modules) or PYTHON_TESTS, way)
            differ = {
                name for name in again | with_hook if again.get(name) != with_hook.get(name)
            } & differ
        self.assertEqual(differ, set(), "these differ twice")


class Redis(Case):
    """A server under load: its digest of all data is what it is without the hook."""

    PORT = "16399"
    # Large values, written to here and there, in memory and after a reload.
    CHANGE = (
        "for i = 0, 1499 do redis.call('setrange', 'key:' .. i, (i * 7919) % 70000, "
        "'changed ' .. i) end return 'OK'"
    )

    def cli(self, *arguments: str) -> str:
        done = subprocess.run(
            ["redis-cli", "-p", self.PORT, *arguments],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=True,
        )
        return done.stdout.strip()

    def start(self, way: Way, folder: str) -> subprocess.Popen[bytes]:
        server = subprocess.Popen(
            [*way.prefix, "redis-server", "--port", self.PORT, "--dir", folder, "--save", "",
             "--enable-debug-command", "yes", "--daemonize", "no"],
            env=way.variables,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        for _ in range(200):
            done = subprocess.run(
                ["redis-cli", "-p", self.PORT, "ping"], capture_output=True, check=False
            )
            if done.stdout == b"PONG\n":
                return server
            time.sleep(0.1)
        server.kill()
        raise AssertionError("redis-server does not answer")

    def digests(self, way: Way) -> list[str]:
        """Of the data after each step."""
        with tempfile.TemporaryDirectory() as folder:
            server = self.start(way, folder)
            try:
                found = []
                self.cli("debug", "populate", "1500", "key", "70000")
                found.append(self.cli("debug", "digest"))
                time.sleep(2)
                found.append(self.cli("debug", "digest"))
                self.assertEqual(self.cli("eval", self.CHANGE, "0"), "OK")
                found.append(self.cli("debug", "digest"))
                benchmark = ["redis-benchmark", "-p", self.PORT, "-n", "3000", "-r", "100", "-q"]
                subprocess.run(
                    [*benchmark, "-d", "100000", "-t", "set,get,lpush,lpop,hset,mset"],
                    stdout=subprocess.DEVNULL,
                    env=environment(),
                    check=True,
                )
                self.cli("save")  # forks nothing; the next one does
                self.cli("bgsave")
                while "rdb_bgsave_in_progress:1" in self.cli("info", "persistence"):
                    time.sleep(0.2)
                for name in ("mylist", "myhash"):
                    self.cli("del", name)
                for key in self.cli("keys", "key:0000*").splitlines():
                    self.cli("del", key)
                found.append(self.cli("debug", "digest"))
                self.cli("debug", "reload")
                found.append(self.cli("debug", "digest"))
                self.assertEqual(found[-1], found[-2])
                return found
            finally:
                server.terminate()
                server.wait()

    def test_data(self) -> None:
        if not shutil.which("redis-server") or not shutil.which("redis-benchmark"):
            self.skipTest("no redis-server and redis-tools")
        before = self.digests(PLAIN)
        for way in self.ways:
            with self.subTest(way.name):
                published = self.inserted()
                after = self.digests(way)
                self.assertEqual(before, after)
                self.assertEqual(after[0], after[1])
                self.assertGreater(self.inserted(), published, "the hook merged nothing")


class Sqlite(Case):
    """A database that fits the page cache, changed and checked with pauses in between."""

    SCRIPT = """
        pragma cache_size = -200000; pragma mmap_size = 268435456;
        create table t(a integer primary key, b text, c blob);
        with recursive n(i) as (select 1 union all select i + 1 from n where i < 60000)
            insert into t select i, hex(i * 7919), zeroblob(i % 3000) from n;
        .shell sleep 0.5
        insert into t select a + 100000, b || 'x', zeroblob(200000) from t where a % 500 = 0;
        create index i on t(b); delete from t where a % 3 = 0;
        .shell sleep 0.5
        update t set b = b || a, c = c || 'y' where a % 7 = 0;
        pragma integrity_check; vacuum; pragma integrity_check;
        select count(*), sum(length(b)), max(b), sum(length(c)) from t;
    """

    def test_database(self) -> None:
        if not shutil.which("sqlite3"):
            self.skipTest("no sqlite3")
        before = self.result(PLAIN)
        for way in self.ways:
            with self.subTest(way.name):
                published = self.inserted()
                self.assertEqual(self.result(way), before)
                self.assertGreater(self.inserted(), published, "the hook merged nothing")

    def result(self, way: Way) -> tuple[str, str, str]:
        """Its output, its errors, and the hash of the database."""
        with tempfile.TemporaryDirectory() as folder:
            script = "\n".join(line.strip() for line in self.SCRIPT.splitlines())
            done = subprocess.run(
                [*way.prefix, "sqlite3", "base.db"],
                env=way.variables,
                cwd=folder,
                input=script,
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=True,
            )
            file = hashlib.sha256((Path(folder) / "base.db").read_bytes()).hexdigest()
            return done.stdout, done.stderr, file


class Compiler(Case):
    """gcc, its assembler and the linker make the same bytes."""

    def test_build(self) -> None:
        before = self.result(PLAIN)
        for way in self.ways:
            with self.subTest(way.name):
                self.assertEqual(self.result(way), before)

    def compiler(self, way: Way, words: str) -> str:
        """A command line; what the compiler starts is run in the same way."""
        name, *options = words.split()
        if way.prefix:
            options += ["-wrapper", ",".join(str(word) for word in way.prefix)]
        return shlex.join([*(str(word) for word in way.prefix), name, *options])

    def result(self, way: Way) -> tuple[str, bytes]:
        """The errors of the compilers, and the library."""
        sources = sorted((ROOT / "preload").glob("*.c*"))
        sources = [source for source in sources if source.suffix in (".c", ".cpp")]
        compilers = {".c": "gcc -w -fno-builtin", ".cpp": "g++ -std=c++20"}
        with tempfile.TemporaryDirectory() as folder:
            link = self.compiler(way, "g++ -shared -Wl,-z,undefs")
            makefile = "all: out.so\nout.so: " + " ".join(f"{s.stem}.o" for s in sources)
            makefile += f"\n\t{link} -o $@ $^\n"
            for source in sources:
                makefile += (
                    f"{source.stem}.o: {source}\n\t"
                    f"{self.compiler(way, compilers[source.suffix])} -O2 -g -pipe -fPIC -c "
                    "-ffile-prefix-map=$(CURDIR)=. "
                    f"-I{ROOT} -I{ROOT}/libupm/include -o $@ $<\n"
                )
            (Path(folder) / "Makefile").write_text(makefile)
            done = subprocess.run(
                ["make", "-j", JOBS],
                env=way.variables,
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
            self.assertEqual(done.returncode, 0, done.stderr)
            return done.stderr, (Path(folder) / "out.so").read_bytes()


if __name__ == "__main__":
    sys.exit(main("Compiler", "Sqlite", "Redis", "CPython"))
