// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A process whose system calls are all known: numbers, all six argument registers, return
 * values; failing and unknown calls, 64-bit values, the 32-bit entry, a signal, a thread,
 * another user, fork, exec of itself, and two processes on one CPU that hand a byte to and
 * fro, so that every hand-over is a process switch.
 *
 * Run without arguments. It ends with status 0, or with the number of the part whose
 * return values were not the expected ones.
 */
#include "raw.h"

#define ROUNDS 150
#define CHILDREN 6
#define PING_PONGS 200

#define EBADF 9
#define ECHILD 10
#define EINVAL 22
#define ENOSYS 38
#define O_RDWR 2
#define O_CREAT 0100
#define O_CLOEXEC 02000000
#define PROT_READ 1
#define PROT_WRITE 2
#define MAP_PRIVATE 2
#define MAP_FIXED 0x10
#define MAP_ANONYMOUS 0x20
#define SIGCHLD 17
#define SIGUSR1 10
#define SA_RESTORER 0x04000000
#define FUTEX_WAIT 0
#define CLONE_VM 0x100
#define CLONE_FS 0x200
#define CLONE_FILES 0x400
#define CLONE_SIGHAND 0x800
#define CLONE_THREAD 0x10000
#define CLONE_SYSVSEM 0x40000
#define CLONE_PARENT_SETTID 0x100000
#define CLONE_CHILD_CLEARTID 0x200000

RAW_PROGRAM

static const char self_path[] = "/proc/self/exe";
static const char file_path[] = "/tmp/deterministic";
static volatile int signals_seen;

struct kernel_sigaction {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)(void);
    unsigned long mask;
};

void restore_signal(void);
__asm__("restore_signal:\n\tmov $15, %eax\n\tsyscall\n");

static void on_signal(int number)
{
    signals_seen += number;
    raw1(__NR_close, 0x5169);
}

/* Values that tell the registers apart and cannot be confused with a pointer of ours. */
static int values(int fd)
{
    for (long i = 0; i < ROUNDS; i++) {
        long huge = (i + 1) * 0x100000001;

        raw6(__NR_getppid, 0x1111000000000000 + i, 0x2222000000000000 + i, 0x3333000000000000 + i,
             0x4444000000000000 + i, 0x5555000000000000 + i, 0x6666000000000000 + i);
        if (raw3(__NR_write, -1 - i, 0x7777000000000000 + i, i) != -EBADF)
            return 1;
        if (raw1(__NR_close, 1000 + i) != -EBADF)
            return 1;
        if (raw3(__NR_lseek, fd, huge, 0) != huge) /* a return value beyond 32 bits */
            return 1;
        if (raw3(__NR_lseek, fd, -huge, 0) != -EINVAL)
            return 1;
        if (raw0(1000 + i) != -ENOSYS)
            return 1;
    }
    return 0;
}

/* Numbers that a table look-up must survive. The last has rubbish above 32 bits: getpid. */
static int numbers(void)
{
    if (raw0(-1) != -ENOSYS || raw0(0x7fffffff) != -ENOSYS || raw0(0xbadbad) != -ENOSYS)
        return 2;
    if (raw0(__NR_getpid | 0x7fffffff00000000) != raw0(__NR_getpid))
        return 2;
    return 0;
}

static int memory(void)
{
    for (long i = 0; i < 20; i++) {
        long where = 0x100000000000 + i * 0x100000;

        if (raw6(__NR_mmap, where, 0x2000, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS, -1, 0) != where)
            return 3;
        *(volatile long*)where = i;
        if (raw3(__NR_mprotect, where, 0x1000, PROT_READ) || raw2(__NR_munmap, where, 0x2000))
            return 3;
    }
    return 0;
}

static int files(int fd)
{
    static char buffer[4096];

    raw3(__NR_lseek, fd, 0, 0);
    for (long i = 1; i <= 40; i++)
        if (raw3(__NR_write, fd, (long)buffer, i * 7) != i * 7)
            return 4;
    if (raw4(__NR_pread64, fd, (long)buffer, sizeof(buffer), 1000) != sizeof(buffer))
        return 4;
    if (raw4(__NR_pread64, fd, (long)buffer, sizeof(buffer), 0x7000000000000000) != 0)
        return 4;
    return 0;
}

static int old_entry(void)
{
    long pid = raw0(__NR_getpid);

    for (long i = 0; i < 40; i++) {
        if (raw_int80(20 /* getpid */, 0x80000000 + i, 0x1234, 0x5678) != pid)
            return 5;
        if (raw_int80(6 /* close */, 2000 + i, 0, 0) != -EBADF)
            return 5;
        if (raw_int80(5000 + i, 1, 2, 3) != -ENOSYS)
            return 5;
    }
    return 0;
}

static int signal_to_self(void)
{
    static struct kernel_sigaction action = {on_signal, SA_RESTORER, restore_signal, 0};

    if (raw4(__NR_rt_sigaction, SIGUSR1, (long)&action, 0, 8))
        return 6;
    for (int i = 0; i < 5; i++)
        raw2(__NR_kill, raw0(__NR_getpid), SIGUSR1);
    return signals_seen == 5 * SIGUSR1 ? 0 : 6;
}

