/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The gates: from a hook in the main view to the event handler in the shadow view and back. Two
 * entries: of an INT 20, for any instruction, and of a CALL, for a NOP of five bytes at the start
 * of a function.
 *
 * The page is execute-only in the main view and r-x in the shadow view, at the same
 * address, so the instruction after each VMFUNC is the next one here. In the main view
 * it works on the guest's stack; in the shadow view guest RAM cannot be written, so
 * nothing is pushed there before the trusted stack is taken.
 *
 * Whom it stands against: everything in the main view is the guest's, so it may jump
 * to any byte of this page with any registers, flags and stack, on all vCPUs at once.
 *
 * - A jump to a byte before a VMFUNC that enters, or to that VMFUNC, is no more than an
 *   entry with a forged frame. The handler believes nothing of a frame: an
 *   address of return that is no hook makes an event of its own, and a frame that lies
 *   where memory may fault is not read. An INT's address of return that is a hook continues
 *   at its displaced code, as a jump to the hook site would. A CALL always continues at the
 *   address that the guest's stack holds then: that is its own RET.
 * - A jump to a byte behind a VMFUNC runs in the main view, where slots, tables, text
 *   and data do not exist. It is the guest's own code with the guest's own rights.
 *   A jump into the middle of an instruction is the same: no bytes of this page make
 *   a VMFUNC except those that are written here (a unit test looks at every byte).
 * - ECX. A VMFUNC that enters, with ECX = 0, stays in the main view; the compare behind it
 *   leads out. One that leaves, with ECX = 1, enters the shadow view at the test behind it,
 *   which leads back to xor ecx, ecx. Any other ECX, or EAX other than 0, exits and
 *   is #UD for the guest.
 * - 32-bit mode. 48 90 is a NOP in 64-bit mode; in 32-bit mode it is dec eax; nop,
 *   which clears ZF (EAX is 0 behind a VMFUNC), and so leads out. The way out reads the
 *   same in both modes. Ring 3 does not get here: the page is the supervisor's.
 * - IF = 1. The hypervisor injects nothing while a vCPU is in the shadow view; cli is
 *   the first instruction there all the same, and faults in ring 3. When the gate is
 *   done, IF is 0 until the displaced code has run, so no task is preempted inside.
 * - TF, AC, DF, NT, IOPL are clear from the popfq on. TF before that is a #DB, which
 *   the hypervisor intercepts.
 * - Slots. A slot is owned by who set its busy bit; the guest's stack only chooses
 *   which slot is tried first. When all are taken for long, the vCPU leaves the shadow
 *   view and executes the INT or the CALL again: interrupts come in, a drain that has put the
 *   site's bytes back is not held up, and no event is lost.
 * - The registers of the guest are its own affair: rax, rcx and rdx (and of a CALL the flags)
 *   wait on its stack, and what another vCPU makes of them there is what the guest gets back.
 *   What decides something (address of return, flags of an INT) is read once, by the handler; the
 *   address that an INT continues at comes back in a register and is written over the frame in
 *   the main view.
 *
 * Not withstood here: a guest that changes the page-table entries which lead to the
 * compartment. In this mode of placement they are reached by an entry in guest RAM.
 *
 * Who removes the compartment, or a CALL hook for good, has more to wait for than with an INT,
 * which is delivered with IF = 0. A CALL comes with the guest's IF. Between it and the cli, two
 * instructions on, an interrupt may come in, and the task that was interrupted is then off the CPU
 * with RIP in this page if the guest's kernel preempts kernel code. So the host
 *
 * - puts CALLs only into kernels where an interrupt in kernel mode does not schedule
 *   (PREEMPT_NONE or PREEMPT_VOLUNTARY, also as chosen at boot of a PREEMPT_DYNAMIC one);
 * - after the bytes of the CALLs are gone, waits until every vCPU has been seen in user mode or
 *   idle, outside of this page: to have its RIP elsewhere is not enough, as it may be in an
 *   interrupt that returns here.
 *
 * At the end there is no such window: flags are restored with IF = 0, and sti, which works from
 * the end of the next instruction on, stands before the RET. Interrupts that are off stay off all
 * the way.
 */
#include "payload/asm_offsets.h"

#ifndef SM_GATE_VMFUNC
#define SM_GATE_VMFUNC vmfunc
#define SM_GATE_CLI cli
#define SM_GATE_STI sti
#endif

