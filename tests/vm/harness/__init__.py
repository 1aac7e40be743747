# SPDX-License-Identifier: MIT
"""The parts of tests/vm/run: kernel images, initramfs, kernel log, machine."""


class VmError(Exception):
    """The virtual machine cannot be started or did not do its work (exit 125)."""
