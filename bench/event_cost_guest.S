/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the guest runs while event_cost measures. Each function: rdi, rsi = arguments of the hooked
 * "function" (left alone up to the site), rdx = u64 results[], rcx = how many. A result is the
 * TSC after what is measured less the TSC before it. Position-independent, copied to the guest.
 */
#include "tests/kvm/lib/layout.h"

.macro start name
.global bench_\name
.type bench_\name, @function
.balign 64
bench_\name:
    push    %rbx
    push    %r12
    push    %r13
    mov     %rdx, %r13
    mov     %rcx, %r12
.Lagain_\name:
    rdtsc
    shl     $32, %rdx
    or      %rdx, %rax
    mov     %rax, %r10
    xor     %eax, %eax
.endm

.macro finish name
    rdtsc
    shl     $32, %rdx
    or      %rdx, %rax
    sub     %r10, %rax
    mov     %rax, (%r13)
    add     $8, %r13
    dec     %r12
    jnz     .Lagain_\name
    pop     %r13
    pop     %r12
    pop     %rbx
    ret
.endm

.section .rodata.bench, "a", @progbits
.balign 4096
.global bench_text_begin
bench_text_begin:

start nothing
finish nothing

/* The instruction at the site is what a hook displaces. */
start hooked
.global bench_site
bench_site:
    mov     %rdi, %r9
.global bench_site_end
bench_site_end:
finish hooked

/* The same instruction where no hook is put. */
start unhooked
    mov     %rdi, %r9
finish unhooked

/* The NOP at the start of a function that the kernel's tracer may patch: what a CALL replaces. */
start called
.global bench_call_site
bench_call_site:
    .byte   0x0f, 0x1f, 0x44, 0x00, 0x00
.global bench_call_site_end
bench_call_site_end:
finish called

start uncalled
    .byte   0x0f, 0x1f, 0x44, 0x00, 0x00
finish uncalled

start kernel_exit
    cpuid
finish kernel_exit

start user_exit
    out     %al, $TG_NOTIFY_PORT
finish user_exit

.global bench_text_end
bench_text_end:

.section .note.GNU-stack, "", @progbits
