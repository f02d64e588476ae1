#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What the demo shows on the terminal: events, which come in as JSON lines, as one line of text
each; any other line as it is."""

import json
import sys


def call(event):
    name = event["syscall"]["name"]
    args = ", ".join(str(int(a, 16)) if int(a, 16) < 1 << 20 else a for a in event["syscall"].get("args", []))
    return f"{name}({args})"


def result(event):
    error = f" ({event['error']})" if "error" in event else ""
    return f"{event['syscall']['name']} = {event.get('ret', '?')}{error}"


def switch(event):
    if "next" not in event:
        return "-> ?"
    return f"-> {event['next']['comm']}/{event['next']['tid']}"


def lost(event):
    return f"{event['total']} events"


BODIES = {
    "syscall_enter": ("enter", call),
    "syscall_exit": ("exit", result),
    "switch": ("switch", switch),
    "lost": ("lost", lost),
}


def text(event):
    kind, body = BODIES.get(event["kind"], (event["kind"], lambda _: ""))
    who = f"{event['comm']}/{event['tid']}"
    return f"{event['time'][11:26]} {event['cpu']:03} {who:<22} {kind:<7} {body(event)}"


def main():
    for line in sys.stdin:
        if line.startswith("{"):
            try:
                event = json.loads(line)
                if event["kind"] != "summary":
                    print(text(event))
                continue
            except (ValueError, KeyError):
                pass
        print(line, end="")


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(0)