.intel_syntax noprefix
.section .gate, "ax", @progbits

/* Into the shadow view. rax, rcx and rdx wait on the guest's stack. Clobbers rax, rcx. */
.macro enter_shadow_view
    xor     eax, eax
    mov     ecx, 1
    SM_GATE_VMFUNC
    SM_GATE_CLI
    cmp     ecx, 1
    .byte   0x48, 0x90
    jne     .Lback
.endm

/*
 * A slot of our own, its address in rdx. Which one to try first: the number of the stack's 16 KiB
 * block, which one multiplication puts where the slots' addresses differ. At the label
 * \collision with rdx as it is if it is taken.
 */
.macro claim_slot collision
    imul    edx, esp, SM_ASM_HINT_FACTOR
    and     edx, [rip + sm_config_page + SM_ASM_CONFIG_SLOT_OFFSET_MASK]
    add     rdx, [rip + .Lslots]
    lock bts dword ptr [rdx + SM_ASM_SLOT_BUSY], 0
    jc      \collision
.endm

/*
 * Tells the handler of the event, on the trusted stack. rdx: our slot. rax: what it returned. Its
 * arguments are the slot in rsi, TSC_AUX in ecx, where RDTSCP leaves it, and the time in r8, where
 * it is in nobody's way until the end. Saved is what the payload is compiled to use.
 */
.macro record_event handler
    mov     [rdx + SM_ASM_SLOT_GUEST_RSP], rsp
    lea     rsp, [rdx + SM_SLOT_STACK_TOP]
    push    SM_ASM_RFLAGS_RESERVED
    popfq
    push    r10
    push    r9
    push    r8
    push    rdi
    push    rsi
    mov     rsi, rdx
    /* Only now the time: whoever has seen this slot idle knows that we come later. */
    rdtscp
    shl     rdx, 32
    lea     r8, [rax + rdx]
    mov     [rsi + SM_ASM_SLOT_TSC], r8
    call    \handler
.endm

/*
 * The saved registers, the guest's stack, and the slot to whoever comes next; keeps rdx. Clobbers
 * rax, rcx. Goes with a sample_slot of the same name.
 */
.macro release_slot name
    pop     rsi
    pop     rdi
    pop     r8
    pop     r9
    pop     r10
    lea     rcx, [rsp - SM_SLOT_STACK_TOP]
    sub     dword ptr [rcx + SM_ASM_SLOT_NEXT_SAMPLE], 1
    jb      .L\name\()_sample
.L\name\()_release:
    mov     rsp, [rcx + SM_ASM_SLOT_GUEST_RSP]
    mov     dword ptr [rcx + SM_ASM_SLOT_BUSY], 0
.endm

/*
 * One of many claims: how long it has lasted. Still on the slot's stack, which is empty. Far
 * from the way of the others, which costs them two instructions.
 */
.macro sample_slot name
.L\name\()_sample:
    push    rdx
    rdtscp
    lea     rcx, [rsp + 8 - SM_SLOT_STACK_TOP]
    mov     dword ptr [rcx + SM_ASM_SLOT_NEXT_SAMPLE], SM_ASM_SAMPLE_PERIOD - 1
    shl     rdx, 32
    or      rax, rdx
    pop     rdx
    sub     rax, [rcx + SM_ASM_SLOT_TSC]
    cmp     rax, SM_ASM_SAMPLE_MAX
    jae     .L\name\()_cut
    add     [rcx + SM_ASM_SLOT_SAMPLED_TICKS], rax
    inc     qword ptr [rcx + SM_ASM_SLOT_SAMPLED]
    jmp     .L\name\()_release
.L\name\()_cut: /* or the TSC has gone back */
    inc     qword ptr [rcx + SM_ASM_SLOT_SAMPLES_CUT]
    jmp     .L\name\()_release
.endm

/* To the main view. Clobbers rax, rcx. */
.macro leave_shadow_view
    xor     eax, eax
    xor     ecx, ecx
    SM_GATE_VMFUNC
    test    ecx, ecx
    jnz     .Lback
.endm

.macro pop_waiting
    pop     rdx
    pop     rcx
    pop     rax
.endm

/*
 * The slot at rdx is taken: looks at the next ones, several times round. Goes to
 * \claimed with the slot in rdx, or on behind this when all were taken all the time.
 */
