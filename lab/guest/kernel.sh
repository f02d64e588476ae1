#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# usage: lab/guest/kernel.sh VERSION      (6.12 or 6.1)
#
# Debian's stock cloud kernel for guests: the newest 6.12 that the mirror has, and the 6.1 that
# Debian 12 installs. Prints the folder PACKAGE_VERSION with the unpacked package, which comes with
# `apt-get download` and is never installed. It is kept in the cache.
set -euo pipefail
version=$1
cache=${XDG_CACHE_HOME:-$HOME/.cache}/shadowmonitor/guest
mkdir -p "$cache"

newest_package() {
	case $version in
	6.12) apt-cache pkgnames linux-image-6.12. |
		grep -E '^linux-image-6\.12\.[0-9]+\+deb12-cloud-amd64$' | sort -V | tail -n 1 ;;
	6.1) apt-cache depends linux-image-cloud-amd64 |
		sed -n 's/.*Depends: \(linux-image-6\.1\..*-cloud-amd64\)$/\1/p' | head -n 1 ;;
	esac
}

# Package and version. What apt has said holds until its lists change: to ask takes it a second, and
# every run of the lab asks.
newest() {
	local answer=$cache/newest-$version package release
	if [ ! -s "$answer" ] ||
		[ -n "$(find /var/lib/apt/lists /etc/apt -newer "$answer" -print -quit)" ]; then
		package=$(newest_package)
		if [ -z "$package" ]; then
			echo "guest: no $version cloud kernel in apt's lists; run apt-get update" >&2
			return 1
		fi
		release=$(apt-cache show --no-all-versions "$package" | sed -n 's/^Version: //p')
		echo "$package $release" >"$answer.$$"
		mv "$answer.$$" "$answer"
	fi
	cat "$answer"
}

read -r package release < <(newest) || exit 1
dir=$cache/${package}_$release
if [ ! -e "$dir/complete" ]; then
	# Another one may be fetching it.
	exec 9>"$cache/.lock-kernel-$version"
	flock 9
fi
if [ ! -e "$dir/complete" ]; then
	echo "guest: fetching $package $release" >&2
	work=$(mktemp -d "$cache/fetch.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	(cd "$work" && apt-get -qq -o APT::Sandbox::User=root download "$package=$release") >&2
	rm -rf "$dir"
	mkdir "$dir"
	dpkg-deb -x "$work"/*.deb "$dir"
	touch "$dir/complete"
fi
echo "$dir"
