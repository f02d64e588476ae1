// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A 32-bit process whose system calls are all known, made by each way into the kernel that a
 * 32-bit program has on an Intel CPU: INT 0x80, SYSENTER by hand, and the vdso's
 * __kernel_vsyscall, which is SYSENTER there. (A 32-bit SYSCALL is an undefined instruction on
 * Intel.) Made with -m32 and no library; needs no 32-bit package to build.
 *
 * For SYSENTER a caller pushes ecx, edx and ebp, and leaves the stack pointer in ebp: the kernel
 * takes the sixth argument from there, and returns into the vdso, which pops the three and
 * returns. All calls are made on a stack of their own at a fixed address, so that this ebp is
 * known, too: see SYSENTER_BP in compare.py.
 *
 * The kernel returns from SYSENTER with SYSRET. Intel's sets all of SS; Bochs', like AMD's, leaves
 * the size of the stack pointer as it was in the kernel, which is 16 bits if the task slept there
 * and went on behind an interrupt. So the stack of the calls is in the lowest 64 KiB, where root may
 * map memory and both sizes mean the same, and SS is loaded anew behind each call.
 *
 * It ends with status 0, or with the number of the way and part whose results were not the
 * expected ones.
 */
#define NR_EXIT_GROUP 252
#define NR_FORK 2
#define NR_CLOSE 6
#define NR_GETPID 20
#define NR_GETPPID 64
#define NR_MUNMAP 91
#define NR_WAIT4 114
#define NR_MMAP2 192

#define EBADF 9
#define ENOSYS 38
#define PROT_READ 1
#define PROT_WRITE 2
#define MAP_PRIVATE 2
#define MAP_FIXED 0x10
#define MAP_ANONYMOUS 0x20
#define AT_SYSINFO 32

#define ROUNDS 60
#define CHILDREN 2

typedef unsigned int u32;

enum way { INT80 = 1, SYSENTER, VDSO };

/* Registers in their order: eax, ebx, ecx, edx, esi, edi, ebp. */
struct registers {
    u32 nr, args[6];
};

/* The way that make_call() takes: int80_entry, sysenter_entry, or what AT_SYSINFO names. */
u32 entry __attribute__((section(".data")));
void int80_entry(void);
void sysenter_entry(void);
int make_call(const struct registers* registers);

__asm__(".globl _start\n"
        "_start:\n"
        "\txor %ebp, %ebp\n"
        "\tpush %esp\n"
        "\tcall start\n"

        "int80_entry:\n"
        "\tint $0x80\n"
        "\tret\n"

        "sysenter_entry:\n"
        "\tpush %ecx\n"
        "\tpush %edx\n"
        "\tpush %ebp\n"
        "\tmov %esp, %ebp\n"
        "\tsysenter\n" /* returns to the vdso's pop ebp; pop edx; pop ecx; ret */

        "make_call:\n"
        "\tpush %ebp\n"
        "\tpush %ebx\n"
        "\tpush %esi\n"
        "\tpush %edi\n"
        "\tmov 20(%esp), %eax\n"
        "\tmov %esp, own_stack\n"
        "\tmov $call_stack_top, %esp\n"
        "\tmov 4(%eax), %ebx\n"
        "\tmov 8(%eax), %ecx\n"
        "\tmov 12(%eax), %edx\n"
        "\tmov 16(%eax), %esi\n"
        "\tmov 20(%eax), %edi\n"
        "\tmov 24(%eax), %ebp\n"
        "\tmov (%eax), %eax\n"
        "\tcall *entry\n"
        "\tmov %ss, %ecx\n"
        "\tmov %ecx, %ss\n"
        "\tmov own_stack, %esp\n"
        "\tpop %edi\n"
        "\tpop %esi\n"
        "\tpop %ebx\n"
        "\tpop %ebp\n"
        "\tret\n"

        ".data\n"
        "own_stack:\n"
        "\t.long 0\n"
        ".section .call_stack, \"aw\", @progbits\n" /* placed by the linker's --section-start */
        "\t.skip 0x1000\n"
        "call_stack_top:\n"
        ".text\n");

static int call(u32 nr, u32 a, u32 b, u32 c, u32 d, u32 e, u32 f)
{
    const struct registers registers = {nr, {a, b, c, d, e, f}};

    return make_call(&registers);
}

/* Calls with fewer arguments leave fixed values in the other registers. */
#define UNUSED(n) (0x5ee00000 + (n))
#define CALL1(nr, a) call(nr, a, UNUSED(2), UNUSED(3), UNUSED(4), UNUSED(5), UNUSED(6))

/* Values that tell the registers and the ways apart. */
static int values(enum way way)
{
    int parent = CALL1(NR_GETPPID, UNUSED(1));

    for (u32 i = 0; i < ROUNDS; i++) {
        u32 base = way << 28 | i;

        if (call(NR_GETPPID, base + 0x10000, base + 0x20000, base + 0x30000, base + 0x40000,
                 base + 0x50000, base + 0x60000) != parent)
            return 1;
        if (CALL1(NR_CLOSE, 2000 + i) != -EBADF || CALL1(5000 + i, 1) != -ENOSYS)
            return 1;
    }
    return CALL1(-1, 1) == -ENOSYS ? 0 : 1;
}

/* All six arguments count; a result with the highest bit set. */
static int memory(void)
{
    for (u32 i = 0; i < 8; i++) {
        u32 where = 0x90000000 + i * 0x100000;

        if ((u32)call(NR_MMAP2, where, 0x2000, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS, -1, i) != where)
            return 2;
        *(volatile u32*)where = i;
        if (call(NR_MUNMAP, where, 0x2000, UNUSED(3), UNUSED(4), UNUSED(5), UNUSED(6)) != 0)
            return 2;
    }
    return 0;
}

static int children(void)
{
    for (u32 i = 0; i < CHILDREN; i++) {
        int status = 0;
        int pid = CALL1(NR_FORK, UNUSED(1));

        if (pid == 0) {
            CALL1(NR_CLOSE, 3000 + i);
            CALL1(NR_EXIT_GROUP, 10 + i);
        }
        if (call(NR_WAIT4, pid, (u32)&status, 0, 0, UNUSED(5), UNUSED(6)) != pid ||
            status != (int)(10 + i) << 8)
            return 3;
    }
    return 0;
}

static int test(enum way way, u32 at)
{
    int failed;

    entry = at;
    if ((failed = values(way)) || (failed = memory()) || (failed = children()))
        return way << 4 | failed;
    return 0;
}

/* sp: the stack as the kernel set it up: argc, argv, 0, envp, 0, auxv. */
_Noreturn void start(const u32* sp)
{
    u32 sysinfo = 0;
    int failed;

    for (sp += sp[0] + 2; *sp; sp++)
        ;
    for (sp++; sp[0]; sp += 2)
        if (sp[0] == AT_SYSINFO)
            sysinfo = sp[1];
    failed = test(INT80, (u32)int80_entry);
    if (!failed)
        failed = test(SYSENTER, (u32)sysenter_entry);
    if (!failed)
        failed = sysinfo ? test(VDSO, sysinfo) : VDSO << 4;
    entry = (u32)int80_entry;
    for (;;)
        CALL1(NR_EXIT_GROUP, failed);
}
