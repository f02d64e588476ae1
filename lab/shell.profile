# SPDX-License-Identifier: GPL-2.0-or-later
# Read by the shell that lab/shell gives at level 1.
# shellcheck shell=sh
cat <<'END'

This is level 1 of the lab: a host with KVM, its EPT views, QEMU and shadowmon.
  start-guest              starts the stock guest, prints the pid of its VMM
  guestctl wait            returns when the guest is up (about a minute); then: guestctl run 'ps'
  shadowmon trace --vm $(pidof qemu-system-x86_64) --output /tmp/events
  shadowmon doctor         what this host has and lacks
  exit                     ends the machine; what is in $OUT comes home

END
PS1='level1:\w# '
