/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guest code in ordinary guest RAM: exception entries and the functions that a
 * test calls. The blob is copied to TG_TEXT_GPA and is position independent.
 * Functions take SysV arguments and return in RAX, unless they say otherwise.
 */
#include "layout.h"

.macro guest_function name
.global guest_\name
.type guest_\name, @function
.balign 16
guest_\name:
.endm

.section .rodata.guest, "a", @progbits
.balign 4096
.global guest_text_begin
guest_text_begin:

/* 256 entries of 16 bytes; each leaves [vector, error code, RIP, ...] on the stack. */
.global guest_vectors
guest_vectors:
.set vector, 0
.rept 256
.balign 16
.if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30)
    push $0
.endif
    push $vector
    jmp .Lexception
.set vector, vector + 1
.endr
.balign 16

.Lexception:
    cmpq $2, (%rsp)
    je .Lnmi
    cmpq $32, (%rsp)
    jae .Lirq
    push %rax
    mov 8(%rsp), %rax
    mov %rax, %gs:TG_CTX_VECTOR
    mov 16(%rsp), %rax
    mov %rax, %gs:TG_CTX_ERROR
    mov 24(%rsp), %rax
    mov %rax, %gs:TG_CTX_RIP
    mov 32(%rsp), %rax
    mov %rax, %gs:TG_CTX_CS
    mov %cr2, %rax
    mov %rax, %gs:TG_CTX_CR2
    pop %rax
    mov %gs:TG_CTX_STACK, %rsp
    out %al, $TG_FAULT_PORT
    ud2

.Lirq:
    incq %gs:TG_CTX_IRQS
    call .Llog_interrupt
    cmpq $0, %gs:TG_CTX_EOI
    je .Lreturn
    push %rax
    push %rcx
    push %rdx
    mov $0x80b, %ecx /* x2APIC end of interrupt */
    xor %eax, %eax
    xor %edx, %edx
    wrmsr
    pop %rdx
    pop %rcx
    pop %rax
    jmp .Lreturn

.Lnmi:
    incq %gs:TG_CTX_NMIS
    call .Llog_interrupt
.Lreturn:
    add $16, %rsp
    iretq

/* Stack: return address, vector, error code, interrupted RIP. */
.Llog_interrupt:
    push %rax
    push %rcx
    mov $1, %eax
    lock xadd %rax, %gs:TG_CTX_INTERRUPTS
    and $TG_CTX_LOG_MASK, %eax
    mov 40(%rsp), %rcx
    mov %rcx, %gs:TG_CTX_LOG(, %rax, 8)
    pop %rcx
    pop %rax
    ret

/* Every called function returns to here. */
guest_function done
    out %al, $TG_DONE_PORT
    ud2

guest_function read8
    mov (%rdi), %rax
    ret

guest_function read1
    movzbl (%rdi), %eax
    ret

guest_function read2
    movzwl (%rdi), %eax
    ret

guest_function read4
    mov (%rdi), %eax
    ret

guest_function read16 /* rdi = address, rsi = where to put the 16 bytes */
    movups (%rdi), %xmm0
    movups %xmm0, (%rsi)
    ret

/* KVM's emulator knows neither of these two. */
guest_function rorx8 /* rdi = address; a VEX prefix, returns the u64 */
    rorx $0, (%rdi), %rax
    ret

guest_function movlps8 /* rdi = address, rsi = value */
    movq %rsi, %xmm0
    movlps %xmm0, (%rdi)
    ret

guest_function write1 /* rdi = address, rsi = value */
    mov %sil, (%rdi)
    ret

guest_function write2
    mov %si, (%rdi)
    ret

guest_function write4
    mov %esi, (%rdi)
    ret

guest_function write16 /* rdi = address, rsi = address of the 16 bytes */
    movups (%rsi), %xmm0
    movups %xmm0, (%rdi)
    ret

guest_function sgdt /* rdi = address, 10 bytes */
    sgdt (%rdi)
    ret

guest_function write8 /* rdi = address, rsi = value */
    mov %rsi, (%rdi)
    ret

guest_function xchg8 /* rdi = address, rsi = value; returns the old one */
    mov %rsi, %rax
    xchg %rax, (%rdi)
    ret

guest_function cmpxchg8 /* rdi = address, rsi = expected, rdx = new */
    mov %rsi, %rax
    lock cmpxchg %rdx, (%rdi)
    ret

guest_function stos /* rdi = address, rsi = value, rdx = count of 8 bytes */
    mov %rsi, %rax
    mov %rdx, %rcx
    cld
    rep stosq
    mov %rcx, %rax
    ret

