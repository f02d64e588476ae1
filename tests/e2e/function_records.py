# SPDX-License-Identifier: GPL-2.0-or-later
"""What the guest's own function tracer recorded, and how that is compared with hooks."""
import re

SHOWN = 10
LINE = re.compile(
    r"^\s*.+-(?P<tid>\d+)\s+\[\d+\]\s+\S+\s+(?P<tsc>\d+): (?P<function>[\w.]+)(?: \[\w+\])? <-"
)


def tracer_calls(path):
    """(tsc, tid, function) of each call in a file made by truth.sh, which must be a whole record."""
    calls = []
    with open(path) as trace:
        for line in trace:
            if line.startswith("#") or not line.strip():
                continue
            match = LINE.match(line)
            if not match:
                raise ValueError(f"no line of the function tracer: {line!r}")
            calls.append((int(match["tsc"]), int(match["tid"]), match["function"]))
    with open(f"{path}-stats") as stats:
        for line in stats:
            key, _, value = line.partition(":")
            if key in ("overrun", "commit overrun", "dropped events") and int(value) != 0:
                raise ValueError(f"the guest's own record has lost events: {line.strip()}")
    return sorted(calls)


def differences(what, ours, theirs):
    for i, (a, b) in enumerate(zip(ours, theirs)):
        if a != b:
            yield f"{what}: number {i} is {a}, guest: {b}"
            return
    if len(ours) != len(theirs):
        yield f"{what}: {len(ours)}, guest: {len(theirs)}"


class Report:
    """Prints `ok NAME`, or `not ok NAME` and the first problems; `good` as long as there are none."""

    def __init__(self):
        self.good = True

    def __call__(self, name, problems):
        problems = list(problems)
        self.good &= not problems
        print("not ok" if problems else "ok", name)
        for problem in problems[:SHOWN]:
            print(f"    {problem}")
