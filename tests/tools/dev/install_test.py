#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""`make install` brings all that people need, without debug information; `make uninstall` takes it.

Needs a finished build, and installs below a folder of its own.
"""

import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
CACHE = ROOT / "build/cmake/CMakeCache.txt"


def prefix() -> str:
    """What the build was configured with: another one would rebuild parts of it."""
    found = re.search(r"^CMAKE_INSTALL_PREFIX:PATH=(.*)$", CACHE.read_text(), re.MULTILINE)
    assert found
    return found.group(1)


def has_debug_information(path: Path) -> bool:
    """Whether a file, or a member of an archive, has such sections."""
    done = subprocess.run(["readelf", "-SW", path], capture_output=True, text=True, check=True)
    return ".debug_info" in done.stdout


def is_elf(path: Path) -> bool:
    """Whether the linker made the file."""
    return path.read_bytes().startswith(b"\x7fELF") or path.suffix == ".a"


class Install(unittest.TestCase):
    """One installation, and its end."""

    def make(self, target: str) -> None:
        """Runs a target of the Makefile."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
        settings = [f"DESTDIR={self.root}", f"INSTALLED={self.list}", f"PREFIX={prefix()}"]
        done = subprocess.run(
            ["make", "-C", ROOT, target, *settings],
            capture_output=True,
            text=True,
            check=False,
            env=environment | {"UPM_DEPS": "skip"},
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def setUp(self) -> None:
        if not CACHE.exists():
            self.skipTest("nothing is built")
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name) / "root"
        self.list = Path(folder.name) / "installed.txt"
        self.top = Path(f"{self.root}{prefix()}")

    def files(self) -> set[Path]:
        """All that is there and no folder."""
        return {path for path in self.root.rglob("*") if path.is_symlink() or not path.is_dir()}

    def test_all_comes_and_all_goes(self) -> None:
        self.make("install")
        for name in (
            *("bin/upm", "bin/upmd", "bin/upm-runc", "bin/pss-report", "include/upm/upm.h"),
            "libexec/upm/upm-layout",
        ):
            self.assertTrue((self.top / name).is_file(), name)
        self.check_man_pages()
        self.check_functions_and_programs_have_pages()
        self.check_completions()
        for path in filter(is_elf, (p for p in self.files() if not p.is_symlink())):
            self.assertFalse(has_debug_information(path), path)
        self.assertTrue(has_debug_information(ROOT / "build/lib/libupm.so"))

        listed = {Path(f"{self.root}{line}") for line in self.list.read_text().splitlines()}
        self.assertEqual(listed, self.files())
        enable = next(path for path in listed if path.name == "_upm_enable.py")
        compiled = enable.parent / "__pycache__" / "_upm_enable.cpython-311.pyc"
        compiled.parent.mkdir()
        compiled.touch()
        foreign = self.top / "include/upm/foreign.h"
        foreign.touch()
        self.make("uninstall")
        self.assertEqual(self.files(), {foreign})
        folders = {path for path in self.root.rglob("*") if path.name in {"upm", "__pycache__"}}
        self.assertEqual(folders, {foreign.parent})

    def check_man_pages(self) -> None:
        """Every page of docs/man is there, with the version."""
        version = re.search(r'PACKAGE_VERSION="(.*)"', (ROOT / "kmod/dkms.conf").read_text())
        assert version
        pages = list((ROOT / "docs/man").glob("*.[1-9]"))
        self.assertTrue(pages)
        for page in pages:
            text = (self.top / f"share/man/man{page.suffix[1:]}" / page.name).read_text()
            self.assertIn(f'"UPM {version.group(1)}"', text, page.name)
            self.assertNotIn("@PROJECT_VERSION@", text, page.name)

    def check_functions_and_programs_have_pages(self) -> None:
        """Whatever is declared in a header of C, and each program."""
        man = self.top / "share/man"
        for header in (self.top / "include/upm").glob("*.h"):
            text = re.sub(r"/\*.*?\*/", "", header.read_text(), flags=re.DOTALL)
            for name in re.findall(r"\b(upm_\w+)\(", text):
                page = man / "man3" / f"{name}.3"
                self.assertTrue(page.is_file(), f"{name} of {header.name} has no page")
                leads = re.match(r"\.so (\S+)", page.read_text())
                self.assertTrue(leads is None or (man / leads.group(1)).is_file(), name)
        for program in (self.top / "bin").iterdir():
            pages = list(man.glob(f"man?/{program.name}.?"))
            self.assertTrue(pages, f"{program.name} has no page")

    def check_completions(self) -> None:
        """Each shell looks there, for programs that people type."""
        share = self.top / "share"
        for name in ("upm", "upmd", "pss-report"):
            found = {str(path.relative_to(share).parts[0]) for path in share.rglob(f"*{name}*")}
            self.assertLessEqual({"bash-completion", "zsh", "fish"}, found, name)

    def test_python_finds_the_package_under_each_prefix(self) -> None:
        """Also under a user's own, with `make install PREFIX=~/.local`."""
        home = self.root / "home"
        for prefix, environment in (
            ("/usr", {}),
            ("/usr/local", {}),
            (str(home / ".local"), {"HOME": str(home)}),
        ):
            python = ["/usr/bin/python3", "-P"]
            variables = {"PATH": os.environ["PATH"], **environment}
            asked = [*python, str(ROOT / "python/where_installed.py"), prefix]
            where = subprocess.run(
                asked, env=variables, capture_output=True, text=True, check=True
            ).stdout.strip()
            folder = Path(prefix, where)
            if environment:
                folder.mkdir(parents=True)
                (folder / "upm_is_found.py").touch()
                code = "import upm_is_found"
            else:
                code = f"import sys; assert {str(folder)!r} in sys.path, sys.path"
            done = subprocess.run(
                [*python, "-c", code], env=variables, capture_output=True, text=True, check=False
            )
            self.assertEqual(done.returncode, 0, done.stderr)

    def test_a_list_without_a_last_newline(self) -> None:
        """The last file and the first of the next list are two."""
        self.root.mkdir()
        for name in ("one", "two"):
            (self.root / name).touch()
        done = subprocess.run(
            [ROOT / "tools/dev/uninstall", self.root],
            input="/one\n/two",
            stdout=subprocess.DEVNULL,
            text=True,
            check=False,
        )
        self.assertEqual((done.returncode, self.files()), (0, set()))


if __name__ == "__main__":
    unittest.main()
