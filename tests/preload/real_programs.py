#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Large real programs under the hook at its most eager: they do what they do without.

    tests/preload/real_programs.py [CLASS...]        CPython, Redis, Sqlite, Compiler

Each runs without the hook and then with it (idle for 10 ms, blocks of 64 KiB and more),
and the results are compared. Memory is merged by UPM_BACKEND, by default the store, with
a broker of the test's own. Takes some minutes. `make test-programs` installs what it
needs; what is missing all the same is skipped, and all skipped is exit status 4.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import ClassVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from hooked import PYTHON, ROOT, UPM, Broker, environment, hook, main

SECONDS = 3600
JOBS = os.environ.get("JOBS", "2")

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


class Case(unittest.TestCase):
    """A broker, and the environments without and with the hook."""

    hooked: ClassVar[dict[str, str]]

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

    def environments(self) -> list[tuple[str, dict[str, str]]]:
        return [("without", environment()), ("with the hook", self.hooked)]

    def inserted(self) -> int:
        """Bytes that hooked programs of this class have published."""
        variables = {k: v for k, v in self.hooked.items() if k != "LD_PRELOAD"}
        done = subprocess.run(
            [UPM, "status", "--json"], env=variables, capture_output=True, text=True, check=True
        )
        return int(json.loads(done.stdout)["service"]["upmd_published_bytes_total"])


class CPython(Case):
    """Each test of the selection has the same outcome; what differs gets a second try."""

    def outcomes(self, modules: list[str], variables: dict[str, str]) -> dict[str, str]:
        """Outcome of each test by its name."""
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
                "--junit-xml",
                report,
            ]
            done = subprocess.run(
                [*command, *modules],
                env=variables,
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
        before = self.outcomes(PYTHON_TESTS, environment())
        after = self.outcomes(PYTHON_TESTS, self.hooked)
        self.assertGreater(len(before), 5000)
        self.assertGreater(self.inserted(), 0, "the hook merged nothing")
        differ = {name for name in before | after if before.get(name) != after.get(name)}
        print(f"{len(before)} tests, {len(differ)} differ at first: {sorted(differ)}")
        modules = {module for module in PYTHON_TESTS if any(f"{module}." in n for n in differ)}
        if differ:
            again = self.outcomes(sorted(modules) or PYTHON_TESTS, environment())
            with_hook = self.outcomes(sorted(modules) or PYTHON_TESTS, self.hooked)
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

    def start(self, variables: dict[str, str], folder: str) -> subprocess.Popen[bytes]:
        server = subprocess.Popen(
            ["redis-server", "--port", self.PORT, "--dir", folder, "--save", "",
             "--enable-debug-command", "yes", "--daemonize", "no"],
            env=variables,
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

    def digests(self, variables: dict[str, str]) -> list[str]:
        """Of the data after each step."""
        with tempfile.TemporaryDirectory() as folder:
            server = self.start(variables, folder)
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
        before = self.digests(environment())
        after = self.digests(self.hooked)
        self.assertEqual(before, after)
        self.assertEqual(after[0], after[1])
        self.assertGreater(self.inserted(), 0, "the hook merged nothing")


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
        results = []
        for name, variables in self.environments():
            with self.subTest(name), tempfile.TemporaryDirectory() as folder:
                script = "\n".join(line.strip() for line in self.SCRIPT.splitlines())
                done = subprocess.run(
                    ["sqlite3", "base.db"],
                    env=variables,
                    cwd=folder,
                    input=script,
                    capture_output=True,
                    text=True,
                    timeout=SECONDS,
                    check=True,
                )
                file = hashlib.sha256((Path(folder) / "base.db").read_bytes()).hexdigest()
                results.append((done.stdout, done.stderr, file))
        self.assertEqual(results[0], results[1])
        self.assertGreater(self.inserted(), 0, "the hook merged nothing")


class Compiler(Case):
    """gcc, its assembler and the linker make the same bytes."""

    def test_build(self) -> None:
        sources = sorted((ROOT / "preload").glob("*.c*"))
        sources = [source for source in sources if source.suffix in (".c", ".cpp")]
        compilers = {".c": "gcc -w -fno-builtin", ".cpp": "g++ -std=c++20"}
        results = []
        for _, variables in self.environments():
            with tempfile.TemporaryDirectory() as folder:
                makefile = "all: out.so\nout.so: " + " ".join(f"{s.stem}.o" for s in sources)
                makefile += "\n\tg++ -shared -Wl,-z,undefs -o $@ $^\n"
                for source in sources:
                    makefile += (
                        f"{source.stem}.o: {source}\n\t"
                        f"{compilers[source.suffix]} -O2 -g -pipe -fPIC -c "
                        "-ffile-prefix-map=$(CURDIR)=. "
                        f"-I{ROOT} -I{ROOT}/libupm/include -o $@ $<\n"
                    )
                (Path(folder) / "Makefile").write_text(makefile)
                done = subprocess.run(
                    ["make", "-j", JOBS],
                    env=variables,
                    cwd=folder,
                    capture_output=True,
                    text=True,
                    timeout=SECONDS,
                    check=False,
                )
                self.assertEqual(done.returncode, 0, done.stderr)
                results.append((done.stderr, (Path(folder) / "out.so").read_bytes()))
        self.assertEqual(results[0], results[1])


if __name__ == "__main__":
    sys.exit(main("Compiler", "Sqlite", "Redis", "CPython"))
