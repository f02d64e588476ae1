/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The INT 20 gate: from a hooked instruction in the main view to the event handler in
 * the shadow view and back.
 *
 * The page is execute-only in the main view and r-x in the shadow view, at the same
 * address, so the instruction after each VMFUNC is the next one here. In the main view
 * it works on the guest's stack; in the shadow view guest RAM cannot be written, so
 * nothing is pushed there before the trusted stack is taken.
 *
 * Whom it stands against: everything in the main view is the guest's, so it may jump
 * to any byte of this page with any registers, flags and stack, on all vCPUs at once.
 *
 * - A jump to a byte before the first VMFUNC, or to that VMFUNC, is no more than an
 *   entry with a forged interrupt frame. The handler believes nothing of a frame: an
 *   address of return that is no hook makes an event of its own, and a frame that lies
 *   where memory may fault is not read. An address of return that is a hook continues
 *   at its displaced code, as a jump to the hook site would.
 * - A jump to a byte behind a VMFUNC runs in the main view, where slots, tables, text
 *   and data do not exist. It is the guest's own code with the guest's own rights.
 *   A jump into the middle of an instruction is the same: no bytes of this page make
 *   a VMFUNC except the two that are written here (a unit test looks at every byte).
 * - ECX. The first VMFUNC with ECX = 0 stays in the main view; the compare behind it
 *   leads out. The second with ECX = 1 enters the shadow view at the test behind it,
 *   which leads back to xor ecx, ecx. Any other ECX, or EAX other than 0, exits and
 *   is #UD for the guest.
 * - 32-bit mode. 48 90 is a NOP in 64-bit mode; in 32-bit mode it is dec eax; nop,
 *   which clears ZF (EAX is 0 behind a VMFUNC), and so leads out. The way out reads the
 *   same in both modes.
 * - IF = 1. The hypervisor injects nothing while a vCPU is in the shadow view; cli is
 *   the first instruction there all the same, and faults in ring 3. When the gate is
 *   done, IF is 0 until the displaced code has run, so no task is preempted inside.
 * - TF, AC, DF, NT, IOPL are clear from the popfq on. TF before that is a #DB, which
 *   the hypervisor intercepts.
 * - Slots. A slot is owned by who set its busy bit; the guest's stack only chooses
 *   which slot is tried first. When all are taken for long, the vCPU leaves the shadow
 *   view and executes the INT again: interrupts come in, a drain that has put the
 *   site's bytes back is not held up, and no event is lost.
 * - The registers of the guest are its own affair: rax, rcx and rdx wait on its stack,
 *   and what another vCPU makes of them there is what the guest gets back. What decides
 *   something (address of return, flags) is read once, by the handler; the address to
 *   continue at comes back in a register and is written over the frame in the main view.
 *
 * Not withstood here: a guest that changes the page-table entries which lead to the
 * compartment. In this mode of placement they are reached by an entry in guest RAM.
 */
#include "payload/asm_offsets.h"

#ifndef SM_GATE_VMFUNC
#define SM_GATE_VMFUNC vmfunc
#define SM_GATE_CLI cli
#endif

.intel_syntax noprefix
.section .gate, "ax", @progbits

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
    xor     eax, eax
    mov     ecx, 1
    SM_GATE_VMFUNC
    SM_GATE_CLI
    cmp     ecx, 1
    .byte   0x48, 0x90
    jne     .Lback

    /* Which slot to try first: the number of the stack's 16 KiB block. */
    mov     edx, esp
    shr     edx, SM_ASM_STACK_ALIGN_SHIFT
    mov     ecx, [rip + sm_config_page + SM_ASM_CONFIG_SLOTS]
    dec     ecx
    and     edx, ecx
    shl     edx, SM_SLOT_STRIDE_SHIFT
    lea     rax, [rip + sm_slots]
    add     rdx, rax
    lock bts dword ptr [rdx + SM_ASM_SLOT_BUSY], 0
    jc      .Lcollision

.Lclaimed: /* rdx: our slot */
    mov     [rdx + SM_ASM_SLOT_GUEST_RSP], rsp
    lea     rsp, [rdx + SM_SLOT_STACK_TOP]
    push    SM_ASM_RFLAGS_RESERVED
    popfq
    push    r11
    push    r10
    push    r9
    push    r8
    push    rdi
    push    rsi
    mov     rdi, rdx
    /* Only now the time: whoever has seen this slot idle knows that we come later. */
    rdtscp
    shl     rdx, 32
    lea     rsi, [rax + rdx]
    mov     rdx, rsp
    call    sm_payload_event /* (slot, tsc, saved registers, TSC_AUX) -> where to continue */
    mov     rdx, rax
    pop     rsi
    pop     rdi
    pop     r8
    pop     r9
    pop     r10
    pop     r11
    lea     rcx, [rsp - SM_SLOT_STACK_TOP]
    mov     rsp, [rcx + SM_ASM_SLOT_GUEST_RSP]
    mov     dword ptr [rcx + SM_ASM_SLOT_BUSY], 0

.globl sm_gate_back
sm_gate_back:
.Lback: /* rdx: where to continue */
    xor     eax, eax
    xor     ecx, ecx
    SM_GATE_VMFUNC
    test    ecx, ecx
    jnz     .Lback

    cmp     rdx, SM_ASM_RESUME_RETRY
    jbe     .Lslow
    mov     [rsp + SM_ASM_FRAME_RIP], rdx
    and     dword ptr [rsp + SM_ASM_FRAME_RFLAGS], ~SM_ASM_RFLAGS_IF
    pop     rdx
    pop     rcx
    pop     rax
    iretq

.Lslow: /* Main view. */
    je      .Lretry
    pop     rdx
    pop     rcx
    pop     rax
.globl sm_gate_chain_jump
sm_gate_chain_jump:
    .byte   0xe9 /* jmp rel32, also where the assembler knows a shorter one */
    .long   .Lafter_int - . - 4
.Lafter_int:
    iretq

.Lretry: /* Back onto the two bytes of the INT; IF as it was there. */
    sub     qword ptr [rsp + SM_ASM_FRAME_RIP], 2
    pop     rdx
    pop     rcx
    pop     rax
    iretq

/* The slot at rdx is taken (rax: slot 0). Look at the next ones, several times round. */
.Lcollision:
    sub     edx, eax
    shr     edx, SM_SLOT_STRIDE_SHIFT
.Lnext:
    inc     edx
    cmp     edx, SM_ASM_CLAIM_LIMIT + SM_MAX_SLOTS
    jae     .Lexhausted
    pause
    mov     eax, [rip + sm_config_page + SM_ASM_CONFIG_SLOTS]
    dec     eax
    and     eax, edx
    shl     eax, SM_SLOT_STRIDE_SHIFT
    lea     rcx, [rip + sm_slots]
    add     rax, rcx
    lock bts dword ptr [rax + SM_ASM_SLOT_BUSY], 0
    jc      .Lnext
    mov     rdx, rax
    jmp     .Lclaimed

.Lexhausted:
    lock inc qword ptr [rip + sm_payload_no_slot]
    mov     edx, SM_ASM_RESUME_RETRY
    jmp     .Lback
.size sm_gate_int20, . - sm_gate_int20

.section .note.GNU-stack, "", @progbits
