// SPDX-License-Identifier: GPL-2.0-or-later
/// What one monitored event costs a guest, in instructions and VM exits, beside one exit handled in
/// the kernel and one handled in user space, all in one run. For level 1 of the lab, where the TSC
/// counts instructions retired; on real hardware the same figures are TSC ticks.
///
/// The guest is the small one of tests/kvm with the real payload. So this is also the first thing
/// to run when the gate or the payload has been changed.
#include "tests/kvm/lib/monitored_guest.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <utility>

extern "C" {
extern const uint8_t bench_text_begin[], bench_text_end[], bench_nothing[], bench_hooked[],
    bench_unhooked[], bench_called[], bench_uncalled[], bench_kernel_exit[], bench_user_exit[],
    bench_site[], bench_site_end[], bench_call_site[], bench_call_site_end[];
}

namespace shadowmon::kvmtest {

namespace {

constexpr unsigned batch_size = 50; // Short, so that most batches meet no interrupt of the host.
constexpr unsigned batch_count = 60;

constexpr uint64_t results_gpa = MonitoredGuest::free_gpa;
constexpr uint64_t task_gpa = MonitoredGuest::task_gpa;
constexpr uint64_t next_task_gpa = MonitoredGuest::next_task_gpa;
constexpr uint64_t regs_gpa = MonitoredGuest::regs_at(0);

struct Cost {
    uint64_t least, median;
    double exits;      // per event, of the batch that had the fewest
    double shadow = 0; // between claim and release of the slot: mean of the payload's samples
};

constexpr HookSite by_int_site = {7, bench_site, bench_site_end, false};
constexpr HookSite by_call_site = {8, bench_call_site, bench_call_site_end, true};

/// The guest, the compartment in it, and its rings, which are read as the events come.
class Bench {
  public:
    Bench() { guest_.attach(); }

    Cost measure(const uint8_t* function) {
        return measure(function, 0, 0, [] {});
    }
    /// Runs the hooked function and checks every record that it made.
    Cost measure_event(const HookSite& site, const uint8_t* function, uint16_t type, uint64_t arg1,
                       uint64_t arg2);
    uint64_t violations() {
        return guest_.views().stats().violations + guest_.views().stats().bad_vmfunc;
    }

  private:
    template <typename AfterBatch>
    Cost measure(const uint8_t* function, uint64_t arg1, uint64_t arg2, AfterBatch after);
    void check(const Record& record, uint32_t id, uint16_t type);
    double mean_sample();

