// SPDX-License-Identifier: GPL-2.0-or-later
// usage: hook_churn VMM-PID CHANGES FOLDER
//
// Watches a guest by hooks that stay, and on SIGUSR1 adds and removes others, single ones and
// batches, until so many changes were made. On SIGINT it detaches. Its files: FOLDER/ready,
// FOLDER/changed (marks of how far it is), FOLDER/hooks.json (the events of the hooks that stay).
// Every event that was recorded, of all hooks, must come out once: their numbers in each ring
// leave no gap. Uses the public library and nothing else. Prints `ok NAME` and `not ok NAME`.
#include <shadowmonitor/monitor.h>
#include <shadowmonitor/output.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <poll.h>
#include <set>
#include <sys/signalfd.h>
#include <unistd.h>

namespace {

using namespace shadowmon;

const std::vector<std::string> staying = {
    "vfs_read", "vfs_write", "do_exit", "wake_up_new_task", "vfs_read%return", "vfs_write%return"};
// Called all the time; both ways into the gate.
const std::vector<std::string> singles = {"vfs_open", "fput",      "do_idle",  "path_openat",
                                          "schedule", "vfs_fstat", "vfs_open", "vfs_statx"};
const std::vector<std::string> some = {
    "do_filp_open",   "vfs_getattr",     "dput",      "mntput",       "path_put", "do_sys_openat2",
    "filp_close",     "kmem_cache_free", "alloc_pid", "free_pid",     "mmput",    "wake_up_process",
    "try_to_wake_up", "handle_mm_fault", "dup_fd",    "getname_flags"};
const std::vector<std::string> many = {"kmem_*", "do_*", "tcp_*"};
constexpr uint64_t limit = 500; // of each hook of a batch and second

bool all_good = true;

void report(bool good, const char* name, const std::string& why = {}) {
    std::printf("%s %s\n", good ? "ok" : "not ok", name);
    if (!good)
        std::printf("    %s\n", why.c_str());
    std::fflush(stdout);
    all_good &= good;
}

/// Watches the numbers of events in each ring.
class Sequence {
  public:
    void event(const Event& event) {
        if (event.get_if<HookRetired>())
            return; // of the host's own
        auto [next, first] = next_.try_emplace(event.ring, event.seq);
        if (event.seq != next->second && problem_.empty())
            problem_ = "ring " + std::to_string(event.ring) + ": event " +
                       std::to_string(event.seq) + " in place of " + std::to_string(next->second);
        next->second = event.seq + 1;
        count_++;
    }
    const std::string& problem() const { return problem_; }
    uint64_t count() const { return count_; }

  private:
    std::map<uint32_t, uint64_t> next_;
    std::string problem_;
    uint64_t count_ = 0;
};

/// Changes hooks again and again. Keeps what the guest's vCPUs stood still for, by hooks at a time.
class Churn {
  public:
    explicit Churn(Monitor& monitor) : monitor_(monitor) {}

    /// False if something failed, or the trace ended: problem() says what.
    bool run(uint64_t changes) {
        for (uint64_t round = 0; changes_ < changes; round++) {
            const std::string& single = singles[round % singles.size()];
            bool batch = round % 4 == 0, big = round % 256 == 0;
            std::vector<uint32_t> one, more;
            if (!add({single}, {}, one))
                return false;
            if (batch && !add(big ? many : some, limit, more))
                return false;
            if (batch && (!take("disable", more) || !take("enable", more)))
                return false;
            if (!take("remove", one) || (batch && !take("remove", more)))
                return false;
        }
        return true;
    }

    uint64_t changes() const { return changes_; }
    uint64_t hooks() const { return hooks_; }
    uint64_t hits() const { return hits_; }
    const std::string& problem() const { return problem_; }

    void print_costs() const {
        for (auto [what, times] : times_) {
            std::sort(times.begin(), times.end());
            auto us = [](Clock::duration time) {
                return static_cast<long long>(
                    std::chrono::duration_cast<std::chrono::microseconds>(time).count());
            };
            std::printf("# %zu times %s %s: %lld us in the middle, %lld us at most\n", times.size(),
                        what.first.c_str(), what.second ? "many" : "one",
                        us(times[times.size() / 2]), us(times.back()));
        }
        for (auto [size, ticks] : pauses_) {
            std::sort(ticks.begin(), ticks.end());
            std::printf(
                "# %zu batches of %zu hook%s: pause %llu ticks in the middle, %llu at most\n",
                ticks.size(), size, size == 1 ? "" : "s",
                static_cast<unsigned long long>(ticks[ticks.size() / 2]),
                static_cast<unsigned long long>(ticks.back()));
        }
    }

  private:
    using Clock = std::chrono::steady_clock;

    bool add(const std::vector<std::string>& places, std::optional<uint64_t> limit,
             std::vector<uint32_t>& ids) {
        const auto start = Clock::now();
        auto reply = monitor_.add_hooks(places, limit);
        if (!changed(reply, "add", start))
            return false;
        for (const HookStatus& hook : reply->hooks)
            ids.push_back(hook.id);
        return !ids.empty() || failed("add: no hook was added for " + places.front());
    }

