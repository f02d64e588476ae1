#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Runs the KVM tests that lie in a directory (default: the current one), or those named:
#   job.sh [DIRECTORY [NAME...]]
# Meant for level 1 of the lab (busybox is enough), with the modules loaded. One
# line per test: "ok NAME (SECONDS)", "not ok NAME" or "skip NAME reason"; what a failed test
# said and what the kernel logged follow it, indented. A warning, bug or lock
# report in the kernel log fails the test after which it appears. On a kernel with lockdep there is
# one test more, "lockdep": it fails if lockdep has turned itself off, or is not there although
# $KVM_TESTS_NEED_LOCKDEP is set. The last line is
# "kvm-tests: N passed, N failed, N skipped"; the exit status is 0 if none failed.
set -u
directory=${1:-.}
[ $# -gt 0 ] && shift
tests=${*:-}
if [ -z "$tests" ]; then
    for file in "$directory"/kvm_*; do
        tests="$tests ${file##*/kvm_}"
    done
fi

out=${TMPDIR:-/tmp}/kvm-test.$$
trap 'rm -f "$out" "$out.log"' EXIT
splat='WARNING:|BUG:|BUG_ON|Oops|general protection fault|kernel NULL|rcu.*stall|possible (circular|recursive)|inconsistent lock|suspicious RCU|sleeping function|scheduling while atomic|Call Trace|lockdep|soft lockup|hung task|refcount_t|list_(add|del) corruption'

passed=0 failed=0 skipped=0
dmesg -c >/dev/null 2>&1
for name in $tests; do
    begin=$(cut -d. -f1 /proc/uptime)
    "$directory/kvm_$name" >"$out" 2>&1
    status=$?
    dmesg -c >"$out.log" 2>/dev/null
    if grep -qE "$splat" "$out.log"; then
        echo "# the kernel log has a report" >>"$out"
        [ $status -eq 0 ] && status=1
    fi
    case $status in
    0)
        echo "ok $name ($(($(cut -d. -f1 /proc/uptime) - begin)) s)"
        passed=$((passed + 1))
        ;;
    4)
        reason=$(grep '^# SKIP ' "$out" | tail -n 1)
        echo "skip $name ${reason#\# SKIP }"
        skipped=$((skipped + 1))
        ;;
    *)
        echo "not ok $name"
        failed=$((failed + 1))
        sed 's/^/    /' "$out"
        tail -n 120 "$out.log" | sed 's/^/    kernel: /'
        ;;
    esac
    [ -n "${KVM_TESTS_VERBOSE:-}" ] && [ $status -eq 0 ] && sed 's/^/    /' "$out"
done
# What comes after its first report, or after a table of its is full, goes unchecked.
if [ -e /proc/lockdep_stats ] || [ -n "${KVM_TESTS_NEED_LOCKDEP:-}" ]; then
    if grep -qE '^ *debug_locks: +1$' /proc/lockdep_stats; then
        echo "ok lockdep (on to the end)"
        passed=$((passed + 1))
    else
        echo "not ok lockdep"
        echo "    it is off: what the tests after its report did with locks is not proven"
        failed=$((failed + 1))
    fi
fi
echo "kvm-tests: $passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
