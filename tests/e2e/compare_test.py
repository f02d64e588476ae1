#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""compare.py on made-up records: equal ones pass, and every single doctored one fails."""

import json
import pickle
import random
import tempfile
import unittest
from pathlib import Path

import compare
from records import ENTER, EXIT, SWITCH, Event, Monitor, Truth, unescape

MAIN, WINDOW, INIT, COMPAT = 400, 390, 1, 420
KINDS = ((ENTER, "calls_equal"), (EXIT, "calls_equal"), (SWITCH, "switches_equal"))


class FakeGuest:
    """Plays deterministic.c inside window.c on two CPUs, as far as compare.py looks."""

    def __init__(self):
        self.events = []
        self.tsc = 1000

    def add(self, kind, cpu, tid, what):
        self.tsc += 100
        self.events.append(Event(kind, cpu, self.tsc, tid, what, ""))

    def call(self, tid, nr, args, ret, cpu=0):
        self.add(ENTER, cpu, tid, (nr, args))
        self.add(EXIT, cpu, tid, (nr, ret))

    def switch(self, cpu, a, b):
        self.add(SWITCH, cpu, a, (f"c{a}", b, f"c{b}"))

    def marks(self, kind):
        for cpu in (0, 1):
            self.call(WINDOW, 1, (2**64 - 1, kind, cpu, 0, 0, 0), -9, cpu)

    def play(self):
        self.call(INIT, 0, (1, 2, 3, 4, 5, 6), 1)
        self.marks(compare.MARK_BEGIN)
        self.switch(0, WINDOW, MAIN)
        for i in range(150):
            args = tuple(n * 0x1111000000000000 + i for n in range(1, 7))
            self.call(MAIN, compare.NR_GETPPID, args, WINDOW)
        for i in range(1400):
            self.call(MAIN, 1000 + i, (0, 0, 0, 0, 0, i), -38)
        self.call(MAIN, -1, (0, 0, 0, 0, 0, 0), -38)
        for number in range(6):
            child = 410 + number
            self.call(MAIN, compare.NR_FORK, (0,) * 6, child)
            self.add(EXIT, 1, child, (compare.NR_FORK, 0))
            for i in range(25):
                self.call(child, 3, (4000 + 100 * number + i, 0, 0, 0, 0, 0), -9, 1)
            self.call(child, 39, (0,) * 6, child, 1)
            self.call(child, 186, (0,) * 6, child, 1)
            self.call(child, 102, (0,) * 6, 0, 1)
            self.add(ENTER, 1, child, (231, (0,) * 6))
        self.call(MAIN, compare.NR_FORK, (0,) * 6, 416)
        for _ in range(60):
            self.switch(1, MAIN, 416)
            self.call(416, 0, (5, 6, 1, 0, 0, 0), 1, 1)
            self.switch(1, 416, MAIN)
        self.play_compat32()
        self.switch(0, MAIN, WINDOW)
        self.marks(compare.MARK_END)
        self.call(INIT, 0, (1, 2, 3, 4, 5, 6), 1)
        return self.events


    def play_compat32(self):
        child = COMPAT
        for way in (1, 2, 3):
            self.call(COMPAT, 64, tuple(0x5EE00000 + n for n in range(1, 7)), WINDOW)
            for i in range(60):
                args = tuple(way << 28 | i + (n << 16) for n in range(1, 7))
                self.call(COMPAT, compare.NR32_GETPPID, args, WINDOW)
            for i in range(202 - 61 - 2):
                self.call(COMPAT, 5000 + i, (1, 2, 3, 4, 5, 0x5EE00006), -38)
            for i in range(2):
                child += 1
                self.call(COMPAT, compare.NR32_FORK, (1, 2, 3, 4, 5, 0x5EE00006), child)
                self.call(child, compare.NR32_CLOSE, (3000 + i, 2, 3, 4, 5, 0x5EE00006), -9, 1)
        self.add(ENTER, 0, COMPAT, (252, (0, 2, 3, 4, 5, 6)))


