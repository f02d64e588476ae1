// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/trace_command.h"

#include "cli/exit_code.h"
#include "cli/signals.h"

#include <bit>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fcntl.h>
#include <fmt/format.h>
#include <shadowmonitor/monitor.h>
#include <shadowmonitor/output.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

namespace shadowmon {

namespace {

constexpr const char* all_monitors = "syscalls,switches";
constexpr unsigned detach_seconds = 20;

Error bad_usage(std::string message) { return Error(std::move(message), EINVAL); }

Result<Options> trace_options(const TraceArguments& arguments) {
    Options options;
    options.hooks = arguments.hooks;
    if (arguments.hook_limit > 0)
        options.hook_limit = arguments.hook_limit;
    if (arguments.monitor || options.hooks.empty()) {
        auto monitors = MonitorSet::parse(arguments.monitor.value_or(all_monitors));
        if (!monitors)
            return fail(bad_usage("--monitor: " + monitors.error().message()));
        options.monitors = *monitors;
    }
    if (!std::has_single_bit(arguments.ring_size) || arguments.ring_size < Options::min_ring_size ||
        arguments.ring_size > Options::max_ring_size)
        return fail(bad_usage(fmt::format("--ring-size: {} bytes; a power of two from 4K to 4M is "
                                          "possible",
                                          arguments.ring_size)));
    if (!std::isfinite(arguments.duration) || arguments.duration < 0 || arguments.duration > 1e9)
        return fail(bad_usage("--duration: a number of seconds is needed"));
    if (arguments.duration > 0 && arguments.until_exit)
        return fail(bad_usage("--duration and --until-exit exclude each other"));
    options.call_gate = arguments.gate == "auto";
    options.placement = arguments.place == "host"    ? Placement::host
                        : arguments.place == "guest" ? Placement::guest
                                                     : Placement::automatic;
    options.ring_size = arguments.ring_size;
    options.when_full = arguments.on_full == "block" ? WhenFull::block : WhenFull::drop;
    return options;
}

Status read_symbols(const TraceArguments& arguments, Options& options) {
    if (arguments.system_map.empty() && arguments.vmlinux.empty())
        return {};
    auto symbols = arguments.vmlinux.empty() ? read_system_map(arguments.system_map)
                                             : read_vmlinux(arguments.vmlinux);
    if (!symbols)
        return fail(symbols.error());
    options.symbols = *symbols;
    return {};
}

Status tell_ready(const TraceArguments& arguments) {
    constexpr std::string_view word = "ready\n";
    if (arguments.ready_fd >= 0 &&
        ::write(arguments.ready_fd, word.data(), word.size()) != static_cast<ssize_t>(word.size()))
        return fail(Error::from_errno(fmt::format("write to --ready-fd {}", arguments.ready_fd)));
    if (arguments.ready_file.empty())
        return {};
    // Under another name first, so that who waits for the file finds it whole.
    std::string temporary = arguments.ready_file + ".new";
    int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    Status status;
    if (fd < 0 || ::write(fd, word.data(), word.size()) != static_cast<ssize_t>(word.size()) ||
        ::rename(temporary.c_str(), arguments.ready_file.c_str()) != 0)
        status = fail(Error::from_errno("write --ready-file " + arguments.ready_file));
    if (fd >= 0)
        ::close(fd);
    return status;
}

int exit_code_of(TraceEnd end) {
    switch (end) {
    case TraceEnd::asked:
    case TraceEnd::time_over:
    case TraceEnd::vm_gone:
        return exit_done;
    case TraceEnd::vm_reset:
    case TraceEnd::panic:
        return exit_guest_died;
    case TraceEnd::output:
        return exit_output;
    case TraceEnd::failed:
        return exit_failed;
    }
    return exit_failed;
}

int fail_exit(const Error& error, int code = exit_failed) {
    spdlog::error("{}", error.message());
    return code;
}

} // namespace

int run_trace(const TraceArguments& arguments) {
    auto options = trace_options(arguments);
    if (!options)
        return fail_exit(options.error(), exit_usage);
    auto format = parse_output_format(arguments.format);
    if (!format)
        return fail_exit(format.error(), exit_usage);
    Signals signals;

    // Before the VM is touched: the files may be bad.
    if (auto status = read_symbols(arguments, *options); !status)
        return fail_exit(status.error());
    auto vm = Vm::open(arguments.vm);
    if (!vm)
        return fail_exit(vm.error());
    // Only now: a mistyped pid must not empty a file.
    auto output = open_output(*format, arguments.output);
    if (!output)
        return fail_exit(output.error(), exit_output);

    SummaryCollector collector;
    Callbacks callbacks;
    callbacks.event = [&](const Event& event) {
        collector.event(event);
        (*output)->event(event);
    };
    callbacks.batch_end = [&] { return (*output)->flush(); };
    callbacks.notice = [](const std::string& notice) { spdlog::warn("{}", notice); };
    callbacks.step = [](const std::string& step) { spdlog::debug("{}", step); };
    const std::string vmm_name = vm->vmm_name();
    auto monitor = Monitor::attach(std::move(*vm), *options, std::move(callbacks));
    if (!monitor)
        return fail_exit(monitor.error());
    spdlog::info("watching process {} ({}), Linux {}, {} hooks", arguments.vm, vmm_name,
                 monitor->kernel_release(), monitor->hooks().size());
    if (!arguments.no_control) {
        auto listening = monitor->listen(arguments.control);
        if (!listening && !arguments.control.empty())
            return fail_exit(listening.error());
        if (!listening)
            spdlog::warn("{}; `shadowmon hooks` will not find this trace",
                         listening.error().message());
    }

    int code = exit_failed;
    if (auto ready = tell_ready(arguments); !ready) {
        spdlog::error("{}", ready.error().message());
    } else {
        RunUntil until{.duration = {}, .fd = signals.fd()};
        if (arguments.duration > 0)
            until.duration.emplace(static_cast<int64_t>(std::ceil(arguments.duration * 1000)));
        TraceEnd end = monitor->run(until);
        signals.take();
        code = exit_code_of(end);
        if (monitor->error())
            spdlog::error("{}", monitor->error()->message());
        else
            spdlog::info("{}{}", describe(end), end == TraceEnd::vm_gone ? "" : "; leaving it");
    }
    Status stopped = monitor->stop();
    Status detached;
    {
        Signals::Interrupting interrupting(signals, detach_seconds);
        detached = monitor->detach();
    }
    const bool undone = detached || detached.error().code() == EINTR;
    if (code == exit_done && !(stopped && undone))
        code = exit_failed;

    Summary summary = collector.summary(monitor->lost());
    summary.figures = monitor->figures();
    summary.late = monitor->late();
    if (auto written = (*output)->finish(summary); !written) {
        spdlog::error("{}", written.error().message());
        if (code == exit_done || code == exit_guest_died)
            code = exit_output;
    }
    if (arguments.summary) {
        std::string text = to_text(summary);
        std::fwrite(text.data(), 1, text.size(), stderr);
    }
    return code;
}

} // namespace shadowmon
