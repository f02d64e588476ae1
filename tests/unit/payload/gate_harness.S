/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The gates as they are, in a user process: VMFUNC is #UD there, cli and sti are #GP, so the test's
 * signal handler does what the CPU would do with them.
 */
#include "payload/gate.S"

.intel_syntax noprefix

#define RAX 0
#define RBX 8
#define RCX 16
#define RDX 24
#define RSI 32
#define RDI 40
#define RBP 48
#define R8 56
#define R9 64
#define R10 72
#define R11 80
#define R12 88
#define R13 96
#define R14 104
#define R15 112
#define RSP 120
#define RFLAGS 128

.section .note.GNU-stack, "", @progbits
.bss
.balign 8
host_rsp: .quad 0
registers: .quad 0
entry: .quad 0
scratch: .quad 0

.text
/*
 * What the gates call is the test's, compiled as any function here is, which may use r11. The
 * payload leaves that one alone (payload_elf_test.cpp sees to it), and so do these. Pushed twice,
 * for the stack's alignment.
 */
.macro handler name, to
.globl \name
\name:
    push    r11
    push    r11
    call    \to
    pop     r11
    pop     r11
    ret
.endm
handler sm_payload_event, gate_test_event
handler sm_payload_call_event, gate_test_call_event

/*
 * int gate_enter(GateRegs* registers, const void* entry): jumps to entry with these registers.
 * Returns 0 with the registers found at gate_landing, or 1 from gate_abort. Below rsp of the
 * registers there must be room for a word.
 */
.globl gate_enter
gate_enter:
    push    rbx
    push    rbp
    push    r12
    push    r13
    push    r14
    push    r15
    mov     [rip + host_rsp], rsp
    mov     [rip + registers], rdi
    mov     [rip + entry], rsi
    mov     rsp, [rdi + RSP]
    push    qword ptr [rdi + RFLAGS]
    popfq
    mov     rax, [rdi + RAX]
    mov     rbx, [rdi + RBX]
    mov     rcx, [rdi + RCX]
    mov     rdx, [rdi + RDX]
    mov     rsi, [rdi + RSI]
    mov     rbp, [rdi + RBP]
    mov     r8, [rdi + R8]
    mov     r9, [rdi + R9]
    mov     r10, [rdi + R10]
    mov     r11, [rdi + R11]
    mov     r12, [rdi + R12]
    mov     r13, [rdi + R13]
    mov     r14, [rdi + R14]
    mov     r15, [rdi + R15]
    mov     rdi, [rdi + RDI]
    jmp     [rip + entry]

/* Where the displaced code would be. */
.globl gate_landing
gate_landing:
    mov     [rip + scratch], rdi
    mov     rdi, [rip + registers]
    mov     [rdi + RAX], rax
    mov     [rdi + RBX], rbx
    mov     [rdi + RCX], rcx
    mov     [rdi + RDX], rdx
    mov     [rdi + RSI], rsi
    mov     [rdi + RBP], rbp
    mov     [rdi + R8], r8
    mov     [rdi + R9], r9
    mov     [rdi + R10], r10
    mov     [rdi + R11], r11
    mov     [rdi + R12], r12
    mov     [rdi + R13], r13
    mov     [rdi + R14], r14
    mov     [rdi + R15], r15
    mov     [rdi + RSP], rsp
    mov     rax, [rip + scratch]
    mov     [rdi + RDI], rax
    mov     rsp, [rip + host_rsp]
    pushfq
    pop     qword ptr [rdi + RFLAGS]
    xor     eax, eax
    jmp     .Lleave

.globl gate_abort
gate_abort:
    mov     rsp, [rip + host_rsp]
    mov     eax, 1
.Lleave: /* AC, NT and DF, say, are the guest's: the test reads where it wants to. */
    push    SM_ASM_RFLAGS_RESERVED
    popfq
    pop     r15
    pop     r14
    pop     r13
    pop     r12
    pop     rbp
    pop     rbx
    ret

/* What the guest's own handler of vector 20 is taken for. */
.globl gate_end
gate_end:
