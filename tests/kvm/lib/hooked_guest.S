/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/kvm/lib/hooked_guest.h"
#include "tests/kvm/lib/layout.h"

.macro hooked_function name
.global \name
.type \name, @function
.balign 64
\name:
.endm

.macro each_register operation, place
    \operation %rax, \place
    \operation %rcx, \place + 8
    \operation %rdx, \place + 16
    \operation %rbx, \place + 24
    \operation %rbp, \place + 32
    \operation %rsi, \place + 40
    \operation %rdi, \place + 48
    \operation %r8, \place + 56
    \operation %r9, \place + 64
    \operation %r10, \place + 72
    \operation %r11, \place + 80
    \operation %r12, \place + 88
    \operation %r13, \place + 96
    \operation %r14, \place + 104
    \operation %r15, \place + 112
.endm

.macro load register, place
    mov     %gs:\place, \register
.endm

.macro keep register, place
    mov     \register, %gs:\place
.endm

/*
 * Starts the timer, spins a little, loads flags and registers, comes to the hook, and keeps what it finds
 * behind it. An interrupt that is still due comes at the end.
 */
.macro passage name, displaced:vararg
hooked_function \name
    push    %rbx
    push    %rbp
    push    %r12
    push    %r13
    push    %r14
    push    %r15
    pushfq
    cmpq    $0, %gs:HG_DELTA
    je      2f
    rdtsc
    shl     $32, %rdx
    or      %rdx, %rax
    add     %gs:HG_DELTA, %rax
    mov     %rax, %rdx
    shr     $32, %rdx
    mov     $0x6e0, %ecx /* TSC deadline */
    wrmsr
2:  cmpq    $0, %gs:HG_ODD
    je      3f
    nop
3:  mov     %gs:HG_SPIN, %rcx
    test    %rcx, %rcx
    jz      5f
4:  dec     %rcx
    jnz     4b
5:  rdtsc
    shl     $32, %rdx
    or      %rdx, %rax
    mov     %rax, %gs:HG_TICKS
    pushq   %gs:HG_IN + 8 * (HG_REGS - 1)
    popfq
    each_register load, HG_IN
.global \name\()_sled
\name\()_sled:
    .fill   HG_SLED, 1, 0x90
.global \name\()_site
\name\()_site:
    \displaced
.global \name\()_end
\name\()_end:
    .fill   HG_SLED, 1, 0x90
    each_register keep, HG_OUT
    pushfq
    popq    %gs:HG_OUT + 8 * (HG_REGS - 1)
    push    $2
    popfq
    rdtsc
    shl     $32, %rdx
    or      %rdx, %rax
    sub     %gs:HG_TICKS, %rax
    mov     %rax, %gs:HG_TICKS
    sti
    nop
    nop
    popfq
    pop     %r15
    pop     %r14
    pop     %r13
    pop     %r12
    pop     %rbp
    pop     %rbx
    ret
.endm

.section .rodata.hooked, "a", @progbits
.balign 4096
.global hooked_text_begin
hooked_text_begin:

/* Hooked at \name_site. What an INT displaces changes neither flags nor what the handler reads. */
    passage hooked_by_int, lea 1(%rbx), %rbx
    passage hooked_by_call, .byte 0x0f, 0x1f, 0x44, 0x00, 0x00

/* The same without hooks, for comparison. */
    passage unhooked_int, lea 1(%rbx), %rbx
    passage unhooked_call, .byte 0x0f, 0x1f, 0x44, 0x00, 0x00

/* rdi = first argument of the hook, rsi = passes, each by a hook; the pass is in r8. */
hooked_function hooked_loop
    xor     %r8d, %r8d
1:
.global hooked_loop_site
hooked_loop_site:
    lea     1(%r8), %r8
.global hooked_loop_end
hooked_loop_end:
    cmp     %rsi, %r8
    jb      1b
    mov     %r8, %rax
    ret

/* Handler of #DB: notes where, and goes on. */
hooked_function hooked_debug_entry
    push    %rax
    push    %rcx
    mov     $1, %ecx
    xadd    %rcx, %gs:HG_STEPS
    cmp     $HG_STEP_LOG_SIZE, %rcx
    jae     1f
    mov     16(%rsp), %rax
    mov     %rax, %gs:HG_STEP_LOG(, %rcx, 8)
1:  pop     %rcx
    pop     %rax
    iretq

.global hooked_text_end
hooked_text_end:

.section .note.GNU-stack, "", @progbits
