// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * usage: window COMMAND [ARGUMENT...]
 *
 * Runs COMMAND between two marks that the monitor and the guest's own tracing both see, so
 * that both records can be cut at the same places. A mark is a write() to fd -1 from
 * address MARK_BEGIN or MARK_END with the CPU's number as its length, made once on every
 * CPU, bound to it. Marks are only made while no other process runs: then no other
 * process's system call lies across them, and switches are cut on each CPU by its own mark.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MARK_BEGIN 0x4d4152422d2d3031ul
#define MARK_END 0x4d41524b2d2d3039ul
#define PF_KTHREAD 0x00200000

/* Blocked, or a zombie, or a kernel thread (those make no system calls). */
static int is_quiet(const char* pid)
{
    char path[300], line[512];
    unsigned flags = 0;
    char state = 0;
    char* rest;
    FILE* stat;

    snprintf(path, sizeof(path), "/proc/%s/stat", pid);
    stat = fopen(path, "r");
    if (!stat)
        return 1; /* gone */
    rest = fgets(line, sizeof(line), stat) ? strrchr(line, ')') : NULL;
    fclose(stat);
    if (!rest || sscanf(rest, ") %c %*d %*d %*d %*d %*d %u", &state, &flags) != 2)
        return 1;
    return state == 'S' || state == 'Z' || (flags & PF_KTHREAD);
}

static void wait_until_alone(void)
{
    for (int busy = 1; busy;) {
        DIR* proc = opendir("/proc");
        struct dirent* entry;

        busy = 0;
        while ((entry = readdir(proc)))
            if (isdigit(entry->d_name[0]) && atoi(entry->d_name) != getpid())
                busy |= !is_quiet(entry->d_name);
        closedir(proc);
    }
}

static void mark(unsigned long kind)
{
    cpu_set_t before, one;

    wait_until_alone();
    sched_getaffinity(0, sizeof(before), &before);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &before))
            continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        sched_setaffinity(0, sizeof(one), &one);
        syscall(SYS_write, -1L, kind, (long)cpu);
    }
    sched_setaffinity(0, sizeof(before), &before);
}

int main(int argc, char** argv)
{
    int status = 0;
    pid_t child;

    if (argc < 2)
        return 2;
    mark(MARK_BEGIN);
    child = fork();
    if (child == 0) {
        execvp(argv[1], argv + 1);
        _exit(127);
    }
    while (waitpid(child, &status, 0) < 0)
        ;
    mark(MARK_END);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