    bool take(const std::string& how, const std::vector<uint32_t>& ids) {
        std::vector<std::string> names;
        for (uint32_t id : ids)
            names.push_back(std::to_string(id));
        const auto start = Clock::now();
        auto reply = how == "remove"    ? monitor_.remove_hooks(names)
                     : how == "disable" ? monitor_.disable_hooks(names)
                                        : monitor_.enable_hooks(names);
        if (!changed(reply, how, start))
            return false;
        if (how == "remove")
            for (const HookStatus& hook : reply->hooks)
                hits_ += hook.hits();
        return true;
    }

    bool changed(const Result<HookReply>& reply, const std::string& what, Clock::time_point start) {
        if (!reply)
            return failed(what + ": " + reply.error().message());
        changes_++;
        hooks_ += reply->hooks.size();
        pauses_[reply->hooks.size()].push_back(reply->pause_tsc);
        times_[{what, reply->hooks.size() > 1}].push_back(Clock::now() - start);
        if (changes_ % 250 == 0)
            std::fprintf(stderr, "%llu changes\n", static_cast<unsigned long long>(changes_));
        if (auto end = monitor_.dispatch())
            return failed(std::string("the trace ended: ") + describe(*end));
        return true;
    }

    bool failed(std::string why) {
        problem_ = std::move(why);
        return false;
    }

    Monitor& monitor_;
    uint64_t changes_ = 0; ///< batches with the vCPUs stopped
    uint64_t hooks_ = 0;   ///< in them
    uint64_t hits_ = 0;    ///< of hooks that were removed
    std::string problem_;
    std::map<size_t, std::vector<uint64_t>> pauses_; ///< by the number of hooks
    std::map<std::pair<std::string, bool>, std::vector<Clock::duration>> times_; ///< of whole calls
};

void mark(const std::string& path) { std::ofstream(path) << "\n"; }

} // namespace

int main(int argc, char** argv) {
    if (argc != 4)
        return std::fprintf(stderr, "usage: hook_churn VMM-PID CHANGES FOLDER\n"), 2;
    const uint64_t wanted = std::strtoull(argv[2], nullptr, 10);
    const std::string folder = argv[3];
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, nullptr);
    const int signals = signalfd(-1, &set, SFD_CLOEXEC);

    auto output = open_output(OutputFormat::kJson, folder + "/hooks.json");
    if (!output)
        return std::fprintf(stderr, "%s\n", output.error().message().c_str()), 1;
    SummaryCollector collector;
    Sequence sequence;
    const std::set<std::string_view> kept(staying.begin(), staying.end());
    Callbacks callbacks;
    callbacks.event = [&](const Event& event) {
        sequence.event(event);
        collector.event(event);
        const auto* hit = event.get_if<HookHit>();
        if (!hit || kept.contains(hit->name))
            (*output)->event(event);
    };
    callbacks.notice = [](const std::string& what) { std::fprintf(stderr, "%s\n", what.c_str()); };
    callbacks.step = callbacks.notice;
    Options options;
    options.hooks = staying;
    options.when_full = WhenFull::block;
    auto monitor = Monitor::attach(std::atoi(argv[1]), options, callbacks);
    report(monitor.has_value(), "churn_attach", monitor ? "" : monitor.error().message());
    if (!monitor)
        return 1;
    auto listening = monitor->listen();
    report(listening.has_value(), "churn_listens", listening ? "" : listening.error().message());
    mark(folder + "/ready");

    Churn churn(*monitor);
    auto fd = monitor->fd();
    report(fd.has_value(), "churn_has_a_descriptor", fd ? "" : fd.error().message());
    for (bool stop = !fd; !stop;) {
        pollfd fds[] = {{*fd, POLLIN, 0}, {signals, POLLIN, 0}};
        poll(fds, 2, -1);
        if (auto end = fds[0].revents ? monitor->dispatch() : std::nullopt) {
            report(false, "churn_goes_on", describe(*end));
            break;
        }
        signalfd_siginfo info{};
        if (!fds[1].revents || read(signals, &info, sizeof(info)) != sizeof(info))
            continue;
        if (info.ssi_signo == SIGUSR1) {
            bool good = churn.run(wanted);
            report(good && churn.changes() >= wanted, "churn_all_changes_made", churn.problem());
            mark(folder + "/changed");
        } else {
            stop = true;
        }
    }
    std::set<std::string> left;
    for (const HookStatus& hook : monitor->hooks())
        left.insert(hook.name);
    report(left == std::set<std::string>(staying.begin(), staying.end()), "churn_leaves_the_others",
           std::to_string(left.size()) + " names");
    auto detached = monitor->detach();
    report(detached.has_value(), "churn_detach", detached ? "" : detached.error().message());
    report(sequence.problem().empty(), "churn_numbers_without_gap", sequence.problem());
    report(monitor->lost().total() == 0, "churn_nothing_lost",
           std::to_string(monitor->lost().total()));
    report(churn.hits() > wanted, "churn_hooks_were_hit", std::to_string(churn.hits()) + " hits");
    Summary summary = collector.summary(monitor->lost());
    summary.late = monitor->late();
    summary.figures = monitor->figures();
    auto written = (*output)->finish(summary);
    report(written.has_value(), "churn_output", written ? "" : written.error().message());
    std::printf(
        "# %llu changes of %llu hooks; %llu events, %llu hits of hooks that came and went\n",
        static_cast<unsigned long long>(churn.changes()),
        static_cast<unsigned long long>(churn.hooks()),
        static_cast<unsigned long long>(sequence.count()),
        static_cast<unsigned long long>(churn.hits()));
    churn.print_costs();
    return all_good ? 0 : 1;
}
