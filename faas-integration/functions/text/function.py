# SPDX-License-Identifier: MIT
"""Text statistics: {"text": …} -> {"words": n, "sentences": n, "reading_ease": x, …}.

Reading ease is that of Flesch (1948), with syllables counted as groups of vowels.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from typing import Any

WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")
SENTENCE_END = re.compile(r"[.!?…]+(?=\s|$)")
VOWELS = re.compile(r"[aeiouy]+")
COMMON = frozenset(
    "a an and are as at be but by for from has have in is it its not of on or that the "
    "this to was were which with".split()
)
SHOWN = 5


def handler(event: dict[str, Any]) -> dict[str, Any]:
    """Counts of the text, its reading ease (None without words), and its topics.

    Raises TypeError if event["text"] is not a string, KeyError without one.
    """
    text = event["text"]
    if not isinstance(text, str):
        raise TypeError(f"text must be a string, not {type(text).__name__}")
    words = [word.lower() for word in WORD.findall(text)]
    sentences = max(1, len(SENTENCE_END.findall(text))) if words else 0
    syllables = sum(max(1, len(VOWELS.findall(word))) for word in words)
    ease = None
    if words:
        ease = 206.835 - 1.015 * len(words) / sentences - 84.6 * syllables / len(words)
    topics = Counter(word for word in words if word not in COMMON and len(word) > 2)
    answer: dict[str, Any] = {
        "words": len(words),
        "sentences": sentences,
        "reading_ease": None if ease is None else round(ease, 2),
        "topics": sorted(topics, key=lambda word: (-topics[word], word))[:SHOWN],
    }
    bits = json.dumps(answer, sort_keys=True).encode()
    return {**answer, "sha256": hashlib.sha256(bits).hexdigest()}
