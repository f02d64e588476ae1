#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Installs what building, testing and the lab need, from Debian 12's own archive, and has apt's lists
# fetched, from which the lab takes kernels later. Says nothing when all of it is there. The only step
# that needs root.

. "$(dirname "$0")/lib.sh"

packages=(
    # building ShadowMonitor
    build-essential ccache cmake ninja-build pkg-config
    libzydis-dev libbpf-dev libelf-dev libcli11-dev libfmt-dev libspdlog-dev
    nlohmann-json3-dev zlib1g-dev libzstd-dev liblzma-dev liblz4-dev
    libgtest-dev libgmock-dev librapidcheck-dev libbenchmark-dev clang-format-14
    # building level 1's kernel and the KVM extension
    linux-source-6.12 bc bison flex libssl-dev xz-utils lz4 zstd patch cpio kmod pahole
    # building the guest's module
    dkms
    # the machine and what runs in it
    bochs bochs-sdl bochsbios vgabios qemu-system-x86 seabios busybox-static
    # tests
    python3 shellcheck clang-14 clang-tidy-14 libclang-rt-14-dev
)

missing() {
    # dpkg-query fails when it does not know one of them; what it does know it prints all the same.
    (dpkg-query -W -f '${Package} ${db:Status-Status}\n' "${packages[@]}" 2>/dev/null || true) |
        awk '$2 == "installed" { print $1 }' | sort -u >"$1"
    printf '%s\n' "${packages[@]}" | sort -u | comm -23 - "$1"
}

installed=$(mktemp)
remove_at_exit "$installed"
mapfile -t wanted < <(missing "$installed")
have_lists() { compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null; }
[ ${#wanted[@]} -gt 0 ] || ! have_lists || exit 0
[ "$(id -u)" -eq 0 ] ||
    die "these packages are missing, or apt's lists, and only root can get them: ${wanted[*]}"

export DEBIAN_FRONTEND=noninteractive
apt=(apt-get -q -y -o DPkg::Lock::Timeout=600 -o APT::Sandbox::User=root)
step "updating the package lists" "${apt[@]}" update
[ ${#wanted[@]} -gt 0 ] || exit 0
say "installing ${#wanted[@]} Debian packages: ${wanted[*]}"
step "installing packages" "${apt[@]}" install --no-install-recommends "${wanted[@]}"
mapfile -t wanted < <(missing "$installed")
[ ${#wanted[@]} -eq 0 ] || die "still missing after the installation: ${wanted[*]}"
