// SPDX-License-Identifier: GPL-2.0-or-later
// Counts the calls of a function of a VM's kernel by process, for some seconds or until Ctrl-C:
//     count_calls VMM-PID FUNCTION [SECONDS]
#include <shadowmonitor/escape.h>
#include <shadowmonitor/monitor.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <sys/signalfd.h>

int main(int argc, char** argv) {
    if (argc < 3)
        return std::fprintf(stderr, "usage: %s VMM-PID FUNCTION [SECONDS]\n", argv[0]), 2;
    sigset_t ctrl_c;
    sigemptyset(&ctrl_c);
    sigaddset(&ctrl_c, SIGINT);
    sigprocmask(SIG_BLOCK, &ctrl_c, nullptr);
    shadowmon::RunUntil until{{}, signalfd(-1, &ctrl_c, SFD_CLOEXEC)};
    if (argc > 3)
        until.duration = std::chrono::seconds(std::atoi(argv[3]));

    std::map<std::pair<uint32_t, std::string>, unsigned long> calls;
    shadowmon::Callbacks callbacks;
    callbacks.event = [&](const shadowmon::Event& event) {
        if (event.get_if<shadowmon::HookHit>())
            calls[{event.process.pid, shadowmon::escape(event.process.comm.view(), true)}]++;
    };
    shadowmon::Options options;
    options.hooks = {argv[2]};
    auto monitor = shadowmon::Monitor::attach(std::atoi(argv[1]), options, callbacks);
    if (!monitor)
        return std::fprintf(stderr, "%s\n", monitor.error().message().c_str()), 1;
    std::fprintf(stderr, "counting\n");
    monitor->run(until);
    auto detached = monitor->detach();
    for (const auto& [process, count] : calls)
        std::printf("%7u %-16s %lu\n", process.first, process.second.c_str(), count);
    std::fprintf(stderr, "%lu lost\n", static_cast<unsigned long>(monitor->lost().total()));
    return detached ? 0 : 1;
}
