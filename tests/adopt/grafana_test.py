#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The Grafana board: it is what its script makes, and asks for metrics that there are."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import python_tools
from python_tools import ROOT

UPMD = ROOT / "build/bin/upmd"
RENDER = python_tools.script("deploy/grafana/render")
READER = """
import sys
with open(sys.argv[1], "rb", buffering=0) as file:
    content = file.read()
sys.stdin.read()
"""


def expressions() -> list[str]:
    """What the board asks Prometheus."""
    panels = json.loads(RENDER.BOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def metrics() -> str:
    """What a broker tells that has a client, and so a domain."""
    sys.path.insert(0, str(ROOT / "tests/support"))
    import hooked

    with tempfile.TemporaryDirectory() as folder:
        file, socket = Path(folder) / "upmd.prom", Path(folder) / "upmd.sock"
        broker = subprocess.Popen([UPMD, "--socket", socket, "--metrics", file])
        try:
            hooked.wait_until(socket.exists, "the socket of the broker")
            content = Path(folder) / "content"
            content.write_bytes(os.urandom(16 << 20))
            client = subprocess.Popen(
                [ROOT / "build/bin/upm", "run", "--", "/usr/bin/python3", "-c", READER, content],
                env={"UPM_SOCKET": str(socket), "UPM_BACKEND": "store", "PATH": "/usr/bin:/bin"},
                stdin=subprocess.PIPE,
            )
            try:
                hooked.wait_until(
                    lambda: file.exists() and "upmd_domain_" in file.read_text(),
                    "metrics of a domain",
                )
                return file.read_text()
            finally:
                client.communicate()
        finally:
            broker.terminate()
            broker.wait()


class Grafana(unittest.TestCase):
    """deploy/grafana/upm.json."""

    def test_is_what_its_script_makes(self) -> None:
        self.assertEqual(RENDER.BOARD.read_text(), RENDER.board(), "run deploy/grafana/render")

    def test_asks_for_metrics_that_there_are(self) -> None:
        known = set(re.findall(r"^(upmd_\w+)[ {]", metrics(), re.MULTILINE))
        asked = {name for text in expressions() for name in re.findall(r"upmd_\w+", text)}
        self.assertGreater(len(asked), 10)
        self.assertEqual(asked - known, set())

    def test_prometheus_understands_each_expression(self) -> None:
        if not shutil.which("promtool"):
            self.skipTest("no promtool (apt-get install prometheus)")
        rules = [
            {"record": f"board:{i}", "expr": text.replace("$instance", ".*")}
            for i, text in enumerate(expressions())
        ]
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
            json.dump({"groups": [{"name": "board", "rules": rules}]}, file)
            file.flush()
            done = subprocess.run(
                ["promtool", "check", "rules", file.name],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
        self.assertEqual(done.returncode, 0, done.stdout)

    def test_panels_lie_beside_each_other(self) -> None:
        taken: set[tuple[int, int]] = set()
        for panel in json.loads(RENDER.BOARD.read_text())["panels"]:
            place = panel["gridPos"]
            self.assertLessEqual(place["x"] + place["w"], RENDER.WIDTH)
            for x in range(place["x"], place["x"] + place["w"]):
                for y in range(place["y"], place["y"] + place["h"]):
                    self.assertNotIn((x, y), taken, panel["title"])
                    taken.add((x, y))


if __name__ == "__main__":
    if not python_tools.enter():
        sys.exit(4)
    unittest.main()