def write_truth(folder, events, overrun=0):
    def hist(keys, counts):
        rows = [
            "{ %s: %10d, %s: %10d } hitcount: %10d" % (keys[0], k[0], keys[1], k[1], n)
            for k, n in counts.items()
        ]
        return "# event histogram\n\n" + "\n".join(rows) + "\nTotals:\n    Dropped: 0\n"

    lines = [f"# entries-in-buffer/entries-written: {len(events)}/{len(events)}   #P:2"]
    calls, switches = {}, {}
    for e in events:
        if e.kind == ENTER:
            # The kernel prints the whole number; only its low 32 bits mean anything.
            text = "sys_enter: NR %d (%s)" % (e.what[0], ", ".join("%x" % a for a in e.what[1]))
            calls[(e.tid, e.what[0])] = calls.get((e.tid, e.what[0]), 0) + 1
        elif e.kind == EXIT:
            text = "sys_exit: NR %d = %d" % e.what
        else:
            text = (
                f"sched_switch: prev_comm={e.what[0]} prev_pid={e.tid} prev_prio=120 "
                f"prev_state=S ==> next_comm={e.what[2]} next_pid={e.what[1]} next_prio=120"
            )
            pair = (e.tid, e.what[1])
            switches[pair] = switches.get(pair, 0) + 1
        lines.append(f"  some-comm-{e.tid:<7} [{e.cpu:03}] d..2.  {e.tsc}: {text}")
    (folder / "trace").write_text("\n".join(lines) + "\n")
    (folder / "stats").write_text(
        f"cpu0\nentries: 1\noverrun: {overrun}\ncommit overrun: 0\ndropped events: 0\n"
    )
    (folder / "hist-syscalls").write_text(hist(("common_pid", "id"), calls))
    (folder / "hist-switches").write_text(hist(("prev_pid", "next_pid"), switches))


def monitor_lines(events):
    """What a faultless monitor writes: calls a little before the guest's record, switches after."""
    rows = []
    way = 0
    for e in events:
        raw = {"tsc": e.tsc + (10 if e.kind == SWITCH else -10), "cpu": e.cpu, "kind": e.kind}
        raw |= {"pid": e.tid, "tid": e.tid, "ppid": WINDOW, "uid": 0, "task": hex(e.tid << 8)}
        raw |= {"ring": e.cpu}
        if e.kind == SWITCH:
            raw["prev"] = {"tid": e.tid, "comm": e.what[0]}
            raw["next"] = {"tid": e.what[1], "comm": e.what[2]}
        else:
            raw["syscall"] = {"name": "x", "nr": e.what[0] & 0xFFFFFFFF}
            compat = e.tid >= COMPAT
            if compat:
                raw["syscall"]["compat"] = True
            if e.kind == ENTER:
                args = list(e.what[1])
                if compat and e.what[0] == compare.NR32_GETPPID and args[0] == 0x5EE00001:
                    way += 1
                if compat and way > 1 and e.what[0] != 252:
                    args[5] = compare.SYSENTER_BP
                raw["syscall"]["args"] = [hex(a) for a in args]
            else:
                raw["ret"] = e.what[1]
        rows.append(raw)
    rows.sort(key=lambda r: r["tsc"])
    number(rows)
    return rows


def number(rows):
    count = {}
    for raw in rows:
        raw["seq"] = count.get(raw["ring"], 0)
        count[raw["ring"]] = raw["seq"] + 1


def summary(rows, **changes):
    whole = {"kind": "summary", "events": len(rows), "lost": 0, "late": 0, "broken_rings": 0}
    return whole | changes


def copied(rows):
    """As copy.deepcopy, in a tenth of its time."""
    return pickle.loads(pickle.dumps(rows, pickle.HIGHEST_PROTOCOL))


