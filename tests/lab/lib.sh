#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# That a step of the lab ends what it has started, all of it, and nothing of anybody else's.

. "$(dirname "$0")/../../lab/lib.sh"

cache=$(mktemp -d)
remove_at_exit "$cache"
mkdir "$cache/log"

failed=0
verdict() { # STATUS TEXT
    if [ "$1" -eq 0 ]; then echo "ok $2"; else echo "not ok $2"; failed=1; fi
}
runs() { kill -0 "$1" 2>/dev/null; } # PID

# Leaves another process behind in the background, as a build that is interrupted may.
leave_one() {
    sleep 1000 &
    echo $! >"$cache/left"
}

make_something() { echo made >"$1/file"; }

background sleep 1000
neighbour=$!
made=$(cached things one "making something" make_something)
verdict "$([ "$(<"$made/file")" = made ]; echo $?)" "something is made and kept"
verdict "$(runs "$neighbour"; echo $?)" "a neighbour of \$(cached ...) runs on"

(step "a step in a subshell" true)
verdict "$(runs "$neighbour"; echo $?)" "a neighbour of a subshell runs on"

step "a step that leaves a process behind" leave_one
left=$(<"$cache/left")
timeout 10 tail --pid="$left" -s 0.1 -f /dev/null || true
verdict "$(! runs "$left"; echo $?)" "what a step left behind has ended"
verdict "$(runs "$neighbour"; echo $?)" "a neighbour of a step runs on"

status=0
(step "a step that fails" false) 2>/dev/null || status=$?
verdict "$([ $status -eq 1 ]; echo $?)" "a step that fails says so"

# A shell that is told to end takes along what it has started.
"$BASH" -c '. "$1"; background sleep 1000; echo $! >"$2"; wait' - "$lab/lib.sh" "$cache/child" &
shell=$!
timeout 10 bash -c 'until [ -s "$1" ]; do sleep 0.05; done' - "$cache/child"
kill -TERM "$shell"
wait "$shell" || true
verdict "$(! runs "$(<"$cache/child")"; echo $?)" "a shell takes along what it has started"

# The flag "hg" of a mapping in smaps: large pages have been asked for.
large_pages
asked() { # COMMAND...
    "$@" python3 -c 'import mmap
kept = mmap.mmap(-1, 4 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
print(open("/proc/self/smaps").read())' | grep '^VmFlags:.* hg\b' >/dev/null
}
if [ -e /sys/kernel/mm/transparent_hugepage/enabled ]; then
    verdict "$(! asked env; echo $?)" "memory is in pages of the usual size by itself"
    verdict "$(asked "$lab/compiler/in_large_pages"; echo $?)" "a compiler asks for large pages"
else
    echo "skip a compiler asks for large pages"
fi
exit $failed
