#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# usage: lab/headers.sh [PACKAGE VERSION]
#
# Debian's headers of one kernel, to build modules against: those of the linux-headers package that
# is named, else those that belong to the installed linux-source-6.12. Prints their folder, which is
# what the package would put into /usr/src/PACKAGE. They come with `apt-get download` and are
# unpacked into the cache, never installed: the packages would bring their kernel along, and the host
# would start it from then on.

. "$(dirname "$0")/lib.sh"

download() {
    apt-get -qq -o APT::Sandbox::User=root download "$1=$version" || {
        echo "$1 $version is not to be had: run apt-get update and apt-get upgrade" >&2
        return 1
    }
}

# They lie in three packages, which find each other from /usr/src and /usr/lib.
fetch() {
    local dir=$1 needs need deb
    cd "$dir"
    download "$package"
    needs=$(dpkg-deb -f ./*.deb Depends | tr ',' '\n' |
        sed -nE 's/^ *(linux-headers-[^ ]*-common|linux-kbuild-[^ ]*).*/\1/p')
    for need in $needs; do download "$need"; done
    for deb in *.deb; do dpkg-deb -x "$deb" .; done
    rm -- *.deb
    # The one path in them that counts from the root.
    sed -i 's,^include /usr/src/,include $(dir $(realpath $(lastword $(MAKEFILE_LIST))))../,' \
        "usr/src/$package/Makefile"
}

if [ $# -eq 0 ]; then
    version=$(dpkg-query -W -f '${Version}' linux-source-6.12)
    named="^linux-headers-${version%%-*}[^-]*-amd64\$"
    mkdir -p "$cache/headers"
    package=$(find "$cache/headers" -name "*_$version" -printf '%f\n' | sed 's/_.*//' | grep -E "$named" || true)
    # What apt says takes a second.
    [ -n "$package" ] || package=$(apt-cache pkgnames linux-headers- | grep -E "$named" || true)
    [ -n "$package" ] ||
        die "no linux-headers of ${version%%-*} in apt's lists: run apt-get update and apt-get upgrade"
else
    package=$1
    version=$2
fi
dir=$(cached headers "${package}_$version" "fetching $package $version" fetch)
printf '%s\n' "$dir/usr/src/$package"
