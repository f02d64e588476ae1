// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Level 1's end of the guest's control channel, and a one-line QMP client.
 * Runs on any host that has the guest's sockets; see usage() below. Every wait
 * ends after the time-out with status 124.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define CHUNK (64 * 1024)

static const char* directory;

static void usage(void)
{
    fputs("usage: guestctl [-n NAME] [-t SECONDS] COMMAND\n"
          "  wait               until the guest's user space answers\n"
          "  run COMMAND        runs a shell command in the guest: its output, its status\n"
          "  get FILE LOCAL     copies a file out of the guest\n"
          "  put LOCAL FILE     copies a file into the guest\n"
          "  end COMMAND        runs a command that ends the VMM (poweroff -f), waits for that\n"
          "  gone               until the VMM has exited\n"
          "  qmp JSON           one QMP command: its answer\n"
          "NAME is the guest's name (default guest), its directory $GUEST_RUN/NAME (/run/guest).\n",
          stderr);
    exit(2);
}

static void die(const char* what)
{
    fprintf(stderr, "guestctl: %s: %s\n", what, strerror(errno));
    exit(125);
}

static int try_connect(const char* name)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        die("socket");
    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/%s", directory, name);
    if (connect(fd, (struct sockaddr*)&addr, sizeof(addr)) == 0)
        return fd;
    close(fd);
    return -1;
}

static int must_connect(const char* name)
{
    int fd = try_connect(name);

    if (fd < 0)
        die(name);
    return fd;
}

static void write_all(int fd, const char* data, size_t len)
{
    while (len) {
        ssize_t n = write(fd, data, len);

        if (n < 0)
            die("write");
        data += n;
        len -= n;
    }
}

static FILE* ask(const char* request, const char** id)
{
    static char tag[32];
    int fd = must_connect("control.sock");
    FILE* in = fdopen(fd, "r");

    snprintf(tag, sizeof(tag), "%d", (int)getpid());
    *id = tag;
    write_all(fd, tag, strlen(tag));
    write_all(fd, " ", 1);
    write_all(fd, request, strlen(request));
    write_all(fd, "\n", 1);
    return in;
}

/* Copies the body of the answer to `out`; the status of the answer. */
static int take_answer(FILE* in, const char* id, int out)
{
    static char buffer[CHUNK];
    size_t left = 0;
    int status = 125;
    char* end;

    for (;;) {
        size_t len = strlen(id);

        if (!fgets(buffer, sizeof(buffer), in)) {
            fputs("guestctl: the VMM closed the channel\n", stderr);
            exit(126);
        }
        if (buffer[0] != '=' || strncmp(buffer + 1, id, len) || buffer[1 + len] != ' ')
            continue;
        status = strtol(buffer + 1 + len, &end, 10);
        left = strtoul(end, NULL, 10);
        break;
    }
    while (left) {
        size_t n = fread(buffer, 1, left < sizeof(buffer) ? left : sizeof(buffer), in);

        if (!n) {
            fputs("guestctl: the VMM closed the channel in the middle of an answer\n", stderr);
            exit(126);
        }
        write_all(out, buffer, n);
        left -= n;
    }
    return status;
}

static int request(const char* verb, const char* what, int out)
{
    char line[60 * 1024];
    const char* id;
    FILE* in;

    if (snprintf(line, sizeof(line), "%s %s", verb, what) >= (int)sizeof(line) ||
        strchr(line, '\n')) {
        fputs("guestctl: a request is one line of less than 60 kB\n", stderr);
        exit(2);
    }
    in = ask(line, &id);
    return take_answer(in, id, out);
}

static int do_get(const char* path, const char* local)
{
    int out = open(local, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    int status;

    if (out < 0)
        die(local);
    status = request("get", path, out);
    if (close(out))
        die(local);
    return status;
}

static int do_put(const char* local, const char* path)
{
    static char buffer[CHUNK];
    char line[4096 + 32];
    struct stat st;
    const char* id;
    FILE* in;
    ssize_t n;
    int fd = open(local, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &st))
        die(local);
    snprintf(line, sizeof(line), "put %zu %s", (size_t)st.st_size, path);
    in = ask(line, &id);
    while ((n = read(fd, buffer, sizeof(buffer))) > 0)
        write_all(fileno(in), buffer, n);
    return take_answer(in, id, STDERR_FILENO);
}

/* The channel ends when the VMM does. */
static int do_end(const char* command)
{
    char line[4096];
    const char* id;
    FILE* in;

    snprintf(line, sizeof(line), "run %s", command);
    in = ask(line, &id);
    while (fgets(line, sizeof(line), in))
        ;
    return 0;
}

/* Also right for a VMM that has exited but was not reaped yet. */
static int do_gone(void)
{
    struct pollfd poll_fd = {.events = POLLIN};
    char path[128];
    FILE* file;
    int pid;

    snprintf(path, sizeof(path), "%s/pid", directory);
    file = fopen(path, "r");
    if (!file || fscanf(file, "%d", &pid) != 1)
        die(path);
    fclose(file);
    poll_fd.fd = syscall(SYS_pidfd_open, pid, 0);
    if (poll_fd.fd < 0)
        return errno == ESRCH ? 0 : 125;
    while (poll(&poll_fd, 1, -1) < 0)
        ;
    return 0;
}

static int do_qmp(const char* command)
{
    static char line[CHUNK];
    int fd = must_connect("qmp.sock");
    FILE* in = fdopen(fd, "r");
    const char* handshake = "{\"execute\":\"qmp_capabilities\"}\n";
    int answers = 0;

    write_all(fd, handshake, strlen(handshake));
    write_all(fd, command, strlen(command));
    write_all(fd, "\n", 1);
    while (fgets(line, sizeof(line), in)) {
        if (strncmp(line, "{\"return\"", 9) && strncmp(line, "{\"error\"", 8))
            continue; /* greeting, events */
        if (++answers == 2) {
            fputs(line, stdout);
            return line[2] == 'e';
        }
    }
    fputs("guestctl: the VMM closed the QMP socket\n", stderr);
    return 126;
}

static void on_alarm(int signal)
{
    static const char text[] = "guestctl: no answer in time\n";

    (void)signal;
    if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0)
        _exit(123);
    _exit(124);
}

int main(int argc, char** argv)
{
    const char* run = getenv("GUEST_RUN");
    const char* name = "guest";
    char path[90];
    int opt;

    unsigned seconds = 300;

    while ((opt = getopt(argc, argv, "+n:t:")) != -1) {
        if (opt == 'n')
            name = optarg;
        else if (opt == 't')
            seconds = strtoul(optarg, NULL, 10);
        else
            usage();
    }
    argc -= optind;
    argv += optind;
    if (argc < 1)
        usage();
    snprintf(path, sizeof(path), "%s/%s", run ? run : "/run/guest", name);
    directory = path;
    signal(SIGALRM, on_alarm);
    alarm(seconds);

    if (!strcmp(argv[0], "wait") && argc == 1)
        return request("run", "true", STDOUT_FILENO);
    if (!strcmp(argv[0], "run") && argc == 2)
        return request("run", argv[1], STDOUT_FILENO);
    if (!strcmp(argv[0], "get") && argc == 3)
        return do_get(argv[1], argv[2]);
    if (!strcmp(argv[0], "put") && argc == 3)
        return do_put(argv[1], argv[2]);
    if (!strcmp(argv[0], "end") && argc == 2)
        return do_end(argv[1]);
    if (!strcmp(argv[0], "gone") && argc == 1)
        return do_gone();
    if (!strcmp(argv[0], "qmp") && argc == 2)
        return do_qmp(argv[1]);
    usage();
}
