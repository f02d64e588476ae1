// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Level 1's way to the world outside the machine (lab/bochs/host_port.c):
 *   host job       the next job, an archive, on standard output; status 1 if there is none. Before
 *                  that, level 1's random numbers become others than those of another machine that
 *                  started from the same kept state
 *   host results   takes standard input out
 *   host keep      the machine's state is kept here, and who starts from it comes back
 *   host end       the machine ends
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { HOST_PORT = 0x5ad0, next_job = 1, keep = 2, give_random = 3, results_end = 4, machine_end = 5, words = 1 << 14 };

static uint32_t buffer[words];

static void fail(const char* what)
{
    fprintf(stderr, "host: %s: %s\n", what, strerror(errno));
    exit(2);
}

static void seed(void)
{
    struct {
        struct rand_pool_info info;
        uint32_t pool[8];
    } entropy = {.info = {.entropy_count = 256, .buf_size = sizeof(entropy.pool)}};
    int fd = open("/dev/urandom", O_WRONLY);

    outl(give_random, HOST_PORT);
    for (unsigned i = 0; i < 8; i++)
        entropy.pool[i] = inl(HOST_PORT);
    if (fd < 0 || ioctl(fd, RNDADDENTROPY, &entropy) || ioctl(fd, RNDRESEEDCRNG))
        fail("/dev/urandom");
    close(fd);
}

static int job(void)
{
    uint32_t left;

    seed();
    outl(next_job, HOST_PORT);
    left = inl(HOST_PORT);
    if (!left)
        return 1;
    while (left) {
        uint32_t now = left < sizeof(buffer) ? left : sizeof(buffer);

        insl(HOST_PORT + 4, buffer, (now + 3) / 4);
        if (fwrite(buffer, 1, now, stdout) != now)
            fail("standard output");
        left -= now;
    }
    if (fflush(stdout))
        fail("standard output");
    return 0;
}

static int results(void)
{
    size_t got;

    while ((got = fread(buffer, 1, sizeof(buffer), stdin)) > 0) {
        memset((char*)buffer + got, 0, sizeof(buffer) - got);
        outsl(HOST_PORT + 4, buffer, (got + 3) / 4);
    }
    if (ferror(stdin))
        fail("standard input");
    outl(results_end, HOST_PORT);
    return 0;
}

int main(int argc, char** argv)
{
    const char* what = argc == 2 ? argv[1] : "";

    if (iopl(3))
        fail("iopl");
    if (!strcmp(what, "job"))
        return job();
    if (!strcmp(what, "results"))
        return results();
    if (strcmp(what, "keep") && strcmp(what, "end")) {
        fputs("usage: host job | results | keep | end\n", stderr);
        return 2;
    }
    outl(strcmp(what, "end") ? keep : machine_end, HOST_PORT);
    return 0;
}
