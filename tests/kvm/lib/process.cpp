// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/kvm/lib/process.h"

#include "tests/kvm/lib/check.h"

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <utility>

extern char** environ;

namespace shadowmon::kvmtest {

namespace {
constexpr int channel_fd = 100;
constexpr char role_option[] = "--role";
} // namespace

void Channel::send(const Message& message) const {
    SM_CHECK_EQ(::send(fd_.get(), &message, sizeof message, MSG_NOSIGNAL), sizeof message,
                "the other process takes the message");
}

bool Channel::try_receive(Message& message) const {
    ssize_t size;
    do {
        size = recv(fd_.get(), &message, sizeof message, 0);
    } while (size < 0 && errno == EINTR);
    return size == sizeof message;
}

Message Channel::receive(uint64_t what) const {
    Message message;
    if (!try_receive(message))
        SM_FAIL("the other process ended, a message of type %llu was due",
                (unsigned long long)what);
    SM_CHECK_EQ(message.what, what, "the other process says what was due");
    return message;
}

Child::Child(std::string_view role, const std::vector<uint64_t>& args) {
    int ends[2];
    SM_CHECK_SYS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends));
    channel_ = Channel(Fd(ends[0]));
    Fd theirs(ends[1]);

    std::vector<std::string> words{"test", role_option, std::string(role)};
    for (uint64_t arg : args)
        words.push_back(std::to_string(arg));
    std::vector<char*> argv;
    argv.reserve(words.size() + 1);
    for (auto& word : words)
        argv.push_back(word.data());
    argv.push_back(nullptr);

    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, theirs.get(), channel_fd);
    int error = posix_spawn(&pid_, "/proc/self/exe", &actions, nullptr, argv.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    if (error)
        SM_FAIL("cannot start role %s: %s", words[2].c_str(), strerror(error));
}

Child::~Child() {
    if (pid_ > 0) {
        kill();
        wait_status();
    }
}

void Child::kill() { SM_CHECK_SYS(::kill(pid_, SIGKILL)); }

int Child::wait_status() {
    int status;
    while (waitpid(pid_, &status, 0) < 0) {
        if (errno != EINTR)
            SM_FAIL("waitpid: %m");
    }
    pid_ = -1;
    return status;
}

void Child::must_exit() {
    int status = wait_status();
    if (!WIFEXITED(status) || WEXITSTATUS(status))
        SM_FAIL("the role process ended with status 0x%x", status);
}

void Child::reap_killed() {
    int status = wait_status();
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
        SM_FAIL("the role process ended with status 0x%x, it should have been killed", status);
}

Role*& Role::first() {
    static Role* role = nullptr;
    return role;
}

Role::Role(const char* name, Function function)
    : name_(name), function_(function), next_(std::exchange(first(), this)) {}

bool Role::run_from(int argc, char** argv) {
    if (argc < 3 || strcmp(argv[1], role_option) != 0)
        return false;
    SM_CHECK_SYS(fcntl(channel_fd, F_SETFD, FD_CLOEXEC));
    Channel channel{Fd(channel_fd)};
    std::vector<uint64_t> args;
    for (int i = 3; i < argc; i++)
        args.push_back(strtoull(argv[i], nullptr, 10));
    for (Role* role = first(); role; role = role->next_) {
        if (!strcmp(role->name_, argv[2])) {
            role->function_(channel, args);
            return true;
        }
    }
    SM_FAIL("no role %s", argv[2]);
}

} // namespace shadowmon::kvmtest
