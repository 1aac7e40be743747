#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""tools/dev/check-tree must know which way dependencies point."""

import importlib.machinery
import importlib.util
import sys
import unittest
from pathlib import Path
from types import ModuleType

CHECK_TREE = Path(__file__).resolve().parents[3] / "tools/dev/check-tree"


def load(path: Path) -> ModuleType:
    """A script without an ending, as a module."""
    sys.dont_write_bytecode = True
    loader = importlib.machinery.SourceFileLoader("check_tree", str(path))
    spec = importlib.util.spec_from_loader("check_tree", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


class Arrows(unittest.TestCase):
    """Pairs of a file and what it includes."""

    def setUp(self) -> None:
        self.fault = load(CHECK_TREE).arrow_fault

    def test_allowed(self) -> None:
        for path, name in (
            ("kmod/uapi/upm.h", "linux/types.h"),
            ("kmod/scan.c", "uapi/upm.h"),
            ("libupm/backends/kmod.cpp", "kmod/uapi/upm.h"),
            ("libupm/engine/engine.cpp", "upm/upm.h"),
            ("tools/upm/main.cpp", "upm/upm.hpp"),
            ("tools/pss-report/main.cpp", "fmt/core.h"),
            ("tools/pss-report/show/live.cpp", "tools/pss-report/model/report.hpp"),
            ("tests/kmod/cow_test.cpp", "kmod/uapi/upm.h"),
            ("tests/libupm/mm/vma_reader_test.cpp", "libupm/mm/vma_reader.hpp"),
            ("libupm/store/backend.cpp", "libupm/mm/vma_reader.hpp"),
            ("tools/upmd/server.cpp", "libupm/store/wire.hpp"),
        ):
            self.assertIsNone(self.fault(Path(path), name), f"{path} {name}")

    def test_refused(self) -> None:
        for path, name in (
            ("kmod/uapi/upm.h", "stdint.h"),
            ("kmod/scan.c", "upm/upm.h"),
            ("libupm/engine/engine.cpp", "kmod/uapi/upm.h"),
            ("libupm/engine/engine.cpp", "tools/upm/read/cgroup.hpp"),
            ("tools/upm/main.cpp", "kmod/uapi/upm.h"),
            ("tools/upm/main.cpp", "libupm/engine/engine.hpp"),
            ("bench/advise.cpp", "../libupm/engine/engine.hpp"),
            ("tools/pss-report/main.cpp", "upm/upm.h"),
            ("tools/pss-report/model/report.cpp", "tools/pss-report/read/proc.hpp"),
            ("tools/pss-report/show/live.cpp", "tools/pss-report/read/collect.hpp"),
            ("tools/pss-report/read/scan.cpp", "tools/pss-report/show/output.hpp"),
            ("tools/common/root.cpp", "tools/upm/cli.hpp"),
            ("libupm/base/env.cpp", "libupm/mm/vma_reader.hpp"),
            ("libupm/engine/engine.cpp", "libupm/backends/kmod.hpp"),
            ("libupm/engine/engine.cpp", "libupm/store/backend.hpp"),
            ("libupm/backends/ksm.cpp", "libupm/store/client.hpp"),
            ("cuda-cow/env.cpp", "libupm/store/wire.hpp"),
            ("nowhere/main.cpp", "upm/upm.h"),
        ):
            self.assertIsNotNone(self.fault(Path(path), name), f"{path} {name}")


class Kernel(unittest.TestCase):
    """Lines of the module, and of its compat layer."""

    def test_lines(self) -> None:
        fault = load(CHECK_TREE).kernel_fault
        for line in (
            "#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 4, 0)",
            "\tmmap_assert_locked(mm);",
            "\tmmap_assert_write_locked(vma->vm_mm);",
        ):
            self.assertIsNotNone(fault(Path("kmod/scan.c"), line), line)
            self.assertIsNone(fault(Path("kmod/compat/compat.h"), line), line)
            self.assertIsNone(fault(Path("docs/design.md"), line), line)
        self.assertIsNone(fault(Path("kmod/scan.c"), "\tlockdep_assert_held(&mm->mmap_lock);"))


class Glibc(unittest.TestCase):
    """What an artefact needs, and its floor."""

    def fault(self, floor: str, *symbols: str) -> str | None:
        lines = "".join(f"                 U {symbol}\n" for symbol in symbols)
        fault: str | None = load(CHECK_TREE).glibc_fault(floor, lines)
        return fault

    def test_versions_are_numbers(self) -> None:
        self.assertIsNone(self.fault("2.17", "open@GLIBC_2.2.5", "dlsym@GLIBC_2.9"))
        self.assertIsNone(self.fault("2.17", "clock_gettime@GLIBC_2.17"))
        late = self.fault("2.9", "open@GLIBC_2.2.5", "clock_gettime@GLIBC_2.17")
        self.assertEqual(late, "needs more than GLIBC 2.9: clock_gettime")

    def test_private_symbols_are_newer_than_all(self) -> None:
        self.assertIn("_dl_x", self.fault("99.0", "open@GLIBC_2.2.5", "_dl_x@GLIBC_PRIVATE") or "")

    def test_an_artefact_without_symbols_is_suspicious(self) -> None:
        self.assertIsNotNone(self.fault("2.17", "printf"))


class AnyLibc(unittest.TestCase):
    """What the hook takes from a libc."""

    def fault(self, *lines: str) -> str | None:
        listing = "".join(f"                 {line}\n" for line in lines)
        fault: str | None = load(CHECK_TREE).any_libc_fault({"open", "close"}, listing)
        return fault

    def test_what_all_have(self) -> None:
        self.assertIsNone(self.fault("U open", "U close", "w pthread_create"))

    def test_what_some_lack(self) -> None:
        self.assertIn("arc4random", self.fault("U open", "U arc4random") or "")

    def test_versions(self) -> None:
        self.assertIn("open@GLIBC_2.2.5", self.fault("U open@GLIBC_2.2.5", "U close") or "")

    def test_nothing_is_suspicious(self) -> None:
        self.assertIsNotNone(self.fault())


if __name__ == "__main__":
    unittest.main()
