#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Builds KVM with EPT views out of tree, against a distribution kernel's headers:
#
#     kvm/dkms/build.sh KERNELRELEASE OUTDIR
#
# leaves kvm.ko, kvm-intel.ko and kvm-amd.ko in OUTDIR. The sources are those of the package
# linux-source-6.12, which must be of the same upstream release as the headers.
# kvm-amd.ko is KVM's own, rebuilt because the kernel's would not load beside this kvm.ko;
# irqbypass.ko stays the kernel's. SM_KERNEL_BUILD names the headers' folder and SM_LINUX_SOURCE the
# archive of the sources if they are not where the packages put them.
set -euo pipefail

die() {
    echo "kvm/dkms/build.sh: $*" >&2
    exit 1
}

[ $# -eq 2 ] || die "usage: build.sh KERNELRELEASE OUTDIR"
release=$1
here=$(cd "$(dirname "$0")" && pwd)
headers=${SM_KERNEL_BUILD:-/lib/modules/$release/build}
source=${SM_LINUX_SOURCE:-/usr/src/linux-source-6.12.tar.xz}

[ -d "$headers" ] || die "no headers of $release; install linux-headers-$release"
[ -e "$source" ] || die "no $source; install linux-source-6.12"
mkdir -p "$2"
out=$(cd "$2" && pwd)
tree=$out/tree
rm -rf "$tree"
mkdir "$tree"

echo "unpacking KVM's sources from $source"
tar -xf "$source" -C "$tree" --strip-components=1 --wildcards --no-wildcards-match-slash \
    'linux-source-*/Makefile' 'linux-source-*/arch/x86/kvm' 'linux-source-*/virt/kvm' \
    'linux-source-*/arch/x86/include/asm'

version=$(awk -F' *= *' '/^(VERSION|PATCHLEVEL|SUBLEVEL) =/ { v = v sep $2; sep = "." }
                         END { print v }' "$tree/Makefile")
case $release in
"$version" | "$version"[!0-9]*) ;;
*) die "the sources are $version, the kernel is $release; install the linux-source of its release" ;;
esac

"$here/../apply.sh" "$tree"

# Only the headers that the series changes may stand in front of the kernel's own.
keep=$(grep -h '^+++ b/arch/x86/include/' "$here"/../patches/*.patch | sed 's,^+++ b/,,' | sort -u)
(
    cd "$tree"
    find arch/x86/include -type f -print | while read -r file; do
        grep -qxF "$file" <<<"$keep" || rm "$file"
    done
)

# What in-tree paths provide in KVM's own Makefile, for a directory outside the tree.
makefile=$tree/arch/x86/kvm/Makefile
sed -i -e 's,\$(srctree)/virt/kvm/Makefile.kvm,$(src)/../../../virt/kvm/Makefile.kvm,' \
    -e 's,-I \$(srctree)/arch/x86/kvm,-I $(src) -I $(src)/../../../virt/kvm,' \
    -e '1a LINUXINCLUDE := -I$(src)/../include $(LINUXINCLUDE)\nccflags-y += -DCONFIG_KVM_VIEWS=1' \
    "$makefile"

echo "building KVM's modules for $release"
make -C "$headers" M="$tree/arch/x86/kvm" CONFIG_KVM_VIEWS=y \
    -j"$(nproc)" modules >"$out/build.log" 2>&1 || {
    tail -n 30 "$out/build.log" >&2
    die "the build failed; all of it is in $out/build.log"
}
cp "$tree"/arch/x86/kvm/kvm.ko "$tree"/arch/x86/kvm/kvm-intel.ko "$tree"/arch/x86/kvm/kvm-amd.ko \
    "$out/"
echo "built $out/kvm.ko, kvm-intel.ko, kvm-amd.ko"
