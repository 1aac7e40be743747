# SPDX-License-Identifier: MIT
"""Large real programs, each with a result that is the same whatever merges their memory.

Each function runs one in some way and returns its result. missing() says what this system
lacks for one.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import NamedTuple

from hooked import PYTHON, ROOT, Words, environment

SECONDS = 3600  # for each program
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

NEEDS: dict[str, list[tuple[str, ...]]] = {
    "python": [(PYTHON, "-c", "import test.regrtest")],
    "redis": [("redis-server", "--version"), ("redis-benchmark", "--version")],
    "sqlite": [("sqlite3", "--version")],
    "compiler": [("gcc", "--version"), ("g++", "--version"), ("make", "--version")],
    "stress": [("stress-ng", "--version")],
}


class Way(NamedTuple):
    """How programs are run: behind these words, in this environment."""

    name: str
    prefix: Words
    variables: dict[str, str]


PLAIN = Way("plain", [], environment())


def missing(program: str) -> str:
    """What of NEEDS is not there; empty if all is."""
    for command in NEEDS[program]:
        name = command[0]
        if not shutil.which(name):
            return f"no {name}"
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            return f"{' '.join(command)} fails"
    return ""


def run(
    command: Words, variables: dict[str, str], folder: str, text: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a program in a folder to its end, with this text as its input."""
    return subprocess.run(
        command,
        env=variables,
        cwd=folder,
        input=text or "",
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


# ---- CPython --------------------------------------------------------------------------


def python_outcomes(modules: list[str], way: Way, ignore: str = "") -> dict[str, str]:
    """Outcome of each of CPython's own tests in these modules, by its name.

    Each module has a process of its own. Tests whose name matches `ignore` are left out.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        python = shlex.join(str(word) for word in (*way.prefix, PYTHON))
        options = ["-j", JOBS, "--timeout", "600", "--python", python, "--junit-xml", str(report)]
        options += ["--ignore", ignore] if ignore else []
        done = run([PYTHON, "-m", "test", *options, *modules], way.variables, folder)
        if not report.exists():
            raise AssertionError(f"no report; status {done.returncode}:\n{done.stdout}")
        tree = ET.parse(report)
    found: dict[str, str] = {}
    for case in tree.iter("testcase"):
        kinds = sorted({child.tag for child in case if child.tag not in {"system-out"}})
        status = case.get("status", "run") + case.get("result", "")
        found[case.get("name", "?")] = " ".join([status, *kinds])
    return found


# ---- Redis ----------------------------------------------------------------------------

REDIS_PORT = "16399"
# Large values, written to here and there, in memory and after a reload.
REDIS_CHANGE = (
    "for i = 0, ARGV[1] - 1 do redis.call('setrange', 'key:' .. i, (i * 7919) % 70000, "
    "'changed ' .. i) end return 'OK'"
)


def redis(*arguments: str) -> str:
    """The answer to a command."""
    done = run(["redis-cli", "-p", REDIS_PORT, *arguments], environment(), "/")
    if done.returncode != 0:
        raise AssertionError(f"redis-cli {arguments}: {done.stdout} {done.stderr}")
    return done.stdout.strip()


def redis_start(way: Way, folder: str) -> subprocess.Popen[bytes]:
    """A server that answers."""
    server = subprocess.Popen(
        [*way.prefix, "redis-server", "--port", REDIS_PORT, "--dir", folder, "--save", "",
         "--enable-debug-command", "yes", "--daemonize", "no"],
        env=way.variables,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    for _ in range(200):
        done = run(["redis-cli", "-p", REDIS_PORT, "ping"], environment(), folder)
        if done.stdout == "PONG\n":
            return server
        time.sleep(0.1)
    server.kill()
    raise AssertionError("redis-server does not answer")


def redis_load(requests: int) -> None:
    """So many requests of each kind, a save by the server and one by a child of it."""
    command = ["redis-benchmark", "-p", REDIS_PORT, "-n", str(requests), "-r", "100", "-q"]
    command += ["-d", "100000", "-t", "set,get,lpush,lpop,hset,mset"]
    done = run(command, environment(), "/")
    if done.returncode != 0:
        raise AssertionError(f"redis-benchmark: {done.stdout} {done.stderr}")
    redis("save")  # forks nothing; the next one does
    redis("bgsave")
    while "rdb_bgsave_in_progress:1" in redis("info", "persistence"):
        time.sleep(0.2)
    redis("del", "mylist", "myhash", *redis("keys", "key:0000*").splitlines())


def redis_digests(way: Way, values: int = 1500, requests: int = 3000) -> list[str]:
    """A server with so many values under load: the digest of its data after each step.

    The first two must be equal, and the last two.
    """
    with tempfile.TemporaryDirectory() as folder:
        server = redis_start(way, folder)
        try:
            redis("debug", "populate", str(values), "key", "70000")
            found = [redis("debug", "digest")]
            time.sleep(2)
            found.append(redis("debug", "digest"))
            if (answer := redis("eval", REDIS_CHANGE, "0", str(values))) != "OK":
                raise AssertionError(answer)
            found.append(redis("debug", "digest"))
            redis_load(requests)
            found.append(redis("debug", "digest"))
            redis("debug", "reload")
            found.append(redis("debug", "digest"))
            return found
        finally:
            server.terminate()
            server.wait()


# ---- SQLite ---------------------------------------------------------------------------

# A database that fits the page cache, changed and checked with pauses in between.
SQL = """
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


def sqlite_result(way: Way) -> tuple[str, str, str]:
    """What sqlite3 says, its errors, and a digest of the database."""
    with tempfile.TemporaryDirectory() as folder:
        script = "\n".join(line.strip() for line in SQL.splitlines())
        done = run([*way.prefix, "sqlite3", "base.db"], way.variables, folder, script)
        if done.returncode != 0:
            raise AssertionError(f"sqlite3: {done.stdout} {done.stderr}")
        digest = hashlib.sha256((Path(folder) / "base.db").read_bytes()).hexdigest()
        return done.stdout, done.stderr, digest


# ---- a compiler -------------------------------------------------------------------------


def compiler_command(way: Way, words: str) -> str:
    """A command line; what the compiler starts is run in the same way."""
    name, *options = words.split()
    if way.prefix:
        options += ["-wrapper", ",".join(str(word) for word in way.prefix)]
    return shlex.join([*(str(word) for word in way.prefix), name, *options])


def compiler_makefile(sources: list[Path], way: Way) -> str:
    """Makes out.so of the sources."""
    compilers = {".c": "gcc -w -fno-builtin", ".cpp": "g++ -std=c++20"}
    text = "all: out.so\nout.so: " + " ".join(f"{s.stem}.o" for s in sources)
    text += f"\n\t{compiler_command(way, 'g++ -shared -Wl,-z,undefs')} -o $@ $^\n"
    for source in sources:
        text += (
            f"{source.stem}.o: {source}\n\t"
            f"{compiler_command(way, compilers[source.suffix])} -O2 -g -pipe -fPIC -c "
            "-ffile-prefix-map=$(CURDIR)=. "
            f"-I{ROOT} -I{ROOT}/libupm/include -o $@ $<\n"
        )
    return text


def compiler_result(way: Way, most: int | None = None) -> tuple[str, bytes]:
    """gcc, its assembler and the linker: what they say of the hook's sources, and the bytes.

    Of so many sources at most.
    """
    sources = sorted((ROOT / "preload").glob("*.c*"))
    sources = [source for source in sources if source.suffix in (".c", ".cpp")][:most]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "Makefile").write_text(compiler_makefile(sources, way))
        done = run(["make", "-j", JOBS], way.variables, folder)
        if done.returncode != 0:
            raise AssertionError(f"make: {done.stderr}")
        return done.stderr, (Path(folder) / "out.so").read_bytes()


# ---- stress-ng ----------------------------------------------------------------------------


def stress_result(way: Way, seconds: float) -> str:
    """What stress-ng says of memory that it writes and verifies, by all of its methods."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*way.prefix, "stress-ng", "--vm", "2", "--vm-bytes", "8M", "--vm-method", "all"]
        done = run([*command, "--verify", "--timeout", f"{seconds:.0f}s"], way.variables, folder)
        if done.returncode != 0:
            raise AssertionError(f"stress-ng: status {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout + done.stderr
