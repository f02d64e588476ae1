#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# KVM as Linux brings it, without our extension, for level 1's kernel: prints the directory with
# kvm.ko and kvm-intel.ko, built from the untouched sources against lab/kernel.sh's tree. Of their
# headers only those that the series changes stand in front of the tree's own.
# shellcheck source=lab/lib.sh
. "$(dirname "$(readlink -f "$0")")/../../lab/lib.sh"

build() {
    local tree=$1 out=$2 lock file
    mkdir "$out/src"
    tar -x -f "$tree/.pristine.tar" -C "$out/src" \
        arch/x86/kvm virt/kvm arch/x86/include/asm
    sed -n 's,^+++ b/\(arch/x86/include/.*\),\1,p' "$repo"/kvm/patches/*.patch | sort -u >"$out/changed"
    (cd "$out/src" && find arch/x86/include -type f | grep -vxF -f "$out/changed" | xargs rm -f)
    # What in-tree paths provide in KVM's own Makefile, for a directory outside the tree.
    sed -i -e 's,\$(srctree)/virt/kvm/Makefile.kvm,$(src)/../../../virt/kvm/Makefile.kvm,' \
        -e 's,-I \$(srctree)/arch/x86/kvm,-I $(src) -I $(src)/../../../virt/kvm,' \
        -e '1a LINUXINCLUDE := -I$(src)/../include $(LINUXINCLUDE)' "$out/src/arch/x86/kvm/Makefile"
    exec {lock}>"$tree/.lock"
    flock "$lock"
    make -C "$tree" M="$out/src/arch/x86/kvm" -j"$(nproc)" modules
    exec {lock}>&-
    for file in "$out"/src/arch/x86/kvm/kvm{,-intel}.ko; do
        objcopy --strip-debug "$file" "$out/$(basename "$file")"
    done
    rm -r "$out/src" "$out/changed"
}

tree=$("$repo/lab/kernel.sh" --tree)
cached stock-kvm "$(key "$0" -- "$tree")" "building KVM without the extension" build "$tree"
