// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Preloaded into Debian's bochs-bin: takes out what that binary does at each instruction for its
 * debugger and for instrumentation, neither of which the lab uses once the machine runs. What the
 * emulated machine does, and how many instructions it has done when it does it, stays the same
 * (tests/lab/quick_bochs.sh).
 *
 * QUICK_BOCHS_CPUS is the number of emulated CPUs. With one, nothing asks any more after each
 * instruction whether the debugger wants to stop. With several, that question is how they take
 * turns; what is left of it is the count of instructions. The debugger changes CPUs every 5
 * instructions, Bochs without it every 16 (its parameter `quantum`): so do we.
 *
 * And the TLB, which the machine flushes at every VM entry, exit and VMFUNC, is flushed quickly.
 *
 * What is not found in the binary, which exports its functions for its plugins, is left as it is;
 * the lab is slower then.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define CALL_SIZE 5 /* e8, distance */

static const char epilog_name[] = "_ZN8BX_CPU_C22dbg_instruction_epilogEv";

static const char flush_name[] = "_ZN8BX_CPU_C9TLB_flushEv";

/* Watchpoints, traces, and instrumentation that does nothing. */
static const char* const callbacks[] = {
    "_Z24bx_dbg_lin_memory_accessjmmjjjPh",
    "_Z24bx_dbg_phy_memory_accessjmjjjjPh",
    "_Z25bx_instr_before_executionjP15bxInstruction_c",
    "_Z24bx_instr_after_executionjP15bxInstruction_c",
    "_Z25bx_instr_repeat_iterationjP15bxInstruction_c",
    "_Z19bx_instr_lin_accessjmmjjj",
    "_Z19bx_instr_phy_accessjmjjj",
    "_Z22bx_instr_ucnear_branchjjmm",
    "_Z27bx_instr_cnear_branch_takenjmm",
    "_Z31bx_instr_cnear_branch_not_takenjm",
};

static uint8_t *text, *text_end;

static int find_text(struct dl_phdr_info* object, size_t size, void* data)
{
    (void)size;
    (void)data;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr)* part = &object->dlpi_phdr[i];

        if (part->p_type == PT_LOAD && (part->p_flags & PF_X)) {
            text = (uint8_t*)(object->dlpi_addr + part->p_vaddr);
            text_end = text + part->p_memsz;
        }
    }
    return 1; /* the first object is the program */
}

static int protect(int rights)
{
    uintptr_t mask = sysconf(_SC_PAGESIZE) - 1;
    uintptr_t start = (uintptr_t)text & ~mask;

    return mprotect((void*)start, (uintptr_t)text_end - start, rights);
}

/* The program's own function of that name. */
static uint8_t* function(const char* name)
{
    uint8_t* at = dlsym(RTLD_DEFAULT, name);

    return at >= text && at < text_end ? at : NULL;
}

/* The bytes of a call of it cannot be anything else: the distance says where they are. */
static void replace_calls(const char* name, const char* code)
{
    const uint8_t* called = function(name);
    unsigned replaced = 0;

    for (uint8_t* at = text; called && at + CALL_SIZE <= text_end; at++) {
        int32_t distance;

        if (*at != 0xe8)
            continue;
        memcpy(&distance, at + 1, sizeof(distance));
        if (at + CALL_SIZE + distance != called)
            continue;
        memcpy(at, code, CALL_SIZE);
        replaced++;
    }
    if (!replaced)
        fprintf(stderr, "quick_bochs: no call of %s\n", name);
}

/*
 * In the epilog:  mov limit(%rbx),%rcx;  cmp %rcx,done(%rbx);  jae ...
 * In its place:   mov limit(%rdi),%rcx;  add $longer,%rcx;  xor %eax,%eax;
 *                 cmp %rcx,done(%rdi);  setae %al;  ret
 */
