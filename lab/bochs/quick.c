// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Takes out of Bochs what it does at each instruction for its debugger and for instrumentation,
 * neither of which the lab uses once the machine runs. What the emulated machine does, and how many
 * instructions it has done when it does it, stays the same (tests/lab/bochs.sh).
 *
 * QUICK_BOCHS_CPUS is the number of emulated CPUs. With one, nothing asks any more after each
 * instruction whether the debugger wants to stop. With several, that question is how they take
 * turns; what is left of it is the count of instructions. The debugger changes CPUs every 5
 * instructions, Bochs without it every 16 (its parameter `quantum`): so do we.
 *
 * The loop over instructions is written anew then, with half as many of its own.
 *
 * What is not found in the binary is left as it is; the lab is slower then.
 */
#include "program.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char epilog_name[] = "_ZN8BX_CPU_C22dbg_instruction_epilogEv";

static const char loop_name[] = "_ZN8BX_CPU_C8cpu_loopEv";

/* Watchpoints, traces, messages that nobody wants, and instrumentation that does nothing. */
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
    "_ZN12logfunctions6ldebugEPKcz",
};

/*
 * In the epilog:  mov limit(%rbx),%rcx;  cmp %rcx,done(%rbx);  jae ...
 * In its place:   mov limit(%rdi),%rcx;  add $longer,%rcx;  xor %eax,%eax;
 *                 cmp %rcx,done(%rdi);  setae %al;  ret
 */
static void count_only(void)
{
    static const uint8_t load[] = {0x48, 0x8b, 0x8b}, compare[] = {0x48, 0x39, 0x8b}, jump[] = {0x0f, 0x83};
    enum { longer = 16 - 5, operand = 4, reach = 512 };
    uint8_t* epilog = program_function(epilog_name);

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
    fprintf(stderr, "lab/bochs: %s is another one\n", epilog_name);
}

/*
 * The loop over the instructions of a trace, as it is in place of the program's, from where that is
 * entered: with one CPU, and with several, which count. %rbx is the instruction, %r12 their end, %rbp
 * the clock, 8(%rsp) the CPU. What it left out: whether a handler is a virtual function (none is), and
 * the debugger.
 */
asm(".text\n"
    ".set stop, 0x8c\n"        /* from the entry: where the CPU looks up why it is to stop, */
    ".set leave, 0x7b\n"       /* leaves the loop, */
    ".set next_trace, -0xa5\n" /* or gets its next trace */
    ".macro execute\n"
    "mov 8(%rsp),%r14\n"
    ".balign 16\n"
    "1: movzbl 0x22(%rbx),%eax\n" /* its length */
    "mov %rbx,%rsi\n"
    "mov %r14,%rdi\n"
    "add %rax,0xd8(%r14)\n" /* RIP */
    "call *(%rbx)\n"
    "mov 0xd8(%r14),%rax\n"
    "mov %rax,0x110(%r14)\n" /* RIP before the next one */
    ".endm\n"
    ".macro go_on entry\n"
    "2: mov 0x93b8(%r14),%eax\n" /* events */
    "test %eax,%eax\n"
    "jne \\entry+stop\n"
    "add $56,%rbx\n"
    "cmp %rbx,%r12\n"
    "jne 1b\n"
    "jmp \\entry+next_trace\n"
    ".endm\n"

    ".balign 16\n"
    ".skip 12\n" /* as the entry lies in the program */
    "loop_of_one: execute\n"
    "addq $1,0x130(%r14)\n"  /* instructions done */
    "subl $1,0x1638(%rbp)\n" /* until the clock's next event */
    "je 3f\n"
    "go_on loop_of_one\n"
    "3: mov %rbp,%rdi\n"
    "countdown: call .\n"
    "jmp 2b\n"
    "loop_of_one_end:\n"

    ".balign 16\n"
    ".skip 12\n"
    "loop_of_several: execute\n"
    "mov 0x130(%r14),%rax\n"
    "inc %rax\n"
    "mov %rax,0x130(%r14)\n"
    "mov 0x9450(%r14),%rcx\n" /* as count_only does it */
    "add $11,%rcx\n"
    "cmp %rcx,%rax\n"
    "jae loop_of_several+leave\n"
    "go_on loop_of_several\n"
    "loop_of_several_end:\n");
extern const uint8_t loop_of_one[], loop_of_one_end[], loop_of_several[], loop_of_several_end[], countdown[];

/*
 * FNV-1a of the program's loop, distances of calls left out. Those of its jumps are in it: they say
 * where stop, leave and next_trace are.
 */
static uint64_t hash_of_loop(const uint8_t* loop, unsigned size)
{
    static const uint8_t distances[] = {0x20, 0x2e, 0x3f, 0x86, 0x97, 0xd0, 0xda};
    uint64_t hash = UINT64_C(0xcbf29ce484222325);

    for (unsigned at = 0, next = 0; at < size; at++) {
        if (next < sizeof(distances) && at == distances[next]) {
            next++;
            at += 3;
            continue;
        }
        hash = (hash ^ loop[at]) * UINT64_C(0x100000001b3);
    }
    return hash;
}

/* Before anything else is changed in it. */
static void loop_quickly(int one_cpu)
{
    static const uint8_t start[] = {0x48, 0x89, 0xde, 0xff, 0xd0}; /* mov %rbx,%rsi; call *%rax */
    enum { size = 0xe6, entry = 0x6b, countdown_call = 0xcf, reach = 512 };
    uint8_t* loop = program_function(loop_name);
    const uint8_t* end = loop ? loop + reach : NULL;

    while (loop < end && memcmp(loop, start, sizeof(start)))
        loop++;
    if (loop == end || loop + size > text_end || hash_of_loop(loop, size) != UINT64_C(0xe3e1ac9cb526bf55)) {
        fprintf(stderr, "lab/bochs: %s is another one\n", loop_name);
        return;
    }
    int32_t distance;
    memcpy(&distance, loop + countdown_call + 1, sizeof(distance));
    const uint8_t* called = loop + countdown_call + CALL_SIZE + distance;
    if (one_cpu) {
        memcpy(loop + entry, loop_of_one, loop_of_one_end - loop_of_one);
        put_target(loop + entry + (countdown - loop_of_one), called);
    } else {
        memcpy(loop + entry, loop_of_several, loop_of_several_end - loop_of_several);
    }
}

void quick_begin(void)
{
    static const char nop[] = "\x0f\x1f\x44\x00\x00", no_stop[] = "\x31\xc0\x0f\x1f\x00"; /* xor %eax,%eax; nop */
    const char* cpus = getenv("QUICK_BOCHS_CPUS");

    if (!cpus || !*cpus)
        return;
    const int one_cpu = !strcmp(cpus, "1");
    loop_quickly(one_cpu);
    for (size_t i = 0; i < sizeof(callbacks) / sizeof(*callbacks); i++)
        change_calls(callbacks[i], put_code, nop);
    if (one_cpu)
        change_calls(epilog_name, put_code, no_stop);
    else
        count_only();
    walk_begin();
}