class CompareTest(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)
        self.events = FakeGuest().play()
        self.rows = monitor_lines(self.events)
        write_truth(self.folder, self.events)

    def failed(self, rows=None, total=None, tail="\n"):
        """Names of the properties that do not hold."""
        rows = self.rows if rows is None else rows
        lines = [json.dumps(r | {"tsc": str(r["tsc"])}) for r in rows]
        lines.append(json.dumps(total or summary(rows)))
        (self.folder / "events.json").write_text("\n".join(lines) + tail)
        comparison = compare.Comparison(
            Truth(self.folder), Monitor(self.folder / "events.json")
        )
        comparison.run()
        return {name for name, problems in comparison.results if problems}

    def inside(self, kind, **wanted):
        """Indices of rows of that kind well inside the window."""
        marks = [
            i
            for i, r in enumerate(self.rows)
            if r["kind"] == ENTER
            and int(r["syscall"]["args"][1], 16) in (compare.MARK_BEGIN, compare.MARK_END)
        ]
        found = [
            i
            for i in range(marks[1] + 1, marks[2])
            if self.rows[i]["kind"] == kind
            and all(self.rows[i].get(k) == v for k, v in wanted.items())
        ]
        self.assertTrue(found)
        return found

    def test_equal_records_pass(self):
        self.assertEqual(self.failed(), set())

    def test_any_missing_event_fails(self):
        for kind, where in KINDS:
            for index in random.Random(1).sample(self.inside(kind), 3):
                rows = copied(self.rows)
                del rows[index]
                self.assertIn("ring_sequences_whole", self.failed(rows))
                number(rows)
                self.assertIn(where, self.failed(rows), (kind, index))

    def test_any_doubled_event_fails(self):
        for kind, where in KINDS:
            for index in random.Random(2).sample(self.inside(kind), 3):
                rows = copied(self.rows)
                rows.insert(index, copied(rows[index]))
                number(rows)
                self.assertIn(where, self.failed(rows), (kind, index))

    def test_events_of_one_thread_swapped_fail(self):
        index = self.inside(ENTER, tid=MAIN)[20]
        rows = copied(self.rows)
        rows[index]["syscall"], rows[index + 2]["syscall"] = (
            rows[index + 2]["syscall"],
            rows[index]["syscall"],
        )
        self.assertIn("calls_equal", self.failed(rows))

    def test_altered_argument_fails(self):
        for position in range(6):
            rows = copied(self.rows)
            args = rows[self.inside(ENTER)[7]]["syscall"]["args"]
            args[position] = hex(int(args[position], 16) ^ (1 << (9 * position)))
            self.assertIn("calls_equal", self.failed(rows))

    def test_altered_argument_of_sysenter_fails(self):
        rows = [
            i
            for i in self.inside(ENTER, tid=COMPAT)
            if int(self.rows[i]["syscall"]["args"][5], 16) == compare.SYSENTER_BP
        ]
        self.assertEqual(len(rows), 2 * 202)
        for position in range(6):
            altered = copied(self.rows)
            args = altered[rows[70]]["syscall"]["args"]
            args[position] = hex(int(args[position], 16) ^ 8)
            self.assertIn("calls_equal", self.failed(altered), position)

    def test_compat_process_missing_a_way_fails(self):
        for first in (1, 2, 3):
            gone = {
                tuple(first << 28 | i + (n << 16) for n in range(1, 7)) for i in range(60)
            }
            events = [e for e in self.events if not (e.kind == ENTER and e.what[1] in gone)]
            self.assertEqual(len(events), len(self.events) - 60)
            write_truth(self.folder, events)
            self.assertEqual(self.failed(monitor_lines(events)), {"compat_process_seen"})

    def test_way_taken_for_another_fails(self):
        """As if INT 0x80 had been used where SYSENTER should be: the sixth argument is there."""
        rows = copied(self.rows)
        for raw in rows:
            call = raw.get("syscall", {})
            if call.get("compat") and "args" in call and raw["tid"] == COMPAT:
                call["args"][5] = hex(int(call["args"][0], 16) + 0x50000)
        self.assertIn("compat_process_seen", self.failed(rows))

    def test_altered_number_or_return_value_fails(self):
        for kind, change in (
            (ENTER, lambda r: r["syscall"].update(nr=r["syscall"]["nr"] ^ 1)),
            (EXIT, lambda r: r["syscall"].update(nr=r["syscall"]["nr"] ^ 1)),
            (EXIT, lambda r: r.update(ret=r["ret"] + 1)),
            (EXIT, lambda r: r.update(tid=r["tid"] + 1)),
        ):
            rows = copied(self.rows)
            change(rows[self.inside(kind)[9]])
            self.assertIn("calls_equal", self.failed(rows))

    def test_altered_switch_fails(self):
        for change in (
            lambda r: r["next"].update(tid=9),
            lambda r: r["prev"].update(tid=9),
            lambda r: r["next"].update(comm="other"),
            lambda r: r["prev"].update(comm="other"),
            lambda r: r.update(cpu=1 - r["cpu"]),
        ):
            rows = copied(self.rows)
            change(rows[self.inside(SWITCH)[3]])
            self.assertIn("switches_equal", self.failed(rows))

    def test_wrong_time_stamp_fails(self):
        for kind in (ENTER, EXIT, SWITCH):
            index = self.inside(kind)[12]
            for delta in (-200, 200):
                rows = copied(self.rows)
                rows[index]["tsc"] += delta
                self.assertIn("time_stamps_nested", self.failed(rows), (kind, delta))
                self.assertIn("order_by_time", self.failed(rows))

    def test_wrong_identity_fails(self):
        for key in ("pid", "ppid", "uid", "task"):
            rows = copied(self.rows)
            for raw in rows:
                if raw["tid"] == 412 and raw["syscall"]["nr"] in (39, 110, 102):
                    raw[key] = "0x1" if key == "task" else 77
            if key == "ppid":
                rows[self.inside(EXIT, tid=MAIN)[0]][key] = 77
            self.assertIn("identity_true", self.failed(rows), key)

    def test_loss_and_surprises_fail(self):
        lost = {"kind": "lost", "ring": 0, "seq": 0, "cpu": 0, "tsc": 0, "tid": 0}
        rows = [lost] + copied(self.rows)
        number(rows)
        self.assertIn("nothing_lost", self.failed(rows))
        for change in ({"lost": 1}, {"late": 1}, {"broken_rings": 1}, {"events": 1}):
            self.assertIn("nothing_lost", self.failed(total=summary(self.rows, **change)))
        self.assertIn("nothing_lost", self.failed(tail=""))
        self.assertIn("nothing_lost", self.failed(tail="\n{}\n"))
        for flag in ("late", "no_task", "no_body"):
            rows = copied(self.rows)
            rows[50][flag] = True
            self.assertIn("nothing_lost", self.failed(rows))

    def test_incomplete_guest_record_fails(self):
        write_truth(self.folder, self.events, overrun=1)
        self.assertIn("guest_record_complete", self.failed())
        write_truth(self.folder, self.events)
        trace = self.folder / "trace"
        text = trace.read_text()
        trace.write_text(text.replace("sys_exit: NR 1005 =", "sys_exit: NR 1005 ?"))
        self.assertIn("guest_record_complete", self.failed())
        hist = self.folder / "hist-syscalls"
        hist.write_text(hist.read_text().replace("Dropped: 0", "Dropped: 3"))
        self.assertIn("guest_record_complete", self.failed())

    def test_counters_are_looked_at(self):
        for name, where in (
            ("hist-syscalls", "call_counts_equal_hist"),
            ("hist-switches", "switch_counts_equal"),
        ):
            path = self.folder / name
            text = path.read_text()
            path.write_text(text.replace("hitcount:         60", "hitcount:         59"))
            self.assertIn(where, self.failed())
            path.write_text(text)

    def test_both_sides_missing_the_process_fails(self):
        events = [e for e in self.events if e.tid != MAIN]
        write_truth(self.folder, events)
        self.assertIn("deterministic_process_seen", self.failed(monitor_lines(events)))

    def test_missing_mark_is_an_error(self):
        rows = [r for r in self.rows if r["tid"] != WINDOW]
        with self.assertRaises(compare.CutError):
            self.failed(rows)

    def test_names_are_unescaped(self):
        self.assertEqual(unescape(r"a\x20b\\x20"), "a b\\x20")


if __name__ == "__main__":
    unittest.main()
