// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Bochs writes all of the emulated RAM with one fwrite when it keeps a state, and reads it with one
 * fread when it starts from one. Most of it is zeros that nothing has ever touched: here the file has
 * holes for them, and a hole costs neither reading nor memory.
 */
#define _GNU_SOURCE
#include "program.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ram_at_least = 64 << 20, piece = 64 << 10 };

/* 0, or -1 with errno; from and to the same place in the file as in memory. */
static int read_all(int fd, char* data, off_t at, off_t end)
{
    while (at < end) {
        ssize_t got = pread(fd, data + at, end - at, at);

        if (got <= 0)
            return -1;
        at += got;
    }
    return 0;
}

static int write_all(int fd, const char* data, off_t at, off_t end)
{
    while (at < end) {
        ssize_t put = pwrite(fd, data + at, end - at, at);

        if (put <= 0)
            return -1;
        at += put;
    }
    return 0;
}

static int is_zero(const char* data, size_t size)
{
    return data[0] == 0 && !memcmp(data, data + 1, size - 1);
}

__attribute__((visibility("default"))) size_t fwrite(const void* data, size_t size, size_t count, FILE* file)
{
    static size_t (*plain)(const void*, size_t, size_t, FILE*);
    off_t end = (off_t)(size * count), at = 0;

    if (!plain)
        plain = (size_t (*)(const void*, size_t, size_t, FILE*))dlsym(RTLD_NEXT, "fwrite");
    if (end < ram_at_least || ftello(file) != 0 || end % piece)
        return plain(data, size, count, file);
    for (; at < end; at += piece) {
        if (is_zero((const char*)data + at, piece))
            continue;
        if (write_all(fileno(file), data, at, at + piece))
            return 0;
    }
    return ftruncate(fileno(file), end) ? 0 : count;
}

__attribute__((visibility("default"))) size_t fread(void* data, size_t size, size_t count, FILE* file)
{
    static size_t (*plain)(void*, size_t, size_t, FILE*);
    uintptr_t page = sysconf(_SC_PAGESIZE);
    off_t end = (off_t)(size * count), at = 0, hole;

    if (!plain)
        plain = (size_t (*)(void*, size_t, size_t, FILE*))dlsym(RTLD_NEXT, "fread");
    if (end < ram_at_least || ftello(file) != 0)
        return plain(data, size, count, file);
    /* Private memory without contents reads as zeros. */
    if ((uintptr_t)data % page || end % page || madvise(data, end, MADV_DONTNEED))
        return plain(data, size, count, file);
    while ((at = lseek(fileno(file), at, SEEK_DATA)) >= 0 && at < end) {
        hole = lseek(fileno(file), at, SEEK_HOLE);
        if (hole < 0 || hole > end)
            hole = end;
        if (read_all(fileno(file), data, at, hole))
            return 0;
        at = hole;
    }
    return at < 0 && errno != ENXIO ? 0 : count; /* ENXIO: only a hole is left */
}
