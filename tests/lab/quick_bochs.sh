#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# lab/quick_bochs.c finds all that it takes out of this Bochs, and the machine is the same without:
# level 1 reaches its user space at the same emulated time, which is a number of instructions. Also
# with two CPUs, which take turns of another length then, it gets there.
set -u
repo=$(cd "$(dirname "$0")/../.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
echo 'true' >"$folder/nothing.job"
failed=0
check() { # NAME COMMAND...
    local name=$1
    shift
    if "$@"; then
        echo "ok $name"
    else
        echo "not ok $name"
        failed=1
    fi
}

# boot NAME [ARGUMENTS...]: what level 1's kernel said is in $folder/NAME then.
boot() {
    local name=$1 run
    shift
    "$repo/lab/run" --no-qemu --out "$folder/$name" "$@" "$folder/nothing.job" 2>"$folder/$name.log" || return 1
    run=$(sed -n 's/^lab: level 1 starts; its files: //p' "$folder/$name.log")
    cp "$run/bochs.err" "$folder/$name.err"
}
# Microseconds.
user_space_at() { sed -n 's/^[0-9]*,[0-9]*,\([0-9]*\),.*lab: init$/\1/p' "$folder/$1/kernel.txt"; }
all_found() { ! grep '^quick_bochs: ' "$folder/$1.err"; }
same_time() { # NAME NAME: but for what the clock and chance put in: a part in 200
    local one other
    one=$(user_space_at "$1") other=$(user_space_at "$2")
    echo "# user space is reached at $one and at $other us"
    [ $((one)) -gt 0 ] && [ $(((one - other) * 200)) -lt "$one" ] && [ $(((other - one) * 200)) -lt "$one" ]
}

check boots boot quick
check finds_all all_found quick
QUICK_BOCHS_CPUS='' check boots_as_debian_made_it boot plain
check same_machine same_time quick plain
check boots_with_two_cpus boot two --cpus 2
check finds_all_with_two_cpus all_found two
exit $failed