.macro look_further claimed
    sub     rdx, [rip + .Lslots]
    shr     edx, SM_SLOT_STRIDE_SHIFT
.Lnext\@:
    inc     edx
    cmp     edx, SM_ASM_CLAIM_LIMIT + SM_MAX_SLOTS
    jae     .Lexhausted\@
    pause
    mov     eax, [rip + sm_config_page + SM_ASM_CONFIG_SLOTS]
    dec     eax
    and     eax, edx
    shl     eax, SM_SLOT_STRIDE_SHIFT
    lea     rcx, [rip + sm_slots]
    add     rax, rcx
    lock bts dword ptr [rax + SM_ASM_SLOT_BUSY], 0
    jc      .Lnext\@
    mov     rdx, rax
    jmp     \claimed
.Lexhausted\@:
    lock inc qword ptr [rip + sm_payload_no_slot]
.endm

/* First instruction of the page: for whoever falls into it from the page before. */
.globl sm_gate_page
sm_gate_page:
    jmp     .Lback

/*
 * Target of IDT entry 20. In: interrupt frame at rsp (rip, cs, rflags, rsp, ss), IF = 0.
 * Out: continues where the handler says, all registers as they were, IF = 0; or, if
 * the handler knows no such hook, at sm_gate_chain_jump with everything as it came.
 */
.balign 16
.globl sm_gate_int20
.type sm_gate_int20, @function
sm_gate_int20:
    endbr64
    push    rax
    push    rcx
    push    rdx
    enter_shadow_view
    claim_slot .Lint_collision
.Lint_claimed: /* rdx: our slot */
    record_event sm_payload_event
    mov     rdx, rax
    release_slot int

.globl sm_gate_back
sm_gate_back:
.Lback: /* rdx: where to continue */
    leave_shadow_view
    cmp     rdx, SM_ASM_RESUME_RETRY
    jbe     .Lslow
    mov     [rsp + SM_ASM_FRAME_RIP], rdx
    and     dword ptr [rsp + SM_ASM_FRAME_RFLAGS], ~SM_ASM_RFLAGS_IF
    pop_waiting
    iretq

.Lslow: /* Main view. */
    je      .Lint_retry
    pop_waiting
.globl sm_gate_chain_jump
sm_gate_chain_jump:
    .byte   0xe9 /* jmp rel32, also where the assembler knows a shorter one */
    .long   .Lafter_int - . - 4
.Lafter_int:
    iretq

.Lint_retry: /* Back onto the two bytes of the INT; IF as it was there. */
    sub     qword ptr [rsp + SM_ASM_FRAME_RIP], 2
    pop_waiting
    iretq

    sample_slot int

.Lint_collision:
    look_further .Lint_claimed
    mov     edx, SM_ASM_RESUME_RETRY
    jmp     .Lback
.size sm_gate_int20, . - sm_gate_int20

/*
 * Where a CALL of a hook leads. In: address of return at rsp, any flags. Out: continues there,
 * all registers and flags as they were. No endbr64: a direct CALL needs none, and nothing else is
 * to lead here.
 */
.balign 16
.globl sm_gate_call
.type sm_gate_call, @function
sm_gate_call:
    pushfq
    SM_GATE_CLI
    push    rax
    push    rcx
    push    rdx
    enter_shadow_view
    claim_slot .Lcall_collision
.Lcall_claimed: /* rdx: our slot */
    record_event sm_payload_call_event
    release_slot call
    leave_shadow_view
.Lcall_return: /* Main view. */
    btr     dword ptr [rsp + SM_ASM_CALL_RFLAGS], SM_ASM_RFLAGS_IF_BIT
    jnc     .Lcall_masked
    pop_waiting
    popfq
    SM_GATE_STI
    ret
.Lcall_masked:
    pop_waiting
    popfq
    ret

    sample_slot call

.Lcall_collision:
    look_further .Lcall_claimed
    leave_shadow_view
    /* Back onto the CALL. */
    sub     qword ptr [rsp + SM_ASM_CALL_RIP], SM_ASM_CALL_LENGTH
    jmp     .Lcall_return
.size sm_gate_call, . - sm_gate_call

.globl sm_gate_end
sm_gate_end:

/* An address in memory, which one instruction adds. */
.section .data.rel.ro, "aw", @progbits
.balign 8
.Lslots:
    .quad   sm_slots

.section .note.GNU-stack, "", @progbits
