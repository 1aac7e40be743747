# SPDX-License-Identifier: MIT
"""Faults that are compiled in together, and switched on one at a time.

A fault replaces some text. Where this text lies in a condition, in the value of a variable
or in a statement, both versions can be compiled: `if (on(7)) { new } else { old }`. Then one
build serves many faults, and tests run with FAULT_OF_MUTATE=7. Nothing here understands C++: what
does not compile this way is left to a build of its own.
"""

import re
from dataclasses import dataclass

VARIABLE = "FAULT_OF_MUTATE"  # tests drop what begins with UPM_
# The number is in the variable or, for a broker that is started without one, in the file.
# What is switched on makes another file one byte long when it is reached, which takes no
# descriptor: so it is known of a fault that lives whether any test got there.
HEAD = """#ifndef UPM_DEV_SWITCH
#define UPM_DEV_SWITCH
%(include)s
#include <cerrno>
#include <sys/syscall.h>
#include <unistd.h>
extern "C" char *secure_getenv(const char *name) noexcept;
namespace upm_switch {
inline int number_of(const char *text) noexcept {
    int number = 0;
    for (; text != nullptr && *text >= '0' && *text <= '9'; ++text)
        number = 10 * number + (*text - '0');
    return number;
}
inline int find() noexcept {
    const char *const text = ::secure_getenv("FAULT_OF_MUTATE");
    if (text != nullptr)
        return number_of(text);
    %(file)s
    return 0;
}
inline const int chosen = find();
inline bool told = false;
inline bool on(int number) noexcept {
    if (chosen != number)
        return false;
    if (!told) {
        told = true;
        const int error = errno;
        (void)::syscall(SYS_truncate, "%(reached)s", 1L);
        errno = error;
    }
    return true;
}
}
#endif
"""
READ = """if (std::FILE *const file = std::fopen("%s", "re")) {
        char line[16] = {};
        const bool read = std::fgets(line, sizeof(line), file) != nullptr;
        (void)std::fclose(file);
        return read ? number_of(line) : 0;
    }"""

OPEN, CLOSE = "([{", ")]}"
DECLARATION = re.compile(
    r"(?:(?:static|constexpr|const)\s+)*(?!return\b|else\b|delete\b|throw\b|goto\b)"
    r"[A-Za-z_][\w:]*(?:<[^;=]*>)?(?:\s+const)?(?:\s+|\s*[*&]\s*)(?:const\s+)?\w+\s*=(?!=)\s*"
)
LABEL = re.compile(r"(?:case\s[^:;{}]*(?:::[^:;{}]+)*:(?!:)|default\s*:)\s*")


@dataclass(frozen=True)
class Edit:
    """Text that takes the place of a part of a file."""

    start: int
    end: int
    text: str


def masked(text: str) -> str:
    """The text, with blanks for what is in comments and quotes."""
    pattern = r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"|(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])+'"
    return re.sub(pattern, lambda m: re.sub(r"[^\n]", " ", m.group()), text, flags=re.S)


def begin_of_statement(code: str, at: int) -> int:
    """Where the statement begins that a place belongs to."""
    depth = 0
    while at > 0:
        char = code[at - 1]
        if char in ")]":
            depth += 1
        elif char in "([":
            depth = max(depth - 1, 0)
        elif depth == 0 and char in ";{}":
            break
        at -= 1
    while True:
        at += len(code[at:]) - len(code[at:].lstrip())
        if label := LABEL.match(code, at):
            at = label.end()
        elif code.startswith("else ", at):
            at += len("else ")
        else:
            return at


def closing(code: str, at: int) -> int:
    """The place of the parenthesis that closes the one here; -1: there is none."""
    depth = 0
    for place in range(at, len(code)):
        depth += (code[place] in OPEN) - (code[place] in CLOSE)
        if depth == 0:
            return place
    return -1


def end_of_statements(code: str, start: int, least: int) -> int:
    """Behind the statement that ends at `least` or later; -1: there is none."""
    depth = 0
    for place in range(start, len(code)):
        char = code[place]
        depth += (char in OPEN) - (char in CLOSE)
        if depth < 0:
            return -1
        if place + 1 >= least and depth == 0 and char in ";}":
            return place + 1
    return -1


def switch(text: str, start: int, end: int, new: str, number: int) -> Edit | None:
    """The edit that makes `new` in place of text[start:end] a matter of a switch."""
    code = masked(text)
    begin = begin_of_statement(code, start)
    if begin > start:
        return None

    def both(first: int, last: int) -> tuple[str, str]:
        return text[first:start] + new + text[end:last], text[first:last]

    if control := re.compile(r"(?:if|while)\s*\(").match(code, begin):
        first = control.end()
        last = closing(code, first - 1)
        if first <= start and end <= last:
            wrong, right = (f"static_cast<bool>({part})" for part in both(first, last))
            return Edit(first, last, f"upm_switch::on({number}) ? {wrong} : {right}")
    last = end_of_statements(code, begin, end)
    if last < 0 or code[last:].lstrip().startswith("else"):
        return None
    value = DECLARATION.match(code, begin)
    if value and code[last - 1] == ";":
        if value.end() <= start:
            wrong, right = both(value.end(), last - 1)
        elif start == begin and (other := DECLARATION.match(new)):
            wrong, right = new[other.end() :], text[value.end() : last - 1]
        else:
            return None
        head = re.sub(r"\bconstexpr\b", "const", text[begin : value.end()])
        wrong = wrong.rstrip().removesuffix(";")
        return Edit(begin, last, f"{head}upm_switch::on({number}) ? ({wrong}\n) : ({right}\n);")
    wrong, right = both(begin, last)
    return Edit(begin, last, f"if (upm_switch::on({number})) {{ {wrong}\n}} else {{ {right}\n}}")


def apply(
    text: str, edits: list[Edit], file: str, reached: str
) -> tuple[str, list[tuple[int, int]]]:
    """The text with all edits, which must not overlap, and each edit's first and last line.

    `file` holds the number of the fault, too; empty: it must not be looked at. `reached` is
    the file that tells.
    """
    first, _, _ = text.partition("\n")
    parts = {
        "include": "#include <cstdio>" if file else "",
        "file": READ % file if file else "",
        "reached": reached,
    }
    result = first + "\n" + HEAD % parts
    at = len(first) + 1
    lines = []
    for edit in edits:
        result += text[at : edit.start]
        line = result.count("\n") + 1
        result += edit.text
        lines.append((line, result.count("\n") + 1))
        at = edit.end
    return result + text[at:], lines