static void count_only(void)
{
    static const uint8_t load[] = {0x48, 0x8b, 0x8b}, compare[] = {0x48, 0x39, 0x8b}, jump[] = {0x0f, 0x83};
    enum { longer = 16 - 5, operand = 4, reach = 512 };
    uint8_t* epilog = function(epilog_name);

    for (uint8_t* at = epilog; at && at < epilog + reach && at + 16 <= text_end; at++) {
        uint8_t code[] = {0x48, 0x8b, 0x8f, 0, 0, 0, 0, 0x48, 0x83, 0xc1, longer, 0x31, 0xc0,
                          0x48, 0x39, 0x8f, 0, 0, 0, 0, 0x0f, 0x93, 0xc0, 0xc3};

        if (memcmp(at, load, sizeof(load)) || memcmp(at + 7, compare, sizeof(compare)) ||
            memcmp(at + 14, jump, sizeof(jump)))
            continue;
        memcpy(code + 3, at + 3, operand);
        memcpy(code + 16, at + 10, operand);
        memcpy(epilog, code, sizeof(code));
        return;
    }
    fprintf(stderr, "quick_bochs: %s is another one\n", epilog_name);
}

/*
 * A flush of the TLB marks its entries, one after the other: there are two loops from %rax to %rdx.
 * An entry of nothing but ones is as invalid, and those can be stored all at once.
 */
static void flush_at_once(void)
{
    static const uint8_t loop[] = {0x48, 0xc7, 0x00, 0xff, 0xff, 0xff, 0xff,   /* movq $-1,(%rax) */
                                   0x48, 0x83, 0xc0, 0x28,                     /* add $40,%rax */
                                   0xc7, 0x40, 0xf0, 0x00, 0x00, 0x00, 0x00};  /* movl $0,-16(%rax) */
    enum { compare = 3, jump = 2, whole = sizeof(loop) + compare + jump, reach = 128 };
    static const uint8_t code[whole] = {0x49, 0x89, 0xf8,  /* mov %rdi,%r8 */
                                        0x48, 0x89, 0xd1,  /* mov %rdx,%rcx */
                                        0x48, 0x29, 0xc1,  /* sub %rax,%rcx */
                                        0x48, 0x89, 0xc7,  /* mov %rax,%rdi */
                                        0x83, 0xc8, 0xff,  /* or $-1,%eax */
                                        0xf3, 0xaa,        /* rep stosb */
                                        0x4c, 0x89, 0xc7,  /* mov %r8,%rdi */
                                        0x0f, 0x1f, 0x00}; /* nop */
    uint8_t* flush = function(flush_name);
    unsigned replaced = 0;

    for (uint8_t* at = flush; at && at < flush + reach && at + whole <= text_end; at++) {
        if (memcmp(at, loop, sizeof(loop)) || at[whole - jump] != 0x75 || at[whole - 1] != (uint8_t)-whole)
            continue;
        memcpy(at, code, whole);
        replaced++;
    }
    if (replaced != 2)
        fprintf(stderr, "quick_bochs: %s is another one\n", flush_name);
}

__attribute__((constructor)) static void make_quick(void)
{
    static const char nop[] = "\x0f\x1f\x44\x00\x00", no_stop[] = "\x31\xc0\x0f\x1f\x00"; /* xor %eax,%eax; nop */
    const char* cpus = getenv("QUICK_BOCHS_CPUS");

    if (!cpus || !*cpus)
        return;
    dl_iterate_phdr(find_text, NULL);
    if (!text || protect(PROT_READ | PROT_WRITE | PROT_EXEC)) {
        perror("quick_bochs");
        return;
    }
    for (size_t i = 0; i < sizeof(callbacks) / sizeof(*callbacks); i++)
        replace_calls(callbacks[i], nop);
    if (!strcmp(cpus, "1"))
        replace_calls(epilog_name, no_stop);
    else
        count_only();
    flush_at_once();
    protect(PROT_READ | PROT_EXEC);
}
