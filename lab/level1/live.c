// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Level 1's voice: copies standard input to I/O port 0xe9, which Bochs prints on its standard
 * output as it comes, at no cost of a serial line's time. Two marker lines enclose it, because
 * Bochs prints things of its own there as well.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/io.h>
#include <unistd.h>

#define LIVE_PORT 0xe9

static void put(const char* data, size_t length)
{
    outsb(LIVE_PORT, data, length);
}

int main(int argc, char** argv)
{
    char buffer[4096];
    char last = '\n';
    const char* begin = argc > 1 ? argv[1] : "";
    const char* end = argc > 2 ? argv[2] : "";

    if (ioperm(LIVE_PORT, 1, 1) != 0) {
        perror("live: ioperm");
        return 1;
    }
    put("\n", 1);
    put(begin, strlen(begin));
    put("\n", 1);
    for (;;) {
        ssize_t got = read(STDIN_FILENO, buffer, sizeof(buffer));

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        put(buffer, (size_t)got);
        last = buffer[got - 1];
    }
    if (last != '\n')
        put("\n", 1);
    put(end, strlen(end));
    put("\n", 1);
    return 0;
}
