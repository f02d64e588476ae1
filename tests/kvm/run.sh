#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Runs the KVM tests in the lab: run.sh [NAME...], all of them by default. The
# programs are taken from $KVM_TESTS (default: build/dev/tests/kvm); what
# $LAB_RUN_ARGS holds goes to lab/run ("--checking" for the lockdep kernel).
set -eu
repo=$(cd "$(dirname "$0")/../.." && pwd)
programs=${KVM_TESTS:-$repo/build/dev/tests/kvm}

if [ $# -eq 0 ]; then
    for file in "$programs"/kvm_*; do
        case $file in *.*) continue ;; esac
        set -- "$@" "${file##*/kvm_}"
    done
fi
# What counts instructions needs a machine with one CPU; the others get two.
files='' files_one_cpu=''
for name; do
    case $name in
    gate_interrupted | gate_descheduled) files_one_cpu="$files_one_cpu $programs/kvm_$name" ;;
    *) files="$files $programs/kvm_$name" ;;
    esac
done
status=0
# shellcheck disable=SC2086
[ -z "$files" ] ||
    "$repo/lab/run" --cpus 2 ${LAB_RUN_ARGS:-} "$repo/tests/kvm/job.sh" $files || status=$?
# shellcheck disable=SC2086
[ -z "$files_one_cpu" ] ||
    "$repo/lab/run" ${LAB_RUN_ARGS:-} "$repo/tests/kvm/job.sh" $files_one_cpu || status=$?
exit $status
