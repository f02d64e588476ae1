#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Proves the monitor's record of a guest against the guest's own.

usage: compare.py TRUTH EVENTS

TRUTH is a folder made by truth.sh in the guest, EVENTS the monitor's JSON lines of the same
time. Both are cut at the marks that window.c made; between them everything must be equal:
for every thread the sequence of its system calls with numbers, arguments and return
values; for every CPU the sequence of its process switches; and time stamps must lie in the
order in which hook and tracepoint are passed. Prints one `ok NAME` or `not ok NAME` line
per property, with the first differences; exits with 1 if one is not ok.
"""

import sys
from collections import Counter, defaultdict
from itertools import zip_longest

from records import ENTER, EXIT, SWITCH, Monitor, Truth

MARK_BEGIN = 0x4D4152422D2D3031
MARK_END = 0x4D41524B2D2D3039
NR_WRITE, NR_CLOSE, NR_FORK, NR_GETPPID = 1, 3, 57, 110
NR32_FORK, NR32_CLOSE, NR32_GETPPID = 2, 6, 64
# A call by SYSENTER has its sixth argument on the user's stack, and the kernel has not fetched it
# yet where the monitor's hook is: the monitor tells its address. compat32.c calls with this one.
SYSENTER_BP = 0x8FF0
SHOWN = 5  # differences told per property

# What a process is told about itself must be what the monitor says about it.
IDENTITY = {39: "pid", 186: "tid", 110: "ppid", 102: "uid"}


class CutError(Exception):
    pass


def is_mark(event, kind):
    return event.kind == ENTER and event.what[0] == NR_WRITE and event.what[1][1] == kind


def cut(events, side):
    """(system-call events, {cpu: switches}) between the marks."""
    begin = {}
    end = {}
    for index, event in enumerate(events):
        for kind, marks in ((MARK_BEGIN, begin), (MARK_END, end)):
            if is_mark(event, kind):
                if event.what[1][2] != event.cpu:
                    raise CutError(f"{side}: a mark is on the wrong CPU: {event}")
                marks.setdefault(event.cpu, index)
    if not begin or begin.keys() != end.keys():
        raise CutError(f"{side}: marks on CPUs {sorted(begin)} and {sorted(end)}")
    first, last = max(begin.values()), min(end.values())
    if first >= last:
        raise CutError(f"{side}: marks are out of order")
    calls = [e for e in events[first + 1 : last] if e.kind != SWITCH]
    switches = {
        cpu: [e for e in events[begin[cpu] : end[cpu]] if e.kind == SWITCH and e.cpu == cpu]
        for cpu in begin
    }
    return calls, switches


def by_thread(calls):
    threads = defaultdict(list)
    for event in calls:
        threads[event.tid].append(event)
    return threads


def by_sysenter(ours):
    return (
        ours.kind == ENTER
        and ours.raw["syscall"].get("compat")
        and ours.what[1][5] == SYSENTER_BP
    )


def equal(ours, theirs):
    if by_sysenter(ours) and theirs.kind == ENTER:
        nr, args = theirs.what
        return ours.key == (ENTER, theirs.tid, (nr, (*args[:5], SYSENTER_BP)))
    return ours.key == theirs.key


def sequence_differences(name, ours, theirs):
    """The first place where two sequences part, or nothing."""
    for index, (a, b) in enumerate(zip_longest(ours, theirs)):
        if a is None or b is None or not equal(a, b):
            return [f"{name}, event {index}: monitor: {a}; guest: {b}"]
    return []


class Comparison:
    def __init__(self, truth, monitor):
        self.truth = truth
        self.monitor = monitor
        self.results = []  # name, problems
        self.calls, self.switches = cut(monitor.events, "monitor")
        self.true_calls, self.true_switches = cut(truth.events, "guest")
        self.threads = by_thread(self.calls)
        self.true_threads = by_thread(self.true_calls)

    def run(self):
        for name in (
            "guest_record_complete",
            "nothing_lost",
            "ring_sequences_whole",
            "order_by_time",
            "calls_equal",
            "deterministic_process_seen",
            "compat_process_seen",
            "call_counts_equal_hist",
            "switches_equal",
            "switch_counts_equal",
            "time_stamps_nested",
            "identity_true",
        ):
            self.results.append((name, list(getattr(self, name)())))
        return all(not problems for _, problems in self.results)

    def guest_record_complete(self):
        return self.truth.problems

    def nothing_lost(self):
        yield from self.monitor.losses()
        summary = self.monitor.summary or {}
        count = len(self.monitor.events) + len(self.monitor.irqs) + len(self.monitor.others)
        if summary.get("events") != count:
            yield f"summary counts {summary.get('events')} events, the file has {count}"

    def ring_sequences_whole(self):
        for ring, numbers in self.monitor.rings.items():
            for before, after in zip(numbers, numbers[1:]):
                if after != before + 1:
                    yield f"ring {ring}: {after} comes after {before}"

    def order_by_time(self):
        for a, b in zip(self.monitor.events, self.monitor.events[1:]):
            if b.tsc < a.tsc:
                yield f"{b} is before {a}"

    def calls_equal(self):
        for tid in sorted(self.threads.keys() | self.true_threads.keys()):
            yield from sequence_differences(
                f"thread {tid}", self.threads.get(tid, []), self.true_threads.get(tid, [])
            )

    def deterministic_process_seen(self):
        """Guards against both records being empty or of something else: see deterministic.c."""
        for tid, events in self.threads.items():
            first = [e.what[1] for e in events if e.kind == ENTER and e.what[0] == NR_GETPPID]
            expected = [
                tuple(n * 0x1111000000000000 + i for n in range(1, 7)) for i in range(150)
            ]
            if first == expected:
                break
        else:
            yield "no thread made the 150 getppid calls with known registers"
            return
        calls = [e for e in events if e.kind == ENTER]
        if len(calls) < 1500:
            yield f"thread {tid} made {len(calls)} calls only"
        children = [e.what[1] for e in events if e.kind == EXIT and e.what[0] == NR_FORK]
        if len(children) != 7:
            yield f"thread {tid} forked {len(children)} times, not 7"
        for number, child in enumerate(children[:6]):
            closes = [
                e.what[1][0] - 4000
                for e in self.threads.get(child, [])
                if e.kind == ENTER and e.what[0] == NR_CLOSE
            ]
            if closes != [100 * number + i for i in range(25)]:
                yield f"child {number} ({child}) closed {closes}"
        handed_over = sum(
            1
            for switches in self.switches.values()
            for e in switches
            if (e.tid, e.what[1]) in ((tid, children[-1]), (children[-1], tid))
        ) if children else 0
        if handed_over < 100:
            yield f"{handed_over} switches between the two that hand a byte to and fro"

    def compat_process_seen(self):
        """Every way into the kernel that a 32-bit process has was taken: see compat32.c."""

        def getppids(sixth_seen):
            unused = [0x5EE00000 + n for n in range(1, 7)]
            for way in (1, 2, 3):  # INT 0x80, SYSENTER, the vdso's SYSENTER
                calls = [unused] + [
                    [way << 28 | i + (n << 16) for n in range(1, 7)] for i in range(60)
                ]
                for args in calls:
                    yield (*args[:5], args[5] if sixth_seen or way == 1 else SYSENTER_BP)

        def entries(events, nr):
            return [e.what[1] for e in events if e.kind == ENTER and e.what[0] == nr]

        for tid, events in self.threads.items():
            compat = [e for e in events if e.kind == ENTER and e.raw["syscall"].get("compat")]
            if entries(compat, NR32_GETPPID) == list(getppids(False)):
                break
        else:
            yield "no thread made the 32-bit getppid calls with known registers"
            return
        if entries(self.true_threads.get(tid, []), NR32_GETPPID) != list(getppids(True)):
            yield f"thread {tid}: the guest saw other arguments of getppid"
        if len(compat) != 3 * 202 + 1:
            yield f"thread {tid} made {len(compat)} 32-bit calls, not {3 * 202 + 1}"
        children = [e.what[1] for e in events if e.kind == EXIT and e.what[0] == NR32_FORK]
        closes = [
            args[0] - 3000
            for child in children
            for args in entries(self.threads.get(child, []), NR32_CLOSE)
        ]
        if len(children) != 6 or closes != 3 * [0, 1]:
            yield f"thread {tid}: children {children} closed {closes}"

    def call_counts_equal_hist(self):
        """Threads that lived wholly between the marks, against the guest's own counters."""
        window = {id(e) for e in self.true_calls}
        outside = {e.tid for e in self.truth.events if e.kind != SWITCH and id(e) not in window}
        whole = self.true_threads.keys() - outside
        if not whole:
            yield "no thread lived between the marks"
        ours = Counter((e.tid, e.what[0]) for e in self.calls if e.kind == ENTER)
        # The histogram leaves out nothing; a number of -1 is a call like any other.
        theirs = self.truth.call_counts
        for key in sorted(k for k in ours.keys() | theirs.keys() if k[0] in whole):
            if ours[key] != theirs.get(key, 0):
                yield "thread %d, call %d: " % key + f"{ours[key]}, guest: {theirs.get(key, 0)}"

    def switches_equal(self):
        for cpu in sorted(self.switches.keys() | self.true_switches.keys()):
            yield from sequence_differences(
                f"cpu {cpu}", self.switches.get(cpu, []), self.true_switches.get(cpu, [])
            )

    def switch_counts_equal(self):
        def counts(switches):
            return Counter((e.tid, e.what[1]) for cpu in switches.values() for e in cpu)

        ours, theirs = counts(self.switches), counts(self.true_switches)
        for pair in sorted(ours.keys() | theirs.keys()):
            if ours[pair] != theirs[pair]:
                yield f"{pair[0]} to {pair[1]}: {ours[pair]}, guest: {theirs[pair]}"
        # The guest's counters ran longer than the window: they are a limit.
        for pair, count in ours.items():
            if count > self.truth.switch_counts.get(pair, 0):
                yield f"{pair[0]} to {pair[1]}: {count} is more than the guest ever counted"

    def time_stamps_nested(self):
        """The entry and exit hooks are before the tracepoints, the switch hook is after."""
        for tid, ours in self.threads.items():
            before = 0
            for a, b in zip(ours, self.true_threads.get(tid, [])):
                if not before < a.tsc < b.tsc:
                    yield f"{a} at {a.tsc}; guest at {b.tsc}, the one before at {before}"
                    break
                before = b.tsc
        for cpu, ours in self.switches.items():
            theirs = self.true_switches.get(cpu, [])
            for i, (a, b) in enumerate(zip(ours, theirs)):
                after = theirs[i + 1].tsc if i + 1 < len(theirs) else a.tsc + 1
                if not b.tsc < a.tsc < after:
                    yield f"{a} at {a.tsc}; guest at {b.tsc}, the next at {after}"
                    break

    def identity_true(self):
        checked = Counter()
        tasks = {}
        for event in self.calls:
            known = tasks.setdefault(event.tid, event.raw["task"])
            if known != event.raw["task"]:
                yield f"task of {event} is {event.raw['task']}, was {known}"
            name = IDENTITY.get(event.what[0])
            if event.kind == EXIT and name and not event.raw["syscall"].get("compat"):
                checked[name] += 1
                if event.raw[name] != event.what[1]:
                    yield f"{event}: the monitor says {name} {event.raw[name]}"
        for name in IDENTITY.values():
            if not checked[name]:
                yield f"no call that tells {name}"

    def report(self, out):
        for name, problems in self.results:
            print("not ok" if problems else "ok", name, file=out)
            for problem in problems[:SHOWN]:
                print(f"    {problem}", file=out)
            if len(problems) > SHOWN:
                print(f"    and {len(problems) - SHOWN} more", file=out)
        calls = sum(1 for e in self.calls if e.kind == ENTER)
        switches = sum(map(len, self.switches.values()))
        print(
            f"# compared: {calls} calls of {len(self.threads)} threads, {switches} switches",
            file=out,
        )


def main(argv):
    if len(argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        truth, monitor = Truth(argv[1]), Monitor(argv[2])
        comparison = Comparison(truth, monitor)
    except (OSError, CutError) as error:
        print(f"not ok records_readable\n    {error}")
        return 1
    good = comparison.run()
    comparison.report(sys.stdout)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv))
