#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""usage: compare_hooks.py FOLDER EVENTS

Holds the hits of hooks on functions, as shadowmon wrote them (EVENTS, JSON lines), against what
the guest's own function tracer recorded meanwhile (FOLDER/functions and functions-stats, and
hooks.list, what `shadowmon hooks list` said at the end). Prints `ok NAME` and `not ok NAME` lines;
status 1 if one is not ok.

The tracer's window lies within the monitor's. Compared are the threads that lived wholly in it:
those whose start (wake_up_new_task, seen by the monitor in the parent) and whose end (do_exit)
the tracer recorded. Of them every call of every function has to be in both records, in the same
order. A function that returns is hooked where it returns as well: as often as it was called.
"""
import json
import sys
from collections import Counter, defaultdict

from function_records import Report, differences, tracer_calls


def read_hits(path):
    hits, summary = [], None
    with open(path) as lines:
        for line in lines:
            event = json.loads(line)
            if event["kind"] == "hook":
                hits.append((int(event["tsc"]), event["tid"], event["hook"], event))
            elif event["kind"] == "summary":
                summary = event
    return hits, summary


def main(argv):
    if len(argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    folder = argv[1]
    try:
        truth = tracer_calls(f"{folder}/functions")
        hits, summary = read_hits(argv[2])
        with open(f"{folder}/hooks.list") as listed:
            listed = json.load(listed)["hooks"]
    except (OSError, ValueError, KeyError) as error:
        print(f"not ok hook_records_readable\n    {error}")
        return 1

    report = Report()
    functions = {function for _, _, function in truth}
    first, last = truth[0][0], truth[-1][0]
    ours, theirs, ends = defaultdict(list), defaultdict(list), set()
    for tsc, tid, function in truth:
        theirs[tid].append(function)
        if function == "do_exit":
            ends.add(tid)
    begins = defaultdict(lambda: last + 1)
    returns = defaultdict(Counter)
    for tsc, tid, name, _ in hits:
        begins[tid] = min(begins[tid], tsc)
        if name.endswith("%return"):
            returns[tid][name.removesuffix("%return")] += 1
        else:
            ours[tid].append(name)
    whole = {tid for tid in ends if begins[tid] >= first}

    report("hooks_nothing_lost", [] if summary and summary["lost"] == 0 else ["the summary says so"])
    report("hooks_threads_compared", [] if len(whole) >= 10 else [f"only {len(whole)}"])
    report("hooks_functions_seen", (f"{f} was never called" for f in
           {"vfs_read", "vfs_write", "do_exit", "wake_up_new_task"} - functions))
    report("hook_hits_equal", (d for tid in sorted(whole)
           for d in differences(f"thread {tid}", ours[tid], theirs[tid])))
    report("hook_returns_equal", (
        f"thread {tid}: {name} was called {Counter(ours[tid])[name]} times, returned {returns[tid][name]}"
        for tid in sorted(whole) for name in ("vfs_read", "vfs_write")
        if Counter(ours[tid])[name] != returns[tid][name]))

    def arguments():
        """What vfs_read and vfs_write return is at most what they were asked for."""
        asked = {}
        checked = 0
        for _, tid, name, event in hits:
            if name in ("vfs_read", "vfs_write"):
                asked[tid] = (name, int(event["args"][2], 16))
            elif name.endswith("%return"):
                function, count = asked.pop(tid, (None, None))
                value = int(event["ax"], 16)
                if function != name.removesuffix("%return"):
                    continue
                checked += 1
                if value > count and value < 2**64 - 4095:
                    yield f"thread {tid}: {function} of {count} bytes returned {value:#x}"
        if checked < 100:
            yield f"only {checked} calls with their return"

    report("hook_arguments_true", arguments())

    def counters():
        recorded = Counter(name for _, _, name, _ in hits)
        for hook in listed:
            if hook["hits"] != hook["recorded"] + hook["lost"] + hook["limited"] or hook["lost"]:
                yield f"{hook}"
        told = Counter()
        for hook in listed:
            told[hook["name"]] += hook["hits"]
        for name, hits_told in told.items():
            # The trace went on for a moment after the list was made.
            if not 0 < hits_told <= recorded[name]:
                yield f"{name}: {hits_told} hits by its counter, {recorded[name]} events"

    report("hook_counters_true", counters())
    print(f"# compared: {sum(len(ours[tid]) for tid in whole)} hits of {len(whole)} threads")
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv))
