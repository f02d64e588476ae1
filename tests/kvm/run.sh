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
files=
for name; do
    files="$files $programs/kvm_$name"
done
# shellcheck disable=SC2086
exec "$repo/lab/run" --cpus 2 ${LAB_RUN_ARGS:-} "$repo/tests/kvm/job.sh" $files