guest_function movs /* rdi = to, rsi = from, rdx = count of 8 bytes */
    mov %rdx, %rcx
    cld
    rep movsq
    mov %rcx, %rax
    ret

guest_function movsb /* rdi = to, rsi = from, rdx = count of bytes */
    mov %rdx, %rcx
    cld
    rep movsb
    mov %rcx, %rax
    ret

guest_function ins /* rdi = to, rsi = port, rdx = count of bytes; the VMM gives 0x5a each */
    mov %rdx, %rcx
    mov %esi, %edx
    cld
    rep insb
    mov %rcx, %rax
    ret

guest_function jump /* rdi = target */
    call *%rdi
    ret

guest_function return_value
    mov $0x600d, %eax
    ret

guest_function vmfunc /* rdi = leaf, rsi = index; returns 1 */
    mov %edi, %eax
    mov %esi, %ecx
    .byte 0x0f, 0x01, 0xd4
    mov $1, %eax
    ret

guest_function vmcall /* returns what the hypercall returned */
    mov $0x7fff, %eax
    .byte 0x0f, 0x01, 0xc1
    ret

guest_function hypercall /* registers as the hypercall wants them; any mode, any ring */
    .byte 0x0f, 0x01, 0xc1
    out %al, $TG_DONE_PORT
    ud2

guest_function int20
    mov $0x55, %ebx
    mov $0x1122334455667788, %rcx
    mov $0x99aabbccddeeff00, %rdx
    mov $0x0123456789abcdef, %rax
    mov %rcx, %r8
    mov %rdx, %r9
    mov %rax, %r10
    mov %rsp, %r11
    int $20
    sub %rcx, %r8
    sub %rdx, %r9
    sub %rax, %r10
    sub %rsp, %r11
    mov %r8, %rax
    or %r9, %rax
    or %r10, %rax
    or %r11, %rax /* 0: the gate changed no register */
    shl $32, %rax
    or %rbx, %rax
    ret

/*
 * rdi = { u64 stop, count, damage }. Counts passes until stop is set. The
 * displaced instruction of the hook site is "inc %ebx"; a pass in which EBX was
 * not incremented exactly once is damage.
 */
guest_function hook_loop
    push %rbx
    xor %ebx, %ebx
    xor %edx, %edx
.Lhook_again:
    cmpq $0, (%rdi)
    jne .Lhook_done
    inc %edx
.global guest_hook_site
guest_hook_site:
    inc %ebx
    cmp %ebx, %edx
    je .Lhook_good
    incq 16(%rdi)
    mov %edx, %ebx
.Lhook_good:
    incq 8(%rdi)
    jmp .Lhook_again
.Lhook_done:
    mov 8(%rdi), %rax
    pop %rbx
    ret

/*
 * rdi = { u64 stop, count, torn, first_torn }, rsi and rdx = the two values that
 * the immediate of guest_patch_site may have. The instruction lies across a
 * cache line.
 */
guest_function patch_loop
    jmp .Lpatch_again
    .balign 64
    .skip 59
.global guest_patch_site
guest_patch_site:
    movabs $0x1111111111111111, %rax
    ret
.Lpatch_again:
    cmpq $0, (%rdi)
    jne .Lpatch_done
    call guest_patch_site
    incq 8(%rdi)
    cmp %rsi, %rax
    je .Lpatch_again
    cmp %rdx, %rax
    je .Lpatch_again
    incq 16(%rdi)
    mov %rax, 24(%rdi)
    jmp .Lpatch_again
.Lpatch_done:
    mov 8(%rdi), %rax
    ret

/* rdi = { u64 stop, count }. */
guest_function count_loop
    cmpq $0, (%rdi)
    jne .Lcount_done
    incq 8(%rdi)
    jmp guest_count_loop
.Lcount_done:
    mov 8(%rdi), %rax
    ret

/*
 * rdi = { u64 stop, passes, errors }, rsi = first page, rdx = number of pages:
 * page n starts with the u64 n ^ 0x5a5a. Reads all of them again and again.
 */
guest_function check_pages
    mov $0x5a5a, %r9d
.Lcheck_pass:
    cmpq $0, (%rdi)
    jne .Lcheck_done
    xor %ecx, %ecx
    mov %rsi, %r8
.Lcheck_page:
    mov %rcx, %rax
    xor %r9, %rax
    cmp (%r8), %rax
    je .Lcheck_good
    incq 16(%rdi)
.Lcheck_good:
    add $TG_PAGE_SIZE, %r8
    inc %rcx
    cmp %rdx, %rcx
    jb .Lcheck_page
    incq 8(%rdi)
    jmp .Lcheck_pass
