#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# usage: lab/guest/dkms.sh IMAGE OUTDIR      (a folder made by lab/guest/make.sh)
#
# Builds the guest's module as somebody does who installs it there by DKMS, with guest/dkms.conf as
# it is: `dkms build`, in folders of its own, against Debian's headers of exactly that guest's
# kernel. Leaves shadowmon_guest.ko in OUTDIR.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
root=$(readlink -f "$here/../..")
release=$(cat "$1/release")
package=$(basename "$1") # of the kernel: NAME_VERSION
out=$(readlink -f "$2")
headers=${package%%_*}
headers=$("$root/lab/headers.sh" "${headers/#linux-image-/linux-headers-}" "${package#*_}")

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
name=shadowmonitor-guest
version=$(sed -n 's/^PACKAGE_VERSION="\(.*\)"$/\1/p' "$root/guest/dkms.conf")
source=$work/src/$name-$version
mkdir -p "$source" "$work/tree"
# As guest/dkms.conf tells its reader.
cp -r "$root/guest" "$root/abi" "$source/"
cp "$root/guest/dkms.conf" "$source/"
dkms build "$name/$version" -k "$release" --sourcetree "$work/src" --dkmstree "$work/tree" \
    --kernelsourcedir "$headers" || {
    find "$work/tree" -name make.log -exec cat {} + >&2
    exit 1
}
module=$(find "$work/tree/$name/$version/$release" -name 'shadowmon_guest.ko*')
case $module in
*.ko) cp "$module" "$out/" ;;
*.ko.xz) xz -dc "$module" >"$out/shadowmon_guest.ko" ;;
*) echo "lab/guest/dkms.sh: no module was made: $module" >&2 && exit 1 ;;
esac
built_for=$(modinfo -F vermagic "$out/shadowmon_guest.ko")
[ "${built_for%% *}" = "$release" ] || {
    echo "lab/guest/dkms.sh: the module is for $built_for, not for $release" >&2
    exit 1
}