/* A thread: its tid is not its pid. It has no stack to return on, so it ends in asm. */
static int thread(void)
{
    static char stack[4096] __attribute__((aligned(16)));
    static volatile int tid;
    long flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM |
                 CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID;
    register long r10 __asm__("r10") = (long)&tid;
    register long r8 __asm__("r8") = 0;
    long ret;

    __asm__ volatile("syscall\n\t"
                     "test %%eax, %%eax\n\t"
                     "jnz 2f\n\t"
                     "mov $20, %%ebx\n"
                     "1:\tmov %[gettid], %%eax\n\t"
                     "syscall\n\t"
                     "mov %[getpid], %%eax\n\t"
                     "syscall\n\t"
                     "dec %%ebx\n\t"
                     "jnz 1b\n\t"
                     "mov %[exit], %%eax\n\t"
                     "mov $7, %%edi\n\t"
                     "syscall\n"
                     "2:"
                     : "=a"(ret)
                     : "0"(__NR_clone), "D"(flags), "S"(stack + sizeof(stack)), "d"(&tid),
                       "r"(r10), "r"(r8), [gettid] "i"(__NR_gettid), [getpid] "i"(__NR_getpid),
                       [exit] "i"(__NR_exit)
                     : "rcx", "r11", "rbx", "memory");
    if (ret < 0)
        return 7;
    for (int now; (now = tid) != 0;)
        raw4(__NR_futex, (long)&tid, FUTEX_WAIT, now, 0);
    return 0;
}

/* What an exec'ed copy does: calls as another user, then a status that tells which it was. */
static int child(int which)
{
    raw3(__NR_setresgid, 3000 + which, 3000 + which, 3000 + which);
    raw3(__NR_setresuid, 2000 + which, 2000 + which, 2000 + which);
    for (long i = 0; i < 25; i++) {
        raw0(__NR_getpid);
        raw0(__NR_gettid);
        raw0(__NR_getppid);
        raw0(__NR_getuid);
        raw1(__NR_close, 4000 + 100 * which + i);
    }
    return 10 + which;
}

static int children(void)
{
    for (int i = 0; i < CHILDREN; i++) {
        char number[2] = {(char)('0' + i), 0};
        const char* argv[] = {"child", number, 0};
        const char* envp[] = {0};
        int status = 0;
        /* Of fork's six registers only a clone would read any. */
        long pid = raw0(__NR_fork);

        if (pid == 0) {
            raw3(__NR_execve, (long)self_path, (long)argv, (long)envp);
            raw_exit(99);
        }
        if (raw4(__NR_wait4, pid, (long)&status, 0, 0) != pid || status != (10 + i) << 8)
            return 8;
    }
    return raw4(__NR_wait4, -1, 0, 0, 0) == -ECHILD ? 0 : 8;
}

static int ping_pong(void)
{
    unsigned long last_cpu = 2, all = ~0ul; /* CPU 1, where process 1 and its like are not */
    int to[2], from[2], status = 0;
    char byte = 1;
    long pid;

    if (raw3(__NR_sched_setaffinity, 0, sizeof(last_cpu), (long)&last_cpu) < 0)
        last_cpu = all; /* a guest with one CPU: they meet there anyway */
    if (raw2(__NR_pipe2, (long)to, 0) || raw2(__NR_pipe2, (long)from, 0))
        return 9;
    pid = raw0(__NR_fork);
    if (pid == 0) {
        for (int i = 0; i < PING_PONGS; i++) {
            raw3(__NR_read, to[0], (long)&byte, 1);
            raw3(__NR_write, from[1], (long)&byte, 1);
        }
        raw_exit(3);
    }
    for (int i = 0; i < PING_PONGS; i++) {
        raw3(__NR_write, to[1], (long)&byte, 1);
        if (raw3(__NR_read, from[0], (long)&byte, 1) != 1)
            return 9;
    }
    if (raw4(__NR_wait4, pid, (long)&status, 0, 0) != pid || status != 3 << 8)
        return 9;
    for (int i = 0; i < 2; i++) {
        raw1(__NR_close, to[i]);
        raw1(__NR_close, from[i]);
    }
    raw3(__NR_sched_setaffinity, 0, sizeof(all), (long)&all);
    return 0;
}

int raw_main(long* sp)
{
    long argc = sp[0];
    char** argv = (char**)(sp + 1);
    int fd, failed;

    if (argc > 1)
        return child(argv[1][0] - '0');
    fd = raw3(__NR_open, (long)file_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return 20;
    if ((failed = values(fd)) || (failed = numbers()) || (failed = memory()) ||
        (failed = files(fd)) || (failed = old_entry()) || (failed = signal_to_self()) ||
        (failed = thread()) || (failed = children()) || (failed = ping_pong()))
        return failed;
    raw1(__NR_close, fd);
    return raw1(__NR_unlink, (long)file_path) ? 21 : 0;
}