.Lcheck_done:
    mov 8(%rdi), %rax
    ret

/*
 * rdi = { u64 stop, passes, errors }, rsi = first page, rdx = number of pages.
 * Adds 1 to the second u64 of each page and expects to find what it left there:
 * the pass number.
 */
guest_function write_pages
    xor %r9d, %r9d
.Lwrite_pass:
    cmpq $0, (%rdi)
    jne .Lcheck_done
    xor %ecx, %ecx
    lea 8(%rsi), %r8
.Lwrite_page:
    cmp (%r8), %r9
    je .Lwrite_good
    incq 16(%rdi)
    mov %r9, (%r8)
.Lwrite_good:
    incq (%r8)
    add $TG_PAGE_SIZE, %r8
    inc %rcx
    cmp %rdx, %rcx
    jb .Lwrite_page
    inc %r9
    incq 8(%rdi)
    jmp .Lwrite_pass

guest_function halt /* waits for one interrupt */
    sti
    hlt
    cli
    ret

guest_function halt_masked /* only an NMI ends it */
    hlt
    ret

guest_function sti_spin /* rdi = flag; runs with interrupts on until it is set */
    sti
.Lsti_again:
    pause
    cmpq $0, (%rdi)
    je .Lsti_again
    cli
    ret

guest_function notify
    out %al, $TG_NOTIFY_PORT
    ret

/* rdi = flag, rsi = counter; spins until the flag is set */
guest_function spin
.Lspin_again:
    incq (%rsi)
    pause
    cmpq $0, (%rdi)
    je .Lspin_again
    ret

guest_function x2apic_on
    mov $0x1b, %ecx
    rdmsr
    or $0xc00, %eax
    wrmsr
    mov $0x80f, %ecx /* spurious vector register: software enable */
    mov $0x1ff, %eax
    xor %edx, %edx
    wrmsr
    movq $1, %gs:TG_CTX_EOI
    ret

guest_function send_ipi /* rdi = the x2APIC's interrupt command register */
    mov $0x830, %ecx
    mov %edi, %eax
    mov %rdi, %rdx
    shr $32, %rdx
    wrmsr
    ret

/* rdi = a page for the VMXON region, zeroed; returns RFLAGS.CF | ZF << 1. */
guest_function vmxon
    mov %cr4, %rax
    or $0x2000, %eax
    mov %rax, %cr4
    mov $0x480, %ecx
    rdmsr
    and $0x7fffffff, %eax
    mov %eax, (%rdi)
    push %rdi
    vmxon (%rsp)
    setc %al
    setz %cl
    pop %rdi
    movzbl %al, %eax
    movzbl %cl, %ecx
    lea (%rax, %rcx, 2), %rax
    ret

guest_function vmxoff
    vmxoff
    mov %cr4, %rax
    and $~0x2000, %rax
    mov %rax, %cr4
    ret

/* Runs VMFUNC in ring 3: rdi = leaf, rsi = index. Ends by the exception that follows. */
guest_function user_vmfunc
    push $TG_USER_DATA_SELECTOR
    mov %rsp, %rax
    push %rax
    push $2
    push $TG_USER_CODE_SELECTOR
    lea .Luser(%rip), %rax
    push %rax
    mov %edi, %r8d
    mov %esi, %r9d
    iretq
.Luser:
    mov %r8d, %eax
    mov %r9d, %ecx
    .byte 0x0f, 0x01, 0xd4
.global guest_user_after_vmfunc
guest_user_after_vmfunc:
    ud2

/*
 * rdi = { u64 stop, count }, rsi = address. An interrupt that takes its time: counts until stop is
 * set and then returns to the address, as if it had come there. The code there returns to the
 * caller.
 */
guest_function return_later
    mov %rsp, %rax
    push $TG_DATA_SELECTOR
    push %rax
    push $0x202
    push $TG_CODE_SELECTOR
    push %rsi
.Lreturn_later_again:
    incq 8(%rdi)
    pause
    cmpq $0, (%rdi)
    je .Lreturn_later_again
    iretq

/* rdi = { u64 stop, count }. Counts in ring 3 until stop is set. Ends there by #UD. */
guest_function user_count
    push $TG_USER_DATA_SELECTOR
    mov %rsp, %rax
    push %rax
    push $0x202
    push $TG_USER_CODE_SELECTOR
    lea .Luser_count_again(%rip), %rax
    push %rax
    iretq
.Luser_count_again:
    incq 8(%rdi)
    pause
    cmpq $0, (%rdi)
    je .Luser_count_again
    ud2

.global guest_text_end
guest_text_end:

.section .note.GNU-stack, "", @progbits
