#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""bench/figures: what raw data must be like, and that the page has its numbers from them."""

import copy
import json
import random
import re
import time
import unittest
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import bench_support  # noqa: F401  # finds the modules that are imported below
import support
from figures import density, drawing, growth, lab, original, page, peak_at_start, raw

MIB = 1 << 20


class CheckTest(unittest.TestCase):
    """Forms of data."""

    def test_what_fits(self) -> None:
        """A form of each kind."""
        raw.check({"a": 1, "b": [0.5, 2], "c": None}, {"a": int, "b": [float], "c": (str, None)})
        raw.check({"x": {"n": 1}, "y": {"n": 2}}, {"*": {"n": int}})

    def test_what_does_not(self) -> None:
        """The error says where."""
        for value, form, where in (
            ({}, {"a": int}, "data has no 'a'"),
            ({"a": 1, "b": 2}, {"a": int}, "data has 'b', which nobody knows"),
            ({"a": True}, {"a": int}, "data.a must be of type int"),
            ({"a": "1"}, {"a": float}, "data.a must be a number"),
            ({"a": []}, {"a": [int]}, "data.a must be a list that is not empty"),
            ({"a": [1, None]}, {"a": [int]}, r"data.a\[1\] must be of type int"),
            ({"a": 1}, {"a": (str, None)}, "data.a has none of 2 forms"),
            (7, {"a": int}, "data must have names"),
            (0, None, "data must be null"),
        ):
            with self.assertRaisesRegex(raw.RawError, where):
                raw.check(value, form)


STATES = ("without UPM", "with UPM")


