#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Runs the KVM tests in the lab:
#   run.sh [--checking | --plain] [NAME...]
# By default all of them, each on the kernel where it is worth most: those that count instructions
# or stop a vCPU at each of them on the plain one, all others on the one with lockdep, and what
# tries random moments on both. --checking and --plain run only those of that kernel or, if they
# are named, all of them there ("run.sh --checking all").
#
# The programs are taken from $KVM_TESTS (default: build/dev/tests/kvm); what $LAB_RUN_ARGS holds
# goes to lab/run. With KVM_TESTS_VERBOSE=1 tests that pass tell what they say, too.
set -eu
repo=$(cd "$(dirname "$0")/../.." && pwd)
programs=${KVM_TESTS:-$repo/build/dev/tests/kvm}
[ -z "${KVM_TESTS_VERBOSE:-}" ] || LAB_RUN_ARGS="${LAB_RUN_ARGS:-} --append KVM_TESTS_VERBOSE=1"

only=
case ${1:-} in
--plain | --checking)
    only=${1#--}
    shift
    ;;
esac
all_there=$#
if [ $# -eq 0 ] || [ "$*" = all ]; then
    set --
    for file in "$programs"/kvm_*; do
        case $file in *.*) continue ;; esac
        set -- "$@" "${file##*/kvm_}"
    done
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# `run KERNEL CPUS NAME...`
status=0
run() {
    # Short grace periods: KVM waits for one whenever a vCPU has changed its thread, and what is
    # freed too early is gone sooner.
    # Two CPUs that poll or wait for each other do so for a time, in instructions as short as can be.
    ips=
    [ "$2" -eq 1 ] || ips='--ips 20000000'
    kernel=$1 arguments="--no-qemu --cpus $2 $ips --append rcupdate.rcu_expedited=1 ${LAB_RUN_ARGS:-}" files=
    shift 2
    [ $# -gt 0 ] || return 0
    for name; do
        # Without what debuggers want: to unpack it takes the machine longer than some tests.
        strip -o "$folder/kvm_$name" "$programs/kvm_$name"
        files="$files $folder/kvm_$name"
    done
    # This kernel takes long to boot.
    [ "$kernel" = plain ] ||
        arguments="$arguments --checking --booted --append KVM_TESTS_NEED_LOCKDEP=1"
    # shellcheck disable=SC2086
    "$repo/lab/run" $arguments "$repo/tests/kvm/job.sh" $files || status=$?
}

one_cpu='' two_cpus='' fast=''
for name; do
    case $name in
    # They need a machine with one CPU, on which alone an exit can be put at an instruction.
    gate_interrupted | gate_descheduled | gate_roundtrip) one_cpu="$one_cpu $name" ;;
    # Lockdep knows all in a few rounds; the many are for the kernel on which a round is short.
    owner_killed) two_cpus="$two_cpus $name" fast="$fast $name" ;;
    *) two_cpus="$two_cpus $name" ;;
    esac
done
# shellcheck disable=SC2086
{
    if [ -n "$only" ] && [ "$all_there" -gt 0 ]; then
        run "$only" 2 $two_cpus
        run "$only" 1 $one_cpu
    else
        [ "$only" = plain ] || run checking 2 $two_cpus
        [ "$only" = checking ] || run plain 2 $fast
        [ "$only" = checking ] || run plain 1 $one_cpu
    fi
}
exit $status
