# SPDX-License-Identifier: MIT
"""Raw data of experiments: one JSON file each, with what it was measured on.

A file says how it was made ("about"), on what ("machine"), and what was found
("data"). A finished one is kept, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from faas import results

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = 1
DEFAULT_SCOPE = re.compile(r"^\| `UPM_SCOPE` \| `--scope` \| `(\w+)` \|", re.M)
NUMBERS = re.compile(r"\[\s+(-?[\d.][^\[\]{}\"]*?)\s+\]")

Form = Any
"""What data must be like: a type, {"name": form …} with "*" for all other names, [form]
for a list of at least one, or a tuple of forms of which one must fit.
"""

ABOUT: Form = {"*": (str, int, float, bool, None)}
MACHINE: Form = {
    "kernel": str,
    "processor": str,
    "processors": int,
    "memory": int,
    "load_average": [float],
    "load_average_after": [float],
    "python": str,
    "date": str,
    "commit": str,
    "control_groups": str,
    "huge_pages": str,
    "hook_scope": str,
}


class RawError(Exception):
    """Raw data are not what they must be; the text says where."""


def check(value: Any, form: Form, where: str = "data") -> None:
    """Raises RawError if the value does not have that form."""
    if isinstance(form, tuple):
        _check_one_of(value, form, where)
    elif isinstance(form, dict):
        _check_names(value, form, where)
    elif isinstance(form, list):
        if not isinstance(value, list) or not value:
            raise RawError(f"{where} must be a list that is not empty")
        for number, each in enumerate(value):
            check(each, form[0], f"{where}[{number}]")
    elif form is None:
        if value is not None:
            raise RawError(f"{where} must be null")
    elif form is float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise RawError(f"{where} must be a number")
    elif not isinstance(value, form) or (form is int and isinstance(value, bool)):
        raise RawError(f"{where} must be of type {form.__name__}")


def _check_one_of(value: Any, forms: tuple[Form, ...], where: str) -> None:
    for form in forms:
        try:
            check(value, form, where)
        except RawError:
            continue
        return
    raise RawError(f"{where} has none of {len(forms)} forms")


def _check_names(value: Any, form: dict[str, Form], where: str) -> None:
    if not isinstance(value, dict):
        raise RawError(f"{where} must have names")
    if missing := [name for name in form if name not in value and name != "*"]:
        raise RawError(f"{where} has no {missing[0]!r}")
    for name, each in value.items():
        if name not in form and "*" not in form:
            raise RawError(f"{where} has {name!r}, which nobody knows")
        check(each, form.get(name, form.get("*")), f"{where}.{name}")


def _output(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def hook_scope() -> str:
    """What the hook merges here: what UPM_SCOPE says, else its documented default."""
    if chosen := os.environ.get("UPM_SCOPE"):
        return f"{chosen} (UPM_SCOPE)"
    found = DEFAULT_SCOPE.search((ROOT / "docs" / "hook.md").read_text())
    return f"{found[1]} (default)" if found else "unknown"


def _huge_pages() -> str:
    path = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    chosen = re.search(r"\[(\w+)\]", path.read_text()) if path.exists() else None
    return chosen[1] if chosen else "unknown"


def machine() -> dict[str, Any]:
    """What is measured on, as it is before an experiment."""
    unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    changed = "+changes" if _output("git", "status", "--short", "-uno") else ""
    return {
        **results.machine(),
        "load_average": list(os.getloadavg()),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _output("git", "rev-parse", "--short", "HEAD") + changed,
        "control_groups": "version 2" if unified else "version 1",
        "huge_pages": _huge_pages(),
        "hook_scope": hook_scope(),
    }


def text_of(document: dict[str, Any]) -> str:
    """JSON, with lists of numbers on one line."""

    def joined(found: re.Match[str]) -> str:
        return f"[{', '.join(part.strip() for part in found[1].split(','))}]"

    return NUMBERS.sub(joined, json.dumps(document, indent=1)) + "\n"


def validate(document: Any, form: Form) -> None:
    """Raises RawError if this is no raw file of an experiment whose data have that form."""
    whole = {
        "schema": int,
        "experiment": str,
        "quick": bool,
        "seconds": float,
        "about": ABOUT,
        "machine": MACHINE,
        "data": form,
    }
    check(document, whole, "file")
    if document["schema"] != SCHEMA:
        raise RawError(f"file has schema {document['schema']}, not {SCHEMA}")


def load(path: Path, form: Form) -> dict[str, Any]:
    """Reads a file. Raises RawError."""
    try:
        document: dict[str, Any] = json.loads(path.read_text())
        validate(document, form)
    except (RawError, ValueError) as error:
        raise RawError(f"{path}: {error}") from error
    return document


def save(path: Path, document: dict[str, Any], form: Form) -> None:
    """Writes a file, whole or not at all. Raises RawError for one that load() would refuse."""
    validate(document, form)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(text_of(document))
    unfinished.rename(path)
