#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# usage: truth start [irq] | truth stop DIR    (in the watched guest)
#        truth functions FUNCTION... | truth functions-stop DIR
#
# The guest kernel's own record of system calls and process switches, from its tracefs: every
# event with arguments and return values, and the same counted by hist triggers; with irq, of
# interrupts of devices and of the system as well. Tracing
# makes the kernel take its slow path at system-call entry and exit; the monitor's hooks sit
# before the fork of the two paths and see no difference.
set -eu
cd /sys/kernel/tracing
events="raw_syscalls/sys_enter raw_syscalls/sys_exit sched/sched_switch"
irq_events="irq/irq_handler_entry irq/irq_handler_exit $(cd events && echo irq_vectors/*_entry irq_vectors/*_exit)"

start() { # [irq]
	[ "${1:-}" != irq ] || events="$events $irq_events"
	echo 0 >tracing_on
	echo 8192 >buffer_size_kb # for each CPU
	echo x86-tsc >trace_clock
	echo nooverwrite >trace_options
	echo 4096 >saved_cmdlines_size
	echo >trace
	echo 'hist:keys=common_pid,id:size=16384' >events/raw_syscalls/sys_enter/trigger
	echo 'hist:keys=prev_pid,next_pid:size=16384' >events/sched/sched_switch/trigger
	for event in $events; do
		echo 1 >"events/$event/enable"
	done
	echo 1 >tracing_on
}

stop() {
	echo 0 >tracing_on
	mkdir -p "$1"
	cat trace >"$1/trace"
	for cpu in per_cpu/cpu*; do
		{ echo "${cpu##*/}"; cat "$cpu/stats"; } >>"$1/stats"
	done
	cat events/raw_syscalls/sys_enter/hist >"$1/hist-syscalls"
	cat events/sched/sched_switch/hist >"$1/hist-switches"
	for event in $events $irq_events; do
		echo 0 >"events/$event/enable"
	done
	echo '!hist:keys=common_pid,id:size=16384' >events/raw_syscalls/sys_enter/trigger
	echo '!hist:keys=prev_pid,next_pid:size=16384' >events/sched/sched_switch/trigger
	echo >trace
	echo 1 >buffer_size_kb
}

# Every call of some functions, by the kernel's function tracer.
functions() {
	echo 0 >tracing_on
	echo 8192 >buffer_size_kb
	echo x86-tsc >trace_clock
	echo nooverwrite >trace_options
	echo 4096 >saved_cmdlines_size
	echo "$@" >set_ftrace_filter
	echo function >current_tracer
	echo >trace
	echo 1 >tracing_on
}

functions_stop() {
	echo 0 >tracing_on
	mkdir -p "$1"
	cat trace >"$1/functions"
	cat per_cpu/cpu*/stats >"$1/functions-stats"
	echo nop >current_tracer
	echo >set_ftrace_filter
	echo >trace
	echo 1 >buffer_size_kb
}

case ${1:-} in
start) start "${2:-}" ;;
stop) stop "$2" ;;
functions)
	shift
	functions "$@"
	;;
functions-stop) functions_stop "$2" ;;
*) echo "usage: truth start [irq] | stop DIR | functions NAME... | functions-stop DIR" >&2 && exit 2 ;;
esac