    MonitoredGuest guest_{{bench_text_begin, bench_text_end}, {by_int_site, by_call_site}, {}};
};

template <typename AfterBatch>
Cost Bench::measure(const uint8_t* function, uint64_t arg1, uint64_t arg2, AfterBatch after) {
    std::vector<uint64_t> all;
    uint64_t fewest_exits = ~0ull;
    for (unsigned batch = 0; batch <= batch_count; batch++) {
        uint64_t before = guest_.views().vcpu(0).exits;
        guest_.vm()
            .vcpu(0)
            .call(guest_.function(function), arg1, arg2, Gpa{results_gpa}, batch_size)
            .must_return();
        uint64_t exits =
            guest_.views().vcpu(0).exits - before - 1; // less the one that ends the call
        after();
        if (batch == 0)
            continue; // It maps what the others need.
        fewest_exits = std::min(fewest_exits, exits);
        const auto* results = &guest_.vm().at<uint64_t>(results_gpa);
        all.insert(all.end(), results, results + batch_size);
    }
    std::sort(all.begin(), all.end());
    return {all.front(), all[all.size() / 2], static_cast<double>(fewest_exits) / batch_size};
}

void Bench::check(const Record& record, uint32_t id, uint16_t type) {
    const sm_event_header& h = record.header;
    SM_CHECK_EQ(h.type, type, "the event is of its hook's type");
    SM_CHECK_EQ(h.flags, 0, "task and body could be read");
    SM_CHECK_EQ(h.hook, id, "the event names its hook");
    SM_CHECK_EQ(h.task, task_gpa, "the event names the task");
    SM_CHECK_EQ(h.pid, 100, "pid");
    SM_CHECK_EQ(h.tid, 101, "tid");
    SM_CHECK_EQ(h.ppid, 1, "ppid");
    SM_CHECK_EQ(h.uid, 33, "uid");
    SM_CHECK_EQ(h.cr3 & ~0xfffull, TG_PML4_GPA, "cr3");
    SM_CHECK(memcmp(h.comm, "bench", 6) == 0);
    if (type == SM_EVENT_SYSCALL_ENTER) {
        const uint64_t args[6] = {1014, 1013, 1012, 1007, 1009, 1008};
        SM_CHECK_EQ(record.syscall_enter.nr, 1015, "number");
        SM_CHECK(memcmp(record.syscall_enter.args, args, sizeof(args)) == 0);
    } else if (type == SM_EVENT_SYSCALL_EXIT) {
        SM_CHECK_EQ(record.syscall_exit.nr, 1015, "number");
        SM_CHECK_EQ(record.syscall_exit.ret, 1010, "return value");
    } else if (type == SM_EVENT_HOOK) {
        SM_CHECK_EQ(record.hook.args[0], regs_gpa, "first argument");
        SM_CHECK_EQ(record.hook.args[1], next_task_gpa, "second argument");
        SM_CHECK_EQ(record.hook.ax, 0, "ax");
    } else {
        SM_CHECK_EQ(record.context_switch.next_task, next_task_gpa, "next task");
        SM_CHECK_EQ(record.context_switch.next_pid, 200, "next pid");
        SM_CHECK_EQ(record.context_switch.prev_state, 1, "state");
        SM_CHECK(memcmp(record.context_switch.next_comm, "next", 5) == 0);
    }
}

Cost Bench::measure_event(const HookSite& site, const uint8_t* function, uint16_t type,
                          uint64_t arg1, uint64_t arg2) {
    guest_.hook(site.id).type = type;
    uint64_t recorded = 0, tsc = 0, batches = 0;
    mean_sample();
    Cost cost = measure(function, arg1, arg2, [&] {
        for (const Record& record : guest_.take_records()) {
            check(record, site.id, type);
            SM_CHECK(record.header.tsc > tsc);
            tsc = record.header.tsc;
            recorded++;
        }
        SM_CHECK_EQ(recorded, ++batches * batch_size, "every pass made one event");
    });
    cost.shadow = mean_sample();
    return cost;
}

/// Since the last time.
double Bench::mean_sample() {
    uint64_t samples = 0, ticks = 0;
    for (uint32_t i = 0; i < guest_.slots(); i++) {
        samples += std::exchange(guest_.slot(i).sampled, 0);
        ticks += std::exchange(guest_.slot(i).sampled_ticks, 0);
    }
    return samples ? static_cast<double>(ticks) / static_cast<double>(samples) : 0;
}

void print(const char* what, const Cost& cost, const Cost& base) {
    printf("| %-58s | %8llu | %8llu | %5.2f |\n", what,
           (unsigned long long)(cost.least - base.least),
           (unsigned long long)(cost.median - base.median), cost.exits - base.exits);
}

/// As the summary of a trace has it: the mean of the events that were sampled.
void print_shadow(const char* what, const Cost& cost) {
    SM_CHECK(cost.shadow > 0);
    printf("| %-58s | %8s | %8.1f |       |\n", what, "mean", cost.shadow);
}

} // namespace

void test_main() {
    require_hardware();
    Bench bench;
    const Cost nothing = bench.measure(bench_nothing);
    const Cost unhooked = bench.measure(bench_unhooked);
    const Cost uncalled = bench.measure(bench_uncalled);
    struct Event {
        const char* name;
        uint16_t type;
        uint64_t arg1, arg2;
        Cost by_int{}, by_call{};
    } events[] = {
        {"function hook", SM_EVENT_HOOK, regs_gpa, next_task_gpa},
        {"system call, entry", SM_EVENT_SYSCALL_ENTER, regs_gpa, 0},
        {"system call, exit", SM_EVENT_SYSCALL_EXIT, regs_gpa, 0},
        {"process switch", SM_EVENT_SWITCH, task_gpa, next_task_gpa},
    };
    for (Event& event : events) {
        event.by_int =
            bench.measure_event(by_int_site, bench_hooked, event.type, event.arg1, event.arg2);
        event.by_call =
            bench.measure_event(by_call_site, bench_called, event.type, event.arg1, event.arg2);
    }
    const Cost kernel_exit = bench.measure(bench_kernel_exit);
    const Cost user_exit = bench.measure(bench_user_exit);
    printf("| %-58s | %8s | %8s | %5s |\n", "what", "least", "median", "exits");
    printf("|-%.58s-|---------:|---------:|------:|\n",
           "----------------------------------------------------------");
    for (const Event& event : events) {
        print(fmt::format("event by INT: {}", event.name).c_str(), event.by_int, unhooked);
        print_shadow("  its time with a slot", event.by_int);
        print(fmt::format("event by CALL: {}", event.name).c_str(), event.by_call, uncalled);
        print_shadow("  its time with a slot", event.by_call);
    }
    print("one exit handled in the kernel (CPUID)", kernel_exit, nothing);
    print("one exit handled in user space (port output)", user_exit, nothing);
    SM_CHECK_EQ(bench.violations(), 0, "no access was forbidden");
    for (const Event& event : events)
        SM_CHECK(event.by_int.exits == 0 && event.by_call.exits == 0);
}

} // namespace shadowmon::kvmtest
