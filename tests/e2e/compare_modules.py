#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""usage: compare_modules.py FOLDER EVENTS

Holds the hits of hooks in the module brd, as shadowmon wrote them (EVENTS, JSON lines), against what
the guest's own function tracer recorded meanwhile (FOLDER/module-N-functions and -stats), for each
time that the module was loaded: N is 1, then 2; 0 is the first loading itself. The hooks go with an
event when the module does; what comes behind the first of these events is of the next time. Prints
`ok NAME` and `not ok NAME` lines; status 1 if one is not ok.

Compared is every call of the functions that move data or begin a device, by thread and in its
order; nothing else uses the module, and the hooks and the tracer are there before it is used and
until it is not any more. A function that returns is hooked where it returns as well. The hooks have
waited for the module: what its initialization calls is seen, too.
"""
import json
import sys
from collections import Counter, defaultdict

from function_records import Report, differences, tracer_calls

UNLOADED = "module brd was unloaded"
INSERT = "brd_insert_page"  # the compiler may have split it: it returns by itself, to its caller


def is_compared(function):
    return function in ("brd_submit_bio", "brd_rw_page", "brd_do_bvec") or function.startswith(
        (INSERT, "brd_alloc"))


def read_truth(folder, number):
    calls = defaultdict(list)
    for _, tid, function in tracer_calls(f"{folder}/module-{number}-functions"):
        if is_compared(function):
            calls[tid].append(function)
    return calls


class Time:
    """What the hooks saw of the module from one loading to the next."""

    def __init__(self):
        self.hits = defaultdict(list)
        self.returns = Counter()
        self.gone = Counter()  # hooks that went with it

    def add(self, tid, tsc, name):
        if name.endswith("%return"):
            self.returns[name.removesuffix("%return")] += 1
        elif is_compared(name):
            self.hits[tid].append((tsc, name))

    def calls(self):
        return {tid: [name for _, name in sorted(hits)] for tid, hits in self.hits.items()}


def read_hits(path):
    times = [Time()]
    with open(path) as lines:
        for line in lines:
            event = json.loads(line)
            if not event.get("hook", "").startswith("brd:"):
                continue
            if event["kind"] == "hook_retired":
                if event["reason"] == UNLOADED:
                    times[-1].gone[event["hook"]] += 1
            elif event["kind"] == "hook":
                if times[-1].gone:
                    times.append(Time())
                times[-1].add(event["tid"], int(event["tsc"]), event["hook"].removeprefix("brd:"))
    return [time for time in times if time.gone]


def main(argv):
    if len(argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        loading, *truth = [read_truth(argv[1], number) for number in (0, 1, 2)]
        times = read_hits(argv[2])
    except (OSError, ValueError, KeyError) as error:
        print(f"not ok module_records_readable\n    {error}")
        return 1

    report = Report()
    report("module_unloads_told", [] if len(times) == 2 else [f"{len(times)} of 2"])
    report("module_initialization_traced", [] if loading else ["it calls nothing"])
    for number, (theirs, time) in enumerate(zip(truth, times), 1):
        ours = time.calls()
        # The thread that loads does nothing else; the tracer has only seen the first one.
        loaded = {tid: ours.pop(tid) for tid in sorted(ours) if tid not in theirs}
        report(f"module_{number}_initialization_seen", []
               if list(loaded.values()) == list(loading.values()) else
               [f"{loaded}, guest: {dict(loading)}"])
        total = sum(len(calls) for calls in theirs.values())
        report(f"module_{number}_calls_seen", [] if total >= 10 else [f"only {total}"])
        report(f"module_{number}_hits_equal", (
            d for tid in sorted(set(theirs) | set(ours))
            for d in differences(f"thread {tid}", ours.get(tid, []), theirs.get(tid, []))))
        called = Counter(name for calls in [*ours.values(), *loaded.values()] for name in calls
                         if name.startswith(INSERT))
        report(f"module_{number}_returns_equal", [] if called and called == time.returns else
               [f"called: {dict(called)}, returned: {dict(time.returns)}"])
        report(f"module_{number}_hooks_retired", (
            f"{hook} did not go with the module" for hook in ["brd:brd_submit_bio"] +
            [f"brd:{name}%return" for name in called] if not time.gone[hook]))
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv))
