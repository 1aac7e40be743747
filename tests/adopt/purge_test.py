#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What purging the package `upm` leaves of /etc/cdi: debian/upm.postrm is run as dpkg runs it.

In a mount namespace with an /etc and a /run of its own: nothing of the machine's is changed.
"""

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import hooked

POSTRM = hooked.ROOT / "debian/upm.postrm"
INSIDE = (
    "mount --make-rprivate / && mount --bind $1 /etc && mount -t tmpfs upm-test /run"
    " && mkdir /run/upm && sh $2 purge && [ ! -e /run/upm ]"
)


class Purge(unittest.TestCase):
    """The devices go, and the folder if `upm cdi` has made it."""

    def setUp(self) -> None:
        # In the build's folder: not each /tmp keeps attributes.
        folder = tempfile.TemporaryDirectory(dir=hooked.ROOT / "build", prefix="purge-")
        self.addCleanup(folder.cleanup)
        self.etc = Path(folder.name)
        self.cdi = self.etc / "cdi"

    def generate(self) -> None:
        """A device, and the folder with it."""
        command: list[str | Path] = [hooked.UPM, "cdi", "generate", "--output", self.cdi]
        subprocess.run([*command, "--hook", hooked.HOOK], check=True, capture_output=True)

    def purge(self) -> None:
        """What dpkg runs."""
        command: list[str | Path] = ["unshare", "--mount", "sh", "-c", INSIDE, "sh"]
        done = subprocess.run(
            [*command, self.etc, POSTRM], capture_output=True, text=True, check=False
        )
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))

    def test_the_folder_that_it_made(self) -> None:
        self.generate()
        if "user.upm.made" not in os.listxattr(self.cdi):
            self.skipTest("the file system of build/ keeps no attributes")
        self.purge()
        self.assertFalse(self.cdi.exists())

    def test_what_others_put_into_it(self) -> None:
        self.generate()
        (self.cdi / "vendor.json").write_text("{}")
        self.purge()
        self.assertEqual([path.name for path in self.cdi.iterdir()], ["vendor.json"])

    def test_an_operators_folder(self) -> None:
        self.cdi.mkdir()
        self.generate()
        self.purge()
        self.assertTrue(self.cdi.is_dir(), "it was there before")
        self.assertEqual(list(self.cdi.iterdir()), [])

    def test_no_folder(self) -> None:
        self.purge()
        self.assertFalse(self.cdi.exists())


if __name__ == "__main__":
    if os.geteuid() != 0:
        print("skipped: needs root")
        sys.exit(hooked.EXIT_SKIPPED)
    sys.exit(hooked.main("Purge"))
