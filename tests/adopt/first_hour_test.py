#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""docs/first-hour.md is a transcript of tests/adopt/first-hour as that stands.

The script's steps run with nothing behind them, and what they type and write must be what the
page shows. So whoever changes a step has to run it (`make test-first-hour RECORD=1`).
"""

import re
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent))
from python_tools import ROOT, script

BLOCK = re.compile(r"(?:^`(/\S+)`:\n\n)?^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# A busy machine's broker may be late for a container, which is then started again.
AGAIN = re.compile(r"^`\S+` is started again: .*\n(?:\n```\n(?:.*\n)*?```\n){2}", re.MULTILINE)
PORT = re.compile(r"127\.0\.0\.1:\d+")


def typed(transcript: str) -> list[str]:
    """The commands and files of a transcript, without what commands printed."""
    found = []
    for name, content in BLOCK.findall(AGAIN.sub("", transcript)):
        shown = f"{name}:\n{content}" if name else content.partition("\n")[0]
        found.append(PORT.sub("127.0.0.1:PORT", shown))
    return found


def rehearsal(first_hour: Any, where: Path) -> str:
    """What the steps type where every command succeeds."""
    names = first_hour.NAMES
    answers = f"{' '.join(names)} 0 warn, 0 fail\n"

    class Played(first_hour.Session):  # type: ignore[misc]
        """Nothing is entered, and nothing runs."""

        def __init__(self) -> None:
            self.where, self.text, self.start = where, "", 0.0
            self.jobs: list[Any] = []
            self.ids: list[str] = []

        def quiet(self, command: str, fails: bool = False) -> str:
            """A good answer."""
            return answers

        def place(self, name: str) -> Path:
            """Where the last step looks for what was written."""
            return where / "upper" / name.lstrip("/")

        def launch(self, command: str) -> Any:
            """No process."""
            return mock.Mock()

    shares = (dict.fromkeys(names, 1.0), names[0])
    played: dict[str, Any] = {
        **{"prepare": None, "wait_until": None, "weights_of": {}, "common": shares},
        **{"cgroups": {"one"}, "snapshot": {}},
    }
    with mock.patch.multiple(
        first_hour, **{name: mock.Mock(return_value=answer) for name, answer in played.items()}
    ), mock.patch("builtins.print"):  # fmt: skip
        session = Played()
        first_hour.go(session)
    return str(session.text)


class FirstHour(unittest.TestCase):
    """The page and the script."""

    def test_the_page_shows_what_the_script_types(self) -> None:
        page = (ROOT / "docs/first-hour.md").read_text()
        with tempfile.TemporaryDirectory() as name:
            wanted = typed(rehearsal(script("tests/adopt/first-hour"), Path(name)))
        self.assertGreater(len(wanted), 20)
        self.assertEqual(typed(page), wanted, "run make test-first-hour RECORD=1")

    def test_what_is_left_out_of_the_comparison(self) -> None:
        text = "\n```\n# one\nanswer\n```\n\n`/a`:\n\n```\nx 127.0.0.1:80\n```\n"
        late = "\n`b` is started again: late.\n\n```\n# rm\n```\n\n```\n# run\nid\n```\n"
        wanted = ["# one", "/a:\nx 127.0.0.1:PORT\n"]
        self.assertEqual(typed(text + late), wanted)
        self.assertEqual(typed(late + text), wanted)


if __name__ == "__main__":
    if not (ROOT / "docs/first-hour.md").exists():
        print("skipped: no docs/first-hour.md: make test-first-hour RECORD=1")
        sys.exit(4)
    unittest.main()
