#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# What is preloaded into Bochs (lab/bochs/) finds all that it changes there, and the machine is the
# same without: level 1 reaches its user space at the same emulated time, which is a number of
# instructions. Also with two CPUs, which take turns of another length then, it gets there. And a
# machine goes on from a kept state as if nothing had been.
set -u
repo=$(cd "$(dirname "$0")/../.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
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

# run NAME [ARGUMENTS...]: what level 1's kernel said is in $folder/NAME then.
run() {
    local name=$1 run
    shift
    "$repo/lab/run" --no-qemu --out "$folder/$name" "$@" 2>"$folder/$name.log" || return 1
    run=$(sed -n 's/^lab: level 1 starts; its files: //p' "$folder/$name.log")
    cp "$run/bochs.err" "$folder/$name.err"
}
# Microseconds.
user_space_at() { sed -n 's/^[0-9]*,[0-9]*,\([0-9]*\),.*lab: init$/\1/p' "$folder/$1/kernel.txt"; }
all_found() { ! grep '^lab/bochs: ' "$folder/$1.err"; }
same_time() { # NAME NAME: but for what the clock and chance put in: a part in 200
    local one other
    one=$(user_space_at "$1") other=$(user_space_at "$2")
    echo "# user space is reached at $one and at $other us"
    [ $((one)) -gt 0 ] && [ $(((one - other) * 200)) -lt "$one" ] && [ $(((other - one) * 200)) -lt "$one" ]
}

echo 'true' >"$folder/nothing.job"
check boots run quick "$folder/nothing.job"
check finds_all all_found quick
QUICK_BOCHS_CPUS='' check boots_as_debian_made_it run plain "$folder/nothing.job"
check same_machine same_time quick plain
check boots_with_two_cpus run two --cpus 2 --ips 20000000 "$folder/nothing.job"
check finds_all_with_two_cpus all_found two

# A process has 1 MiB of memory filled and waits when the state is kept; it goes on with them, at the
# same emulated time, twice.
cat >"$folder/before.job" <<'END'
(
    head -c 1048576 /dev/urandom >/tmp/data
    md5sum </tmp/data >/tmp/sum
    cut -d' ' -f1 /proc/uptime >/tmp/kept_at
    until [ -e /tmp/go ]; do usleep 1000; done
    md5sum </tmp/data >/tmp/sum_after
    touch /tmp/done
) >/dev/null 2>&1 &
echo $! >/tmp/worker
wait_for 100 [ -e /tmp/kept_at ]
END
cat >"$folder/after.job" <<'END'
kill -0 "$(cat /tmp/worker)" || exit 3
touch /tmp/go
wait_for 100 [ -e /tmp/done ] || exit 4
cmp /tmp/sum /tmp/sum_after || exit 5
cat /tmp/kept_at /tmp/sum >"$OUT/before"
cut -d' ' -f1 /proc/uptime >"$OUT/now"
head -c 16 /dev/urandom | od -An -tx1 >"$OUT/random"
END
check goes_on run first --after "$folder/before.job" "$folder/after.job"
check goes_on_again run second --after "$folder/before.job" "$folder/after.job"
check finds_all_from_a_state all_found second
check from_the_same_state cmp "$folder/first/before" "$folder/second/before"
differs() { [ -s "$folder/first/$1" ] && ! cmp -s "$folder/first/$1" "$folder/second/$1"; }
check random_numbers_differ differs random
soon() { # the clock has not jumped: less than 20 s
    awk 'NR == 1 { kept = $1 } FNR == 1 && NR > 1 { now = $1 } END { exit !(now >= kept && now < kept + 20) }' \
        "$folder/$1/before" "$folder/$1/now"
}
check clock_goes_on soon first
echo 'exit 7' >"$folder/fails.job"
fails() {
    ! run third --after "$folder/fails.job" "$folder/after.job" &&
        grep -q 'the job that prepares the machine failed: job 7' "$folder/third.log"
}
check failed_preparation_is_told fails
exit $failed
