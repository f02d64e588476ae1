#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Puts EPT views into an unpacked Linux 6.12 tree (at least its arch/x86/kvm and
# arch/x86/include/asm):
#
#     kvm/apply.sh TREE
#
# applies the series and copies KVM's new files. A tree that has the series
# already only gets the files again.
set -euo pipefail

die() {
    echo "kvm/apply.sh: $*" >&2
    exit 1
}

[ $# -eq 1 ] || die "usage: apply.sh TREE"
here=$(cd "$(dirname "$0")" && pwd)
[ -d "$1" ] || die "$1 is no directory"
tree=$(cd "$1" && pwd)
[ -f "$tree/arch/x86/kvm/x86.c" ] || die "$tree has no arch/x86/kvm/x86.c"

for patch in "$here"/patches/*.patch; do
    name=$(basename "$patch")
    if patch -d "$tree" -p1 -s -f -R --dry-run <"$patch" >/dev/null 2>&1; then
        continue
    fi
    patch -d "$tree" -p1 -s -f -F0 --dry-run <"$patch" ||
        die "$name does not apply to $tree; is it an untouched 6.12?"
    patch -d "$tree" -p1 -s -f -F0 --no-backup-if-mismatch <"$patch"
done

# A file keeps its time stamp if its contents are the same: builds stay short.
copy() {
    cmp -s "$1" "$2" || cp "$1" "$2"
}

mkdir -p "$tree/arch/x86/kvm/views"
for file in "$here"/views/*.[ch]; do
    copy "$file" "$tree/arch/x86/kvm/views/$(basename "$file")"
done
for file in "$here"/vmx/*.[ch]; do
    copy "$file" "$tree/arch/x86/kvm/vmx/$(basename "$file")"
done
for file in kvm_views.h guest_offer.h; do
    copy "$here/../abi/$file" "$tree/arch/x86/kvm/views/$file"
done
