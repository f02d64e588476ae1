# SPDX-License-Identifier: GPL-2.0-or-later
# What exact.job does besides when the guest cooperates: a module there reserves the range and
# offers it. Sourced after job.sh.
# shellcheck shell=sh disable=SC2154 # version and log are job.sh's

module=/lib/modules/shadowmon_guest.ko
offered=/sys/module/shadowmon_guest/parameters/offered

entry_is_empty() { [ "$(($(compartment_entry)))" -eq 0 ]; }
# Not present to the CPU, bits 9 and 11 are abi/guest_offer.h's.
entry_is_reserved() { [ "$(($(compartment_entry) & 0xfff))" -eq $((0xa00)) ]; }
entry_is_present() { [ "$(($(compartment_entry) & 1))" -eq 1 ]; }
guest_refuses() { ! guest "$1"; }

refused() { # NAME PATTERN ARGUMENTS...: an attach that must fail, saying PATTERN
	refused_name=$1 refused_pattern=$2
	shift 2
	trace "$refused_name" --output /dev/null "$@" && detach
	monitor_ends
	check "${refused_name}_fails" [ "$code" -eq 1 ]
	check "${refused_name}_says_why" said "$refused_pattern"
}

before_cooperation() {
	refused without_a_module 'the guest offers no address range: load shadowmon_guest' --place guest
	check module_loads guest "insmod $module"
	check module_has_reserved entry_is_reserved
	check module_cannot_be_unloaded guest_refuses 'rmmod shadowmon_guest 2>&1'
	check module_withdraws guest "echo 0 >$offered"
	check module_has_emptied_the_entry entry_is_empty
	check module_unloads guest 'rmmod shadowmon_guest'
	check module_loads_quietly guest "insmod $module offered=0"
	check module_has_reserved_nothing entry_is_empty
	refused without_an_offer 'the guest offers no address range' --place guest
	check module_offers guest "echo 1 >$offered"
	check module_has_reserved_again entry_is_reserved
	refused host_in_a_reserved_range 'is reserved by a module in the guest' --place host
}

cooperates_while_watched() {
	check offer_was_used said 'reserved and offered by the guest'
	check entry_is_the_monitors entry_is_present
	check module_withdraws_not_while_watched guest_refuses "echo 0 >$offered"
	check module_stays_while_watched guest_refuses 'rmmod shadowmon_guest 2>&1'
	check entry_is_still_the_monitors entry_is_present
}

# The owner of the guest forces the module out, and the monitor dies: both leave what is right.
cooperates_to_the_worst() {
	trace worst_case --place guest --output /dev/null || give_up worst_case_attach
	check module_is_forced_out guest 'rmmod -f shadowmon_guest'
	check entry_is_the_monitors_without_the_module entry_is_present
	check module_loads_not_while_watched guest_refuses "insmod $module 2>&1"
	check guest_well_without_its_module guest_is_well
	kill -KILL "$monitor"
	monitor_ends
	check reservation_is_back_after_a_death wait_until 100 entry_is_reserved
	check module_loads_over_its_reservation guest "insmod $module"
}

after_cooperation() {
	check reservation_is_back entry_is_reserved
	cooperates_to_the_worst
	check module_withdraws_after_detach guest "echo 0 >$offered && rmmod shadowmon_guest"
	check entry_is_empty_at_the_end entry_is_empty
	check guest_well_without_the_module guest_is_well
}
