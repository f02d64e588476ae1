// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The guest's end of the control channel: process 1 of the watched guest.
 *
 * It does nothing until level 1 asks (it sits in one blocking read), so the guest
 * is as quiet as a guest can be while a monitor attaches. One request at a time:
 *
 *   <id> run <shell command>\n           runs it, answers with its output and status
 *   <id> get <file>\n                    answers with the file
 *   <id> put <length> <file>\n<bytes>    writes the file
 *
 * Every answer is "\n=<id> <status> <length>\n" and <length> bytes. Level 1 skips
 * what does not begin with its own id, so a client that died halfway disturbs no one.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define OUTPUT "/run/output"
#define CHUNK (32 * 1024) /* the most that one write to a virtio port takes */

static int channel;

static void say(const char* format, ...)
{
    FILE* log = fopen("/dev/kmsg", "w");
    va_list ap;

    if (!log)
        return;
    va_start(ap, format);
    fputs("<3>agent: ", log);
    vfprintf(log, format, ap);
    va_end(ap);
    fclose(log);
}

/* Writing waits as long as level 1 is not connected. */
static void send_bytes(const char* data, size_t len)
{
    while (len) {
        ssize_t n = write(channel, data, len < CHUNK ? len : CHUNK);

        if (n < 0 && errno != EINTR) {
            say("write to the channel: %s\n", strerror(errno));
            return;
        }
        if (n > 0) {
            data += n;
            len -= n;
        }
    }
}

static size_t receive(char* data, size_t room)
{
    for (;;) {
        ssize_t n = read(channel, data, room);

        if (n > 0)
            return n;
        /* 0: level 1 is not connected. This write returns when it is. */
        if (n == 0)
            send_bytes("\n", 1);
        else if (errno != EINTR)
            say("read from the channel: %s\n", strerror(errno));
    }
}

static void answer(const char* id, int status, size_t len)
{
    char head[128];

    send_bytes(head, snprintf(head, sizeof(head), "\n=%s %d %zu\n", id, status, len));
}

static void answer_text(const char* id, int status, const char* text)
{
    answer(id, status, strlen(text));
    send_bytes(text, strlen(text));
}

static void answer_file(const char* id, int status, const char* path)
{
    static char buffer[CHUNK];
    struct stat st;
    size_t left;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &st)) {
        answer_text(id, 255, strerror(errno));
        if (fd >= 0)
            close(fd);
        return;
    }
    left = st.st_size;
    answer(id, status, left);
    while (left) {
        ssize_t n = read(fd, buffer, left < sizeof(buffer) ? left : sizeof(buffer));

        if (n <= 0) { /* cut while being read: the promised length is kept */
            memset(buffer, 0, sizeof(buffer));
            n = left < sizeof(buffer) ? left : sizeof(buffer);
        }
        send_bytes(buffer, n);
        left -= n;
    }
    close(fd);
}

/* As process 1 it also inherits orphans; those are reaped on the way. */
static int wait_for(pid_t child)
{
    int status;
    pid_t pid;

    while ((pid = wait(&status)) != child)
        if (pid < 0 && errno != EINTR)
            return 255;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void do_run(const char* id, const char* command)
{
    pid_t child = fork();

    if (child == 0) {
        int in = open("/dev/null", O_RDONLY);
        int out = open(OUTPUT, O_WRONLY | O_CREAT | O_TRUNC, 0600);

        if (in < 0 || out < 0)
            _exit(126);
        dup2(in, 0);
        dup2(out, 1);
        dup2(out, 2);
        close(in);
        close(out);
        setsid();
        execl("/bin/sh", "sh", "-c", command, NULL);
        _exit(127);
    }
    if (child < 0)
        answer_text(id, 255, strerror(errno));
    else
        answer_file(id, wait_for(child), OUTPUT);
}

/* `have` bytes of the content came with the request line. */
static void do_put(const char* id, char* args, const char* content, size_t have)
{
    static char buffer[CHUNK];
    char* path;
    size_t left = strtoul(args, &path, 10);
    int fd = open(path + 1, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
    int failed = fd < 0 ? errno : 0;

    for (;;) {
        if (!failed && have && write(fd, content, have) != (ssize_t)have)
            failed = errno ? errno : EIO;
        left -= have;
        if (!left)
            break;
        have = receive(buffer, left < sizeof(buffer) ? left : sizeof(buffer));
        content = buffer;
    }
    if (fd >= 0)
        close(fd);
    answer_text(id, failed ? 255 : 0, failed ? strerror(failed) : "");
}

int main(int argc, char** argv)
{
    static char line[64 * 1024];
    size_t used = 0;

    if (argc < 2)
        return 2;
    /* The port's node appears a moment after the driver is loaded. */
    while ((channel = open(argv[1], O_RDWR | O_CLOEXEC)) < 0)
        usleep(2000);

    for (;;) {
        char* end;
        char *id, *verb, *rest;
        size_t have;

        while (!(end = memchr(line, '\n', used))) {
            if (used == sizeof(line))
                used = 0; /* no request is that long: noise */
            used += receive(line + used, sizeof(line) - used);
        }
        *end++ = 0;
        have = used - (end - line);
        id = strtok(line, " ");
        verb = strtok(NULL, " ");
        rest = verb ? strtok(NULL, "") : NULL;
        used = 0; /* a client waits for its answer: only a put has bytes after its line */
        if (!rest)
            continue;
        if (!strcmp(verb, "run"))
            do_run(id, rest);
        else if (!strcmp(verb, "get"))
            answer_file(id, 0, rest);
        else if (!strcmp(verb, "put"))
            do_put(id, rest, end, have);
        else
            answer_text(id, 255, "no such request");
    }
}