class Samples:
    """Data that fit a form: numbers from a seed, of a size that each name suggests."""

    def __init__(self, seed: int) -> None:
        """The same for the same seed."""
        self._chance = random.Random(seed)

    def document(self, experiment: str) -> dict[str, Any]:
        """A raw file."""
        data = getattr(self, experiment.replace("-", "_"))()
        return {
            "schema": raw.SCHEMA,
            "experiment": experiment,
            "quick": False,
            "seconds": self._number(10, 99),
            "about": {"n": self._chance.randrange(3, 20), "upm": "backend store"},
            "machine": {
                **raw.machine(),
                "load_average": [0.5, 0.5, 0.5],
                "load_average_after": [0.5, 0.5, 0.5],
            },
            "data": data,
        }

    def _number(self, low: float, high: float) -> float:
        return self._chance.uniform(low, high)

    def _usage(self) -> dict[str, int]:
        kinds = ("rss", "pss", "uss", "saved")
        return {kind: self._chance.randrange(100 * MIB, 900 * MIB) for kind in kinds}

    def _advise(self) -> dict[str, float]:
        names = ("seconds", "merged", "inserted", "zero", "trimmed")
        return {name: self._number(0.01, 2) for name in names}

    def _growth(self) -> dict[str, Any]:
        def state() -> dict[str, Any]:
            steps = [
                {
                    "n": n,
                    "requests": [self._number(0.05, 3) for _ in range(5)],
                    "merging_over": n != 16,
                    "usages": [self._usage() for _ in range(n)],
                    "counted": n * self._chance.randrange(100 * MIB, 900 * MIB),
                }
                for n in range(1, 17)
            ]
            return {"steps": steps, "advises": [self._advise() for _ in steps]}

        states = {name: state() for name in (*STATES, "with UPM, keyed")}
        states["without UPM"]["advises"] = [None] * 16
        return {"states": states, "same_answers": True}

    growth_alexnet = growth_resnet50 = _growth

    def advise_by_size(self) -> dict[str, Any]:
        """Four kinds, small and large."""
        kinds = ("BM_Insert", "BM_Merge", "BM_InsertHuge", "BM_MergeHuge")
        return {
            "rows": [
                {
                    "kind": kind,
                    "mib": mib,
                    "rounds": 3,
                    "ms": self._number(10, 900),
                    "plain_ms": self._number(10, 900),
                }
                for kind in kinds
                for mib in (20, 160, 512)
            ]
        }

    def load_by_size(self) -> dict[str, Any]:
        """Two rounds."""
        return {
            "rows": [
                {
                    "kind": kind,
                    "mib": mib,
                    "ms": self._number(10, 900),
                    "saved": int(mib * MIB * self._number(0.1, 0.9)),
                }
                for kind in ("plain", "first", "later")
                for mib in (20, 512)
                for _ in (1, 2)
            ]
        }

    def memory_by_requests(self) -> dict[str, Any]:
        """Three counts."""
        return {
            "states": {
                state: [
                    {
                        "requests": count,
                        "merging_over": True,
                        "usages": [self._usage()],
                        "counted": None,
                    }
                    for count in (1, 2, 5)
                ]
                for state in STATES
            }
        }

    def sharing_study(self) -> dict[str, Any]:
        """All functions."""
        names = ("scanned", "zero", "already_shared", "shareable_anon", "shareable_file", "unique")
        return {
            "functions": {
                function: {
                    layout: {
                        "rss": self._chance.randrange(500 * MIB, 900 * MIB),
                        **{name: self._chance.randrange(9 * MIB, 400 * MIB) for name in names},
                        "containers": "runc",
                    }
                    for layout in ("aslr", "no aslr")
                }
                for function in original.NUMBERS["sharing_percent_of_rss"]
            }
        }

    def separate_copies(self) -> dict[str, Any]:
        """On and off."""
        return {
            "images": {
                image: {
                    state: {"usages": [self._usage()], "counted": None, "merging_over": True}
                    for state in STATES
                }
                for image in ("one image", "a copy each")
            }
        }

    def peak_at_start(self) -> dict[str, Any]:
        """A thousand samples."""
        return {
            "states": {
                state: {
                    "ready_seconds": self._number(1, 99),
                    "merging_over": True,
                    "end": self._chance.randrange(100 * MIB, 900 * MIB),
                    "seconds": [i / 100 for i in range(1000)],
                    "bytes": [self._chance.randrange(MIB, most) for _ in range(1000)],
                }
                for state in STATES
                for most in [self._chance.randrange(200 * MIB, 999 * MIB)]
            }
        }

    def neighbours_p99(self) -> dict[str, Any]:
        """A few requests of each."""
        cases = {
            "alone": ("alone",),
            "others start without UPM": ("starting", "after"),
            "others start and merge": ("starting", "after"),
        }
        return {
            "cases": {
                case: [
                    {"phase": phase, "seconds": self._number(0.05, 0.9)}
                    for phase in phases
                    for _ in range(9)
                ]
                for case, phases in cases.items()
            },
            "merging_seconds": [self._number(0.1, 2) for _ in range(5)],
        }

    def cold_start(self) -> dict[str, Any]:
        """A few pairs."""
        pairs = [{state: self._number(0.5, 3) for state in ("without", "with")} for _ in range(7)]
        return {"pairs": pairs, "same_answers": True}

    def stream(self) -> dict[str, Any]:
        """Three pairs of each kind."""
        rows = [
            {
                "kind": kind,
                "hook": hook,
                "ms": self._number(900, 9000),
                "cpu_ms": self._number(900, 9000),
            }
            for kind in ("the same memory", "fresh memory")
            for hook in (False, True) * 3
        ]
        return {"mib": self._chance.randrange(1000, 9000), "rows": rows}

    def density(self) -> dict[str, Any]:
        """To a limit that the last one is above."""
        return {
            "limit": 3 << 30,
            "available": self._chance.randrange(9 << 30, 30 << 30),
            "states": {
                state: {
                    "steps": [
                        {"n": n, "peak": n * each, "counted": n * each // 2} for n in range(1, 20)
                    ],
                    "reached": True,
                }
                for state in STATES
                for each in [self._chance.randrange(100 * MIB, 150 * MIB)]
            },
        }

    def module(self) -> dict[str, Any]:
        """As the demo's."""
        return {
            "images": {
                image: {
                    "containers": "runc",
                    "upm": "kmod",
                    "same_answers": True,
                    "kernel": f"6.1.{self._chance.randrange(100)}",
                    "states": {
                        state: {
                            "usages": [{**self._usage(), "own": 1}],
                            "counted": None,
                            "possible": 1,
                        }
                        for state in STATES
                    },
                }
                for image in ("one image", "a copy each")
            }
        }


def samples(seed: int) -> dict[str, Any]:
    """Raw files of all experiments."""
    made = Samples(seed)
    return {each.name: made.document(each.name) for each in page.experiments([])}


def numbers(parts: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Cells with digits of tables but the first column, and where they are; ours only."""
    for part in parts:
        table = part.get("table", {"columns": [], "rows": []})
        for row in table["rows"]:
            for column, cell in zip(table["columns"][1:], row[1:], strict=True):
                if "original" not in row[0] and column != "original" and re.search(r"\d", cell):
                    yield f"{row[0]} / {column}", cell


class PageTest(unittest.TestCase):
    """The description of the page."""

    def test_samples_have_the_form_of_raw_data(self) -> None:
        """So what follows is of data as experiments write them."""
        documents = samples(1)
        for each in page.experiments([]):
            raw.validate(documents[each.name], each.form)

    def test_numbers_come_from_raw_data(self) -> None:
        """Of other data all numbers are others, in tables and in figures."""
        one, other = (page.describe(samples(seed), "raw") for seed in (1, 2))
        pairs = list(zip(numbers(one["parts"]), numbers(other["parts"]), strict=True))
        self.assertGreater(len(pairs), 150)
        counts = {"same": 0}
        for (where, cell), (there, changed) in pairs:
            self.assertEqual(where, there)
            counts["same"] += cell == changed
            if "requests" not in where and "fit" not in where and "counted" not in where:
                self.assertNotEqual(cell, changed, where)
        self.assertLess(counts["same"], len(pairs) / 10)  # counts may be the same by chance
        for before, after in zip(page.figures(one), page.figures(other), strict=True):
            curves = zip(before["curves"], after["curves"], strict=True)
            for curve, changed_curve in curves:
                if "original" not in curve["title"]:
                    self.assertNotEqual(curve["points"], changed_curve["points"], before["name"])

    def test_original_stands_beside_ours(self) -> None:
        """Its numbers are those of original.json, and move with it."""
        text = json.dumps(page.describe(samples(1), "raw"))
        for number in ("388.3", "164.9", "293.6", "224.7", "27.3", "42.1", "444"):
            self.assertIn(number, text)
        changed = copy.deepcopy(original.NUMBERS)
        changed["alexnet"]["pss_mib"] = [777.7, 1.25]
        with mock.patch.object(original, "NUMBERS", changed):
            other = json.dumps(page.describe(samples(1), "raw"))
        self.assertIn("777.7", other)
        self.assertNotIn("388.3", other)

    def test_what_is_missing_or_unfinished_is_said(self) -> None:
        """No section is left out silently."""
        text = json.dumps(page.describe({}, "raw"))
        for each in page.experiments([]):
            self.assertIn(f"Not measured: {each.name}.", text)
        documents = samples(1)
        self.assertIn("merging was not over", json.dumps(page.describe(documents, "raw")))
        documents["growth-alexnet"]["data"]["same_answers"] = False
        self.assertIn("NOT all the same", json.dumps(page.describe(documents, "raw")))

    def test_names(self) -> None:
        """A section has its experiments, an experiment has itself."""
        self.assertEqual(
            {each.name for each in page.experiments(["fig5"])},
            {"growth-alexnet", "growth-resnet50"},
        )
        self.assertEqual([each.name for each in page.experiments(["density"])], ["density"])
        with self.assertRaisesRegex(page.UnknownError, "no 'x'; there are: fig5, "):
            page.experiments(["x"])


class ComputationTest(unittest.TestCase):
    """By hand."""

    def test_quantiles(self) -> None:
        """Of a hundred values p99 is the last but one."""
        values = [float(i) for i in range(1, 101)]
        self.assertEqual(drawing.spread(values), [50, 95, 99, 100])
        self.assertEqual(drawing.spread([7.0]), [7, 7, 7, 7])

    def test_density(self) -> None:
        """The one that went above the limit does not fit; beyond, the slope goes on."""
        peaks = [100, 150, 200, 250]
        steps = [{"n": n + 1, "peak": peak, "counted": 0} for n, peak in enumerate(peaks)]
        state = {"steps": steps, "reached": True}
        self.assertEqual(density.fitting(state, 200), 3)
        self.assertEqual(density.extrapolated(state, 1000), 19)  # 50 a container, 100 at first
        self.assertIsNone(density.extrapolated({"steps": steps[:1]}, 1000))

    def test_thinning_keeps_the_peak(self) -> None:
        """However many samples there are."""
        values = [1] * 5000
        values[3210] = 9
        points = peak_at_start.thinned([float(i) for i in range(5000)], values)
        self.assertLessEqual(len(points), 300)
        self.assertIn((3210.0, 9), points)

    def test_steps_of_the_paper(self) -> None:
        """1, 2, 4, 8 and 16 of all."""
        state = {"steps": [{"n": n} for n in range(1, 17)]}
        self.assertEqual([step["n"] for step in growth.paper_steps(state)], [1, 2, 4, 8, 16])


class RoomTest(unittest.TestCase):
    """Containers of one state."""

    def test_many_at_once_have_names_of_their_own(self) -> None:
        """However long each takes to be made."""
        host, session = mock.Mock(), mock.Mock()
        session.ask.return_value = 0.5

        def create(name: str) -> mock.Mock:
            time.sleep(0.02)
            made = mock.Mock()
            made.name = name
            return made

        host.create.side_effect = create
        room = lab.Room(session, host, None, "")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: room.start(), range(8)))
        self.assertEqual(len({each.name for each in room.containers}), 8)


class RawFileTest(support.TemporaryDirectory):
    """Raw files."""

    def test_written_and_read(self) -> None:
        """Lists of numbers are on one line; nothing is lost."""
        document = samples(1)["peak-at-start"]
        path = self.directory / "raw" / "peak-at-start.json"
        raw.save(path, document, peak_at_start.FORM)
        self.assertEqual(raw.load(path, peak_at_start.FORM), document)
        self.assertLess(len(path.read_text().splitlines()), 100)

    def test_what_would_not_be_read_is_not_written(self) -> None:
        """The file that there was stays."""
        path = self.directory / "density.json"
        document = samples(1)["density"]
        raw.save(path, document, density.FORM)
        del document["data"]["limit"]
        with self.assertRaisesRegex(raw.RawError, "data has no 'limit'"):
            raw.save(path, document, density.FORM)
        self.assertIn("limit", path.read_text())

    def test_the_default_scope_is_known(self) -> None:
        """From the documentation of the hook; UPM_SCOPE comes first."""
        self.assertRegex(raw.hook_scope(), r"^(blocks|all|loads) \((default|UPM_SCOPE)\)$")
        with mock.patch.dict("os.environ", {"UPM_SCOPE": "all"}):
            self.assertEqual(raw.hook_scope(), "all (UPM_SCOPE)")


if __name__ == "__main__":
    support.main()
