# SPDX-License-Identifier: MIT
"""Judges a kernel log: which of its lines mean that something went wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# The one list of what makes a kernel log dirty, each with its reason. A
# pattern is searched in the line without its time stamp.
_DIRTY: tuple[str, ...] = (
    # WARN_ON and friends; also lockdep's and the suspicious RCU usage headline.
    r"WARNING:",
    # Bad page state, Bad rss-counter, non-zero pgtables, KASAN, sleeping in
    # atomic context, soft lockup, unable to handle page fault, …
    r"BUG:",
    # BUG_ON, VM_BUG_ON_PAGE, page table check and what else ends in ud2.
    r"kernel BUG at",
    # SLUB's reports: `BUG kmalloc-64 (Tainted: …): Redzone overwritten`.
    r"BUG \S+ \(",
    # A fault in the kernel itself, by any of its names.
    r"Oops\b",
    r"general protection fault",
    r"Unable to handle kernel",
    r"double fault",
    r"stack segment",
    r"Kernel stack is corrupted",
    r"Kernel panic",
    # Any other report that carries a stack: dump_stack() has no headline of
    # its own. (Kernels do not print a stack when all is well.)
    r"Call Trace:",
    # The sanitizers.
    r"\bKASAN\b",
    r"\bUBSAN\b",
    r"kmemleak: ",
    # lockdep: reports whose headline has no WARNING on all versions.
    r"possible circular locking",
    r"possible recursive locking",
    r"possible irq lock inversion",
    r"possible deadlock",
    r"inconsistent lock state",
    r"bad unlock balance",
    r"held lock freed",
    r"lock held when returning to user space",
    r"suspicious RCU usage",
    r"Invalid wait context",
    r"INFO: trying to register non-static key",
    r"DEBUG_LOCKS_WARN_ON",
    # lockdep gave up: whatever comes after it is not checked.
    r"lockdep is turned off",
    r"turning off the locking correctness validator",
    # Memory management without the BUG: prefix, or where a line was torn.
    r"Bad page (state|map|cache)",
    r"Bad rss-counter",
    r"non-zero pgtables",
    r"page_table_check",
    r"page dumped because",
    # page_poison: a freed page was written to.
    r"pagealloc: (memory corruption|single bit error)",
    r"Bad swap (file|offset) entry",
    r"swap_info_get: ",
    # Reference counts, lists and object caches (a module that leaks objects).
    r"refcount_t: ",
    r"list_(add|del) corruption",
    r"Objects remaining in",
    r"Slab cache still has objects",
    # Something hangs.
    r"INFO: task .* blocked for more than",
    r"rcu: INFO: .* stall",
    r"rcu.*detected stall",
    r"soft lockup",
    r"workqueue lockup",
    # The allocator failed where failure was not announced as fine.
    r"page allocation failure",
    # A module that names a file twice in sysfs, debugfs or procfs.
    r"cannot create duplicate filename",
    r"kobject_add_internal failed",
    # Lines were lost, so nobody can say that the log is clean.
    r"printk messages dropped",
)

# Lines that match a pattern above and are fine all the same.
_HARMLESS: tuple[str, ...] = (
    # The echo of the boot parameters may hold any word.
    r"^(Kernel )?[Cc]ommand line: ",
    # kmemleak says that it started, or that it was switched off by a parameter.
    r"kmemleak: Kernel memory leak detector (initialized|disabled)",
    # A folder in sysfs for which there was no memory; its caller handles that. The
    # fault injection tests provoke it.
    r"kobject_add_internal failed for .* \(error: -12 ",
    # `echo scan` on a kernel without the automatic scan.
    r"kmemleak: Automatic memory scanning thread (started|ended)",
)

# Reports with a stack that are no fault of the kernel: the first line of each
# excuses the one `Call Trace:` that follows it.
_LEGITIMATE_STACK: tuple[str, ...] = (
    # The OOM killer at work, which tests of memory cgroup limits provoke.
    r"invoked oom-killer:",
    # A failure that a test ordered from the fault injection framework.
    r"FAULT_INJECTION: forcing a failure",
)
# The excuse ends here at the latest: the OOM report's summary.
_STACK_END = re.compile(r"oom-kill:|Mem-Info:|Out of memory|out of memory")

_STAMP = re.compile(r"^(<\d+>)?\[ *\d+\.\d+\](\[ *[TC]\d+\])? ?")
_CUT_HERE = "[ cut here ]"
_END_TRACE = "[ end trace"


def _any_of(patterns: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{p})" for p in patterns))


_DIRTY_RE = _any_of(_DIRTY)
_HARMLESS_RE = _any_of(_HARMLESS)
_LEGITIMATE_RE = _any_of(_LEGITIMATE_STACK)


def _without_expected(lines: Sequence[str], expected: Sequence[str]) -> tuple[list[str], list[str]]:
    """Removes the WARNING reports that match one of the `expected` expressions.

    A report reaches from `[ cut here ]` to `[ end trace`. Returns the remaining
    lines and the expressions that matched no report.
    """
    missing = list(expected)
    rest: list[str] = []
    report: list[str] = []
    for line in lines:
        if _CUT_HERE in line:
            rest += report  # one that did not end
            report = [line]
        elif not report:
            rest.append(line)
        else:
            report.append(line)
            if _END_TRACE in line:
                text = "\n".join(report)
                matching = [e for e in expected if re.search(e, text)]
                missing = [e for e in missing if e not in matching]
                rest += [] if matching else report
                report = []
    return rest + report, missing


def dirty_lines(lines: Iterable[str], expected: Sequence[str] = ()) -> list[str]:
    """The lines of a kernel log that make it dirty, as complaints for people.

    `expected` are regular expressions for WARNING reports that the test
    provokes on purpose: each must occur, and what matches does not count.
    """
    plain = [_STAMP.sub("", line.rstrip("\r\n")) for line in lines]
    rest, missing = _without_expected(plain, expected)
    found: list[str] = []
    excused = False
    for line in rest:
        if _LEGITIMATE_RE.search(line):
            excused = True
        elif _STACK_END.search(line):
            excused = False
        if not _DIRTY_RE.search(line) or _HARMLESS_RE.search(line):
            continue
        if excused and line.strip() == "Call Trace:":
            excused = False
            continue
        found.append(line)
    return found + [f"expected, but not in the log: {e}" for e in missing]


_INT3 = re.compile(r"\bint3: 0000 \[#1\]")
# The bytes up to the one at which the processor goes on: the trap itself is the last of them.
_TRAP = re.compile(r"^Code:.* ([0-9a-f]{2}) <[0-9a-f]{2}>")

# Lines of a report up to the bytes.
_REPORT_HEAD = 8


def stale_code(lines: Iterable[str]) -> str:
    """Where the kernel died of an instruction that is not in memory; "" if it did not.

    A kernel patches itself by an int3, which it later replaces. qemu before 8.1 may go on
    with the translation that it made meanwhile (its commit deba78709a has the reason). The
    report then shows the byte at which the processor trapped, which is no int3. A jump
    into the padding between functions, which is made of int3, shows one.
    """
    plain = [_STAMP.sub("", line.rstrip("\r\n")) for line in lines]
    bad = (i for i, line in enumerate(plain) if _DIRTY_RE.search(line) or _INT3.search(line))
    start = next(bad, len(plain))
    report = plain[start : start + _REPORT_HEAD]
    if not report or not _INT3.search(report[0]):
        return ""
    place = next((line for line in report if line.startswith("RIP: 0010:")), "")
    trap = next((_TRAP.match(line) for line in report if line.startswith("Code: ")), None)
    if not place or not trap or trap[1] == "cc":
        return ""
    return f"{report[0].strip()} at {place.split(':')[-1]}, where {trap[1]} stands"
