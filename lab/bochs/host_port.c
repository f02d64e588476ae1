// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Two I/O ports of the machine that the world outside is at, in place of a disk or a network
 * (level 1's end is lab/level1/host.c). All accesses are of 32 bits.
 *
 *   HOST_PORT      write 1: the next job is to be read; reading it then gives its size in bytes,
 *                    0 if there is none
 *                  write 2: the machine's state is kept and Bochs ends; who starts from that state
 *                    comes back from here
 *                  write 3: reading it gives a random number of the host's from now on
 *                  write 4: the results are whole
 *                  write 5: the machine ends, and Bochs with it
 *   HOST_PORT + 4  read: the job's bytes, one word after the other, filled up with 0
 *                  write: words of the results
 *
 * The environment says what is there: LAB_JOBS, file names with a colon between them; LAB_RESULTS, a
 * file; LAB_KEEP, the directory that a kept state goes to. What is not there ends the machine when it
 * is asked for.
 */
#include "program.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HOST_PORT = 0x5ad0, next_job = 1, keep = 2, give_random = 3, results_end = 4, machine_end = 5 };

static FILE *job, *results;
static uint32_t job_size;
static int random_wanted;

static void fail(const char* what, const char* which)
{
    fprintf(stderr, "lab/bochs: %s %s: %s\n", what, which, strerror(errno));
    fflush(NULL);
    _exit(1);
}

static const char* setting(const char* name)
{
    const char* value = getenv(name);

    if (!value || !*value) {
        errno = ENOENT;
        fail("the machine wants", name);
    }
    return value;
}

static void open_next_job(void)
{
    static char *jobs, *rest;
    const char* name;
    struct stat status;

    if (!jobs) {
        const char* value = getenv("LAB_JOBS");

        jobs = rest = strdup(value ? value : "");
    }
    if (job)
        fclose(job);
    job = NULL;
    job_size = 0;
    random_wanted = 0;
    name = rest ? strsep(&rest, ":") : NULL;
    if (!name || !*name)
        return;
    job = fopen(name, "rb");
    if (!job || fstat(fileno(job), &status))
        fail("job", name);
    if (status.st_size > UINT32_MAX) {
        errno = EFBIG;
        fail("job", name);
    }
    job_size = (uint32_t)status.st_size;
}

static void keep_state(void)
{
    int (*save)(void* simulator, const char* path) = (void*)program_function("_ZN13bx_real_sim_c10save_stateEPKc");
    void** simulator = program_object("SIM");
    const char* path = setting("LAB_KEEP");

    if (!save || !simulator || !save(*simulator, path))
        fail("the state is not kept in", path);
    fflush(NULL);
    _exit(0);
}

static void open_results(void)
{
    if (!results)
        results = fopen(setting("LAB_RESULTS"), "wb");
    if (!results)
        fail("results", getenv("LAB_RESULTS"));
}

static void close_results(void)
{
    open_results();
    if (fclose(results))
        fail("results", getenv("LAB_RESULTS"));
    results = NULL;
}

static void write_port(void* self, uint32_t address, uint32_t value, unsigned size)
{
    (void)self;
    (void)size;
    if (address != HOST_PORT) {
        open_results();
        if (fwrite(&value, sizeof(value), 1, results) != 1)
            fail("results", getenv("LAB_RESULTS"));
        return;
    }
    if (value == next_job)
        open_next_job();
    if (value == keep)
        keep_state();
    if (value == give_random)
        random_wanted = 1;
    if (value == results_end)
        close_results();
    if (value == machine_end) {
        fflush(NULL);
        _exit(0);
    }
}

static uint32_t read_port(void* self, uint32_t address, unsigned size)
{
    uint32_t word = 0;

    (void)self;
    (void)size;
    if (address == HOST_PORT && !random_wanted)
        return job_size;
    if (address == HOST_PORT) {
        if (getrandom(&word, sizeof(word), 0) != sizeof(word))
            fail("no", "random numbers");
        return word;
    }
    if (job && fread(&word, 1, sizeof(word), job) == 0 && ferror(job))
        fail("a job", "cannot be read");
    return word;
}

static void (*init_devices)(void* devices, void* memory);

/* All devices of the machine are there; this is one more. */
static void init_devices_and_port(void* devices, void* memory)
{
    static const char name[] = "lab host";
    enum { words_only = 4 };
    int (*on_read)(void*, void*, void*, uint32_t, const char*, uint8_t) =
        (void*)program_function("_ZN12bx_devices_c24register_io_read_handlerEPvPFjS0_jjEjPKch");
    int (*on_write)(void*, void*, void*, uint32_t, const char*, uint8_t) =
        (void*)program_function("_ZN12bx_devices_c25register_io_write_handlerEPvPFvS0_jjjEjPKch");

    init_devices(devices, memory);
    if (!on_read || !on_write) {
        errno = ENOSYS;
        fail("no handlers for", name);
    }
    for (unsigned i = 0; i < 2; i++) {
        on_read(devices, NULL, (void*)read_port, HOST_PORT + 4 * i, name, words_only);
        on_write(devices, NULL, (void*)write_port, HOST_PORT + 4 * i, name, words_only);
    }
}

void host_port_begin(void)
{
    static const char init_name[] = "_ZN12bx_devices_c4initEP8BX_MEM_C";

    init_devices = (void*)program_function(init_name);
    redirect_calls(init_name, (void*)init_devices_and_port);
}
