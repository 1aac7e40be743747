# SPDX-License-Identifier: MIT
"""Prints the folder, below a prefix, where this Python looks for packages.

    python3 where_installed.py PREFIX

Debian's has names of its own for it, and a user's prefix (~/.local) has none of them.
"""

import site
import sys
import sysconfig


def where(prefix: str) -> str:
    """Relative to the prefix."""
    prefix = prefix.rstrip("/")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    user = site.getusersitepackages()
    if prefix == site.getuserbase().rstrip("/") and user.startswith(prefix + "/"):
        return user[len(prefix) + 1 :]
    if sysconfig.get_default_scheme() != "posix_local":
        return f"lib/python{version}/site-packages"
    if prefix == "/usr":
        return "lib/python3/dist-packages"
    return f"lib/python{version}/dist-packages"


if __name__ == "__main__":
    print(where(sys.argv[1]))
