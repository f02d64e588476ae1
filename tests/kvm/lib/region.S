/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Code in pages of the hidden region. The blob is copied to the region's gate
 * page, which the guest sees at TG_REGION_GVA, and addresses other pages of the
 * region by absolute address. Nothing here pushes in the shadow view unless it
 * has moved to the region's own stack.
 *
 * Everything between gate_shadow_begin and gate_shadow_end is meant to run in
 * the gate only; no interrupt may ever be delivered in the shadow view.
 */
#include "layout.h"

#define PAGE_GVA(page) (TG_REGION_GVA + (page) * TG_PAGE_SIZE)
#define DATA(field) PAGE_GVA(TG_PAGE_DATA) + (field)

.macro region_function name
.global \name
.type \name, @function
.balign 16
\name:
.endm

.macro vmfunc
.byte 0x0f, 0x01, 0xd4
.endm

.macro to_shadow /* clobbers rax, rcx */
    xor %eax, %eax
    mov $1, %ecx
    vmfunc
.endm

.macro to_main /* clobbers rax, rcx */
    xor %eax, %eax
    xor %ecx, %ecx
    vmfunc
.endm

.section .rodata.region, "a", @progbits
.balign 4096
.global region_text_begin
region_text_begin:

/* The first instruction of the page leads back to the main view. */
region_function gate_leave
    to_main
    ret

/* rdi = number of round trips. */
region_function gate_round_trips
    test %rdi, %rdi
    jz .Ltrips_done
.Ltrips_again:
    to_shadow
    to_main
    dec %rdi
    jnz .Ltrips_again
.Ltrips_done:
    ret

/* The same number of instructions without VMFUNC. */
region_function gate_no_trips
    test %rdi, %rdi
    jz .Lno_trips_done
.Lno_trips_again:
    xor %eax, %eax
    mov $1, %ecx
    nopw 0(%rax, %rax)
    xor %eax, %eax
    xor %ecx, %ecx
    nopw 0(%rax, %rax)
    dec %rdi
    jnz .Lno_trips_again
.Lno_trips_done:
    ret

/* rdi = address; returns its u64 as the shadow view has it. */
region_function gate_read
    to_shadow
    mov (%rdi), %rdx
    to_main
    mov %rdx, %rax
    ret

/* rdi = address, rsi = value; written in the shadow view. */
region_function gate_write
    to_shadow
    mov %rsi, (%rdi)
    to_main
    ret

/*
 * rdi = { u64 stop, passes, errors }, rsi = first page, rdx = number of pages:
 * as guest_check_pages, but all pages are read in the shadow view, one gate pass
 * for each round.
 */
region_function gate_check_pages
    xor %r11d, %r11d
.Lgate_pass:
    cmpq $0, (%rdi)
    jne .Lgate_done
    mov $0x5a5a, %r9d
    mov %rsi, %r8
    xor %r10d, %r10d
    to_shadow
.Lgate_page:
    mov %r10, %rax
    xor %r9, %rax
    cmp (%r8), %rax
    je .Lgate_good
    inc %r11
.Lgate_good:
    add $TG_PAGE_SIZE, %r8
    inc %r10
    cmp %rdx, %r10
    jb .Lgate_page
    to_main
    incq 8(%rdi)
    mov %r11, 16(%rdi)
    jmp .Lgate_pass
.Lgate_done:
    mov 8(%rdi), %rax
    ret

/* Spins in the shadow view until the owner sets TG_DATA_RELEASE. */
region_function gate_spin
    mov $DATA(0), %rdx
    to_shadow
    lock incq TG_DATA_INSIDE(%rdx)
.Lgate_spinning:
    pause
    cmpq $0, TG_DATA_RELEASE(%rdx)
    je .Lgate_spinning
    to_main
    ret

/*
 * As gate_spin, but with labels: nothing may be injected from gate_spin_sti_inside
 * on and before gate_spin_sti_back.
 */
region_function gate_spin_sti
    mov $DATA(0), %rdx
    to_shadow
.global gate_spin_sti_inside
gate_spin_sti_inside:
    sti
    lock incq TG_DATA_INSIDE(%rdx)
.Lgate_sti_spinning:
    pause
    cmpq $0, TG_DATA_RELEASE(%rdx)
    je .Lgate_sti_spinning
    to_main
.global gate_spin_sti_back
gate_spin_sti_back:
    nop
    nop
    cli
    ret

