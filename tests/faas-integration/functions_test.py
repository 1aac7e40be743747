#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The functions by themselves: right answers, the same each time, clear errors."""

import base64
import io
import json
import os
import unittest

import support
from faas import functions, weights


class FunctionsTest(support.TemporaryDirectory):
    """Of all functions."""

    def test_settings_are_complete(self) -> None:
        """Each config.json can be read, and its entry is there."""
        own = ["dna-visualisation", "dynamic-html", "image-recognition", "text", "thumbnailer"]
        self.assertEqual(functions.names(), own)
        for name in functions.names():
            found = functions.find(name)
            self.assertGreater(found.memory, 0)
            self.assertGreater(found.timeout, 0)
            self.assertEqual(found.entry, "function.handler")
            self.assertTrue((found.directory / "function.py").exists())

    def test_unknown_name_is_refused(self) -> None:
        """The error says which there are."""
        with self.assertRaisesRegex(ValueError, "no function 'nothing'; there are: .*text"):
            functions.find("nothing")


class TextTest(unittest.TestCase):
    """The function without a model."""

    def test_counts(self) -> None:
        """By hand: 2 sentences, 6 words, 6 syllables."""
        answer = support.load_function("text")({"text": "The cat sat. The dog ran!"})
        self.assertEqual((answer["words"], answer["sentences"]), (6, 2))
        self.assertEqual(answer["reading_ease"], round(206.835 - 1.015 * 3 - 84.6, 2))
        self.assertEqual(answer["topics"], ["cat", "dog", "ran", "sat"])

    def test_empty_text(self) -> None:
        """No words, no reading ease."""
        answer = support.load_function("text")({"text": ""})
        self.assertEqual((answer["words"], answer["reading_ease"]), (0, None))

    def test_wrong_type(self) -> None:
        """Says what it got."""
        with self.assertRaisesRegex(TypeError, "must be a string, not int"):
            support.load_function("text")({"text": 5})


@support.needs_jinja2
class DynamicHtmlTest(unittest.TestCase):
    """The function with a template."""

    def setUp(self) -> None:
        """Finds its handler."""
        self.handler = support.load_function("dynamic-html")

    def test_page(self) -> None:
        """Has a row for each number, and the same bytes each time."""
        answer = self.handler({"name": "<b>", "count": 3, "seed": 1})
        self.assertEqual(answer["html"].count("<tr "), 3)
        self.assertIn("Welcome, &lt;b&gt;!", answer["html"])
        self.assertEqual(answer, self.handler({"name": "<b>", "count": 3, "seed": 1}))
        self.assertNotEqual(answer, self.handler({"name": "<b>", "count": 3, "seed": 2}))

    def test_its_own_request(self) -> None:
        """A thousand rows."""
        event = functions.find("dynamic-html").make_input()
        self.assertEqual(self.handler(event)["html"].count("<tr "), 1000)

    def test_count_out_of_range(self) -> None:
        """Says the range."""
        with self.assertRaisesRegex(ValueError, "-1 is not within 0 to 100000"):
            self.handler({"name": "x", "count": -1})


class DnaVisualisationTest(unittest.TestCase):
    """The function that makes many small objects."""

    def test_curve(self) -> None:
        """By hand: A goes up and comes back, G climbs by two, T falls by two."""
        made = support.script("functions/dna-visualisation/function.py")
        self.assertEqual(
            made["squiggle"]("AGTN"),
            ([0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4], [0, 1, 0, 1, 2, 1, 0, 0, 0]),
        )

    def test_answers(self) -> None:
        """The same for the same bases, however they are written; few points for many bases."""
        handler = support.load_function("dna-visualisation")
        self.assertEqual(handler({"sequence": "acgt"}), handler({"sequence": "ACGT"}))
        answer = handler(functions.find("dna-visualisation").make_input())
        self.assertEqual(answer["bases"], 200_000)
        self.assertLessEqual(answer["svg"].count(","), 2000)
        self.assertEqual(handler({"sequence": ""})["bases"], 0)


@support.needs_pil
class ThumbnailerTest(unittest.TestCase):
    """The function with a library but without a model."""

    def test_keeps_the_shape(self) -> None:
        """640 x 480 into 128 x 128."""
        from PIL import Image

        answer = support.load_function("thumbnailer")(functions.find("thumbnailer").make_input())
        self.assertEqual((answer["width"], answer["height"]), (128, 96))
        with Image.open(io.BytesIO(base64.b64decode(answer["image"]))) as image:
            self.assertEqual((image.format, image.size), ("JPEG", (128, 96)))

    def test_size_out_of_range(self) -> None:
        """Says the range."""
        with self.assertRaisesRegex(ValueError, "0 x 5 is not within 1 to 4096"):
            support.load_function("thumbnailer")({"image": "", "width": 0, "height": 5})


@support.needs_torch
class ImageRecognitionTest(support.TemporaryDirectory):
    """The function with a model: a tiny one."""

    def test_answers_are_the_same(self) -> None:
        """Of two loads of the same weights, bit by bit; another picture has another."""
        what = functions.find("image-recognition")
        weights.prepare("tiny", self.directory, what.directory / "function.py")
        os.environ.update(MODEL="tiny", WEIGHTS=str(self.directory))
        event = what.make_input()
        first, second = (support.load_function(what.name)(event) for _ in range(2))
        self.assertEqual(first, second)
        self.assertEqual(len(first["top5"]), 5)
        other = support.script("functions/image-recognition/input.py")["picture"](seed=1)
        event["image"] = base64.b64encode(other).decode()
        self.assertNotEqual(support.load_function(what.name)(event)["sha256"], first["sha256"])

    def test_damaged_weights_are_written_again(self) -> None:
        """And are then what they were."""
        function = functions.find("image-recognition").directory / "function.py"
        path = weights.prepare("tiny", self.directory, function)
        listing = json.loads((self.directory / "checksums.json").read_text())
        path.write_bytes(b"damaged")
        weights.prepare("tiny", self.directory, function)
        self.assertIn(weights.checksum(path), listing.values())

    def test_unknown_model(self) -> None:
        """Says which there are."""
        with self.assertRaisesRegex(ValueError, "no model 'vgg'; there are: alexnet"):
            weights.prepare("vgg", self.directory, self.directory)


if __name__ == "__main__":
    support.main()
