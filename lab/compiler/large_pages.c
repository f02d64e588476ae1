// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Preloaded into compilers (in_large_pages). They fill some hundred MiB in seconds; on a host that
 * gives large pages only to who asks for them, that is a page fault for every 4 KiB and a TLB miss for
 * most of what is looked at. This asks. GCC takes its memory 2 MiB at a time.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { large_page = 2 << 20 };

void* mmap(void* address, size_t size, int protection, int flags, int fd, off_t offset)
{
    void* mapped = (void*)syscall(SYS_mmap, address, size, protection, flags, fd, offset);

    if (mapped != MAP_FAILED && (flags & MAP_ANONYMOUS) && size >= large_page)
        madvise(mapped, size, MADV_HUGEPAGE); /* a wish: without it all goes on as before */
    return mapped;
}

void* mmap64(void* address, size_t size, int protection, int flags, int fd, off_t offset)
    __attribute__((alias("mmap")));