/* rdi = value for RBX; returns RAX as VMCALL in the shadow view left it. */
region_function gate_vmcall
    push %rbx
    mov %rdi, %rbx
    to_shadow
    mov $0x5a5a, %eax
.global gate_vmcall_site
gate_vmcall_site:
    .byte 0x0f, 0x01, 0xc1
    mov %rax, %rdx
    to_main
    mov %rdx, %rax
    pop %rbx
    ret

/* rdi = RAM address; goes on there without leaving the shadow view. */
region_function gate_escape
    to_shadow
    jmp *%rdi

/*
 * rdi = RAM address; as gate_escape, but on the region's stack, so that #VE can
 * be delivered. gate_ve ends it. Returns TG_DATA_VE_COUNT.
 */
region_function gate_escape_ve
    mov $DATA(0), %rdx
    to_shadow
    mov %rsp, TG_DATA_STACK(%rdx)
    mov $PAGE_GVA(TG_PAGE_STACK) + TG_PAGE_SIZE, %rsp
    jmp *%rdi

/* #VE handler; runs in the shadow view. rsi = #VE information page of this vCPU. */
region_function gate_ve
    mov $DATA(0), %rdx
    mov (%rsi), %rax
    mov %rax, TG_DATA_VE_COPY(%rdx)
    mov 8(%rsi), %rax
    mov %rax, TG_DATA_VE_COPY + 8(%rdx)
    mov 16(%rsi), %rax
    mov %rax, TG_DATA_VE_COPY + 16(%rdx)
    mov 24(%rsi), %rax
    mov %rax, TG_DATA_VE_COPY + 24(%rdx)
    mov 32(%rsi), %rax
    mov %rax, TG_DATA_VE_COPY + 32(%rdx)
    incq TG_DATA_VE_COUNT(%rdx)
    mov TG_DATA_VE_COUNT(%rdx), %r8
    movl $0, 4(%rsi)
    mov TG_DATA_STACK(%rdx), %rsp
    to_main
    mov %r8, %rax
    ret

/*
 * INT 20 gate: entered in the main view on the guest's stack. Counts the pass in
 * the shadow view, does the displaced "inc %ebx" and returns behind the INT.
 */
region_function gate_int20
    push %rax
    push %rcx
    push %rdx
    mov $DATA(0), %rdx
    to_shadow
    lock incq TG_DATA_EVENTS(%rdx)
    to_main
    pop %rdx
    pop %rcx
    pop %rax
    inc %ebx
    iretq

/*
 * INT 20 gate that stays in the shadow view until the owner sets TG_DATA_RELEASE.
 * It spins with interrupts on, as all loops here do (see Vcpu::prepare).
 */
region_function gate_int20_spin
    push %rax
    push %rcx
    push %rdx
    mov $DATA(0), %rdx
    to_shadow
    lock incq TG_DATA_INSIDE(%rdx)
    sti
.Lint20_spinning:
    pause
    cmpq $0, TG_DATA_RELEASE(%rdx)
    je .Lint20_spinning
    cli
    to_main
    pop %rdx
    pop %rcx
    pop %rax
    inc %ebx
    iretq

/* INT 20 gate that goes on at TG_DATA_RESUME, as it is when the gate looks. */
region_function gate_int20_table
    push %rax
    push %rcx
    push %rdx
    mov $DATA(0), %rdx
    to_shadow
    lock incq TG_DATA_EVENTS(%rdx)
    mov TG_DATA_RESUME(%rdx), %rdx
    to_main
    mov %rdx, 24(%rsp)
    pop %rdx
    pop %rcx
    pop %rax
    iretq

/* rdi = address in a page that only the shadow view may run; calls it there. */
region_function gate_call_shadow
    mov $DATA(0), %rdx
    to_shadow
    mov %rsp, TG_DATA_STACK(%rdx)
    mov $PAGE_GVA(TG_PAGE_STACK) + TG_PAGE_SIZE, %rsp
    call *%rdi
    mov %rax, %r8
    mov $DATA(0), %rdx
    mov TG_DATA_STACK(%rdx), %rsp
    to_main
    mov %r8, %rax
    ret

/* Copied to TG_PAGE_SECRET and TG_PAGE_XONLY. */
region_function region_secret
    mov $0x5ec7e7, %eax
    ret

.global region_text_end
region_text_end:

.section .note.GNU-stack, "", @progbits
