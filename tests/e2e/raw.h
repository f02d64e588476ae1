/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * System calls without a C library, for programs of which every single call is known:
 * what is written in the program is what the kernel sees, nothing before, between or after.
 */
#ifndef SHADOWMONITOR_TESTS_E2E_RAW_H
#define SHADOWMONITOR_TESTS_E2E_RAW_H

#include <asm/unistd.h>

static inline long raw6(long nr, long a, long b, long c, long d, long e, long f) {
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long ret;

    __asm__ volatile("syscall"
                     : "=a"(ret)
                     : "0"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return ret;
}

/* Calls with fewer arguments leave fixed values in the other registers. */
#define RAW_UNUSED(n) (0x5ee0000000000000 + (n))

static inline long raw0(long nr) {
    return raw6(nr, RAW_UNUSED(1), RAW_UNUSED(2), RAW_UNUSED(3), RAW_UNUSED(4), RAW_UNUSED(5),
                RAW_UNUSED(6));
}

static inline long raw1(long nr, long a) {
    return raw6(nr, a, RAW_UNUSED(2), RAW_UNUSED(3), RAW_UNUSED(4), RAW_UNUSED(5), RAW_UNUSED(6));
}

static inline long raw2(long nr, long a, long b) {
    return raw6(nr, a, b, RAW_UNUSED(3), RAW_UNUSED(4), RAW_UNUSED(5), RAW_UNUSED(6));
}

static inline long raw3(long nr, long a, long b, long c) {
    return raw6(nr, a, b, c, RAW_UNUSED(4), RAW_UNUSED(5), RAW_UNUSED(6));
}

static inline long raw4(long nr, long a, long b, long c, long d) {
    return raw6(nr, a, b, c, d, RAW_UNUSED(5), RAW_UNUSED(6));
}

/* The 32-bit entry, from 64-bit code; registers are cut to 32 bits by the kernel. */
static inline long raw_int80(long nr, long a, long b, long c) {
    long ret;

    __asm__ volatile("int $0x80"
                     : "=a"(ret)
                     : "0"(nr), "b"(a), "c"(b), "d"(c), "S"(0x66), "D"(0x77)
                     : "r8", "r9", "r10", "r11", "memory");
    return ret;
}

_Noreturn static inline void raw_exit(int status) {
    for (;;)
        raw1(__NR_exit_group, status);
}

/* sp is the stack as the kernel set it up: argc, argv. */
int raw_main(long* sp);
_Noreturn void raw_start(long* sp);

#define RAW_PROGRAM                                                                                \
    __asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n"       \
            "\tcall raw_start\n");                                                                 \
    _Noreturn void raw_start(long* sp) { raw_exit(raw_main(sp)); }

#endif
