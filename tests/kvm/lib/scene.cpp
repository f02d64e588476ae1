// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/kvm/lib/scene.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

namespace shadowmon::kvmtest {

namespace {
constexpr unsigned debug_vector = 1, ud_vector = 6;
constexpr uint64_t timer_vector = 0x50;
constexpr uint64_t deadline_mode = 2 << 17;
constexpr uint32_t msr_lvt_timer = 0x832;
constexpr unsigned try_limit = 2000;
/// Instructions that the time of the stop is varied by.
constexpr unsigned spin_spread = 24;
} // namespace

void require_one_cpu() {
    if (sysconf(_SC_NPROCESSORS_ONLN) != 1)
        skip("several CPUs: an exit cannot be put at an instruction");
}

Alarm::Alarm() {
    sigevent event{};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = SIGUSR1;
    event._sigev_un._tid = static_cast<int>(syscall(SYS_gettid));
    SM_CHECK_SYS(timer_create(CLOCK_MONOTONIC, &event, &timer_));
}

Alarm::~Alarm() { timer_delete(timer_); }

void Alarm::set(long ns) {
    itimerspec when{};
    when.it_value.tv_nsec = ns;
    SM_CHECK_SYS(timer_settime(timer_, 0, &when, nullptr));
}

Scene::Scene(unsigned vcpus, uint32_t slots, uint32_t ring_size)
    : guest({hooked_text_begin, hooked_text_end}, {all_ways[0].site, all_ways[1].site, loop_hook},
            {.vm = {.vcpus = vcpus, .irqchip = true}, .slots = slots, .ring_size = ring_size}) {
    vcpu().call(guest_function(guest_x2apic_on)).must_return();
    vcpu().set_msr(msr_lvt_timer, timer_vector | deadline_mode);
    const int tsc_khz = ioctl(vcpu().fd(), KVM_GET_TSC_KHZ);
    SM_CHECK(tsc_khz > 0);
    ns_per_instruction_ = 1e6 / tsc_khz;
    alarm_ns_ = static_cast<long>(4000 * ns_per_instruction_);
    guest.vm().set_gate(debug_vector, guest.function(hooked_debug_entry));
    guest.attach();
    const Way& way = all_ways[0];
    warm_up(way);
    if (!counts_instructions(way))
        skip("the TSC does not count instructions here");
    warm_up(way);
}

/// Passes take the same then, but for those that the host's clock interrupts.
bool Scene::counts_instructions(const Way& way) {
    std::array<uint64_t, 9> ticks;
    for (uint64_t& of_pass : ticks)
        of_pass = pass(way, way.function, 0, guest_flags);
    std::sort(ticks.begin(), ticks.end());
    return std::count(ticks.begin(), ticks.end(), ticks[ticks.size() / 2]) >
           static_cast<long>(ticks.size() / 2);
}

void Scene::prepare(const uint8_t* function, uint64_t delta, uint64_t flags, uint32_t next_sample) {
    for (uint32_t i = 0; i < guest.slots(); i++)
        guest.slot(i).next_sample = next_sample;
    vcpu().prepare(guest.function(function), {});
    volatile HookedControl& c = control();
    c.delta = delta;
    c.spin = 0;
    c.odd = 0;
    for (unsigned i = 0; i < HG_REGS - 1; i++) {
        c.in[i] = 0x1111000000000001u * (i + 1);
        c.out[i] = 0;
    }
    c.in[HG_REGS - 1] = flags;
    c.steps = 0;
}

Stop Scene::stop(const Way& way, uint32_t next_sample) {
    const uint64_t begin = guest.function(way.function).value;
    const uint64_t site = guest.function(way.site.site).value;
    const uint64_t end = guest.function(way.site.end).value;
    const auto step_size = static_cast<long>(150 * ns_per_instruction_);
    for (unsigned i = 0; i < try_limit; i++) {
        prepare(way.function, 0, guest_flags, next_sample);
        const unsigned more = random_() % spin_spread;
        control().spin = more / 2;
        control().odd = more % 2;
        vcpu().stop_at_signal();
        alarm_.set(alarm_ns_);
        const Outcome outcome = vcpu().run();
        alarm_.set(0);
        const bool early = !outcome.returned() && outcome.rip >= begin && outcome.rip < site;
        const bool met =
            outcome.end == Outcome::End::stopped && !early &&
            (outcome.rip == site || outcome.rip == end || in_compartment(Gva{outcome.rip}));
        const long change = static_cast<long>(random_() % step_size);
        if (met) {
            alarm_ns_ += change - step_size / 2;
            return {outcome.rip, guest.views().vcpu(0).view};
        }
        alarm_ns_ += early ? change : -change;
        SM_CHECK(alarm_ns_ > 0);
        if (!outcome.returned())
            vcpu().run().must_return();
        forget_records();
    }
    SM_FAIL("no exit can be put into a passage");
}

void Scene::end_pass(const Way& way) {
    static constexpr const char* reg_names[HG_REGS] = {"rax", "rcx", "rdx", "rbx",   "rbp", "rsi",
                                                       "rdi", "r8",  "r9",  "r10",   "r11", "r12",
                                                       "r13", "r14", "r15", "rflags"};
    constexpr unsigned rbx_index = 3;
    const uint64_t rsp = TG_STACK_GPA + TG_STACK_SIZE - 64 + 8;
    vcpu().run().must_return();
    SM_CHECK_EQ(vcpu().regs().rsp, rsp, "the stack is where it was");
    volatile HookedControl& c = control();
    for (unsigned i = 0; i < HG_REGS; i++) {
        const uint64_t expected = c.in[i] + (i == rbx_index && !way.site.is_call);
        if (c.out[i] != expected)
            SM_FAIL("%s is 0x%llx behind the hook, expected 0x%llx", reg_names[i],
                    (unsigned long long)c.out[i], (unsigned long long)expected);
    }
}

namespace {
LoopControl& user_loop(Scene& scene, unsigned vcpu) {
    return scene.guest.vm().at<LoopControl>(MonitoredGuest::free_gpa + vcpu * page_size);
}
} // namespace

void Scene::start_user_mode() {
    for (unsigned i = 0; i < guest.vm().nr_vcpus(); i++) {
        user_loop(*this, i) = {};
        guest.vm().vcpu(i).start(guest_function(guest_user_count),
                                 Gpa{MonitoredGuest::free_gpa + i * page_size});
    }
}

void Scene::end_user_mode() {
    for (unsigned i = 0; i < guest.vm().nr_vcpus(); i++) {
        *const_cast<volatile uint64_t*>(&user_loop(*this, i).stop) = 1;
        guest.vm().vcpu(i).wait().must_raise(ud_vector);
    }
}

void Scene::detach() {
    guest.detach();
    int result = 0;
    in_user_mode("the views are gone", [&] {
        result = Views::try_attach(guest.vm().fd());
        return result != -EEXIST;
    });
    SM_CHECK_EQ(result, 0, "one can attach again");
    SM_CHECK(guest.is_clean());
}

void Scene::attach() {
    guest.attach();
    forget_records = [this] { guest.take_records(); };
    warm_up(all_ways[0]);
    warm_up(all_ways[1]);
}

void Scene::must_have_recorded(const Way& way, unsigned number) {
    const std::vector<Record> records = guest.take_records();
    SM_CHECK_EQ(records.size(), number, "every event is recorded once");
    volatile HookedControl& c = control();
    for (const Record& record : records) {
        SM_CHECK_EQ(record.header.type, SM_EVENT_HOOK, "the event is of its hook's type");
        SM_CHECK_EQ(record.header.hook, way.site.id, "the event names its hook");
        SM_CHECK_EQ(record.header.flags, 0, "task and body could be read");
        SM_CHECK_EQ(record.header.task, MonitoredGuest::task_gpa, "task");
        SM_CHECK_EQ(record.header.ppid, 1, "ppid");
        SM_CHECK_EQ(record.header.uid, 33, "uid");
        SM_CHECK(record.header.tsc > tsc_);
        tsc_ = record.header.tsc;
        constexpr unsigned argument_regs[] = {6, 5, 2, 1, 7, 8}; // rdi rsi rdx rcx r8 r9
        for (unsigned i = 0; i < 6; i++)
            SM_CHECK_EQ(record.hook.args[i], c.in[argument_regs[i]], "an argument");
        SM_CHECK_EQ(record.hook.ax, c.in[0], "rax");
        SM_CHECK_EQ(record.hook.flags, c.in[HG_REGS - 1], "rflags");
    }
}

std::vector<uint64_t> Scene::interrupted() {
    std::vector<uint64_t> places;
    for (; interrupts_ < context().interrupts; interrupts_++)
        places.push_back(uint64_t{context().log[interrupts_ & TG_CTX_LOG_MASK]});
    return places;
}

Trace Scene::find_trace(const Way& way, uint32_t next_sample) {
    const uint64_t hooked = least_ticks(way, way.function, guest_flags, next_sample);
    const uint64_t plain = least_ticks(way, way.plain, guest_flags);
    guest.take_records();
    // The places, of which the first is the hook's and the last is behind it.
    const size_t number = hooked - plain + 2;
    Trace trace;
    for (unsigned passages = 0; trace.views.size() < number; passages++) {
        SM_CHECK(passages < 100 * number);
        const Stop at = stop(way, next_sample);
        say_on_failure(fmt::format("{}, stopped at {}", way.name, name_of(at)));
        const auto [place, is_new] = trace.views.emplace(at.rip, at.view);
        SM_CHECK_EQ(place->second, at.view, "the view is the same each time");
        end_pass(way);
        must_have_recorded(way, 1);
        say_on_failure({});
    }
    // A place more would be met now, if the TSC had counted too few.
    for (size_t i = 0; i < number; i++) {
        const Stop at = stop(way, next_sample);
        say_on_failure(fmt::format("{}, stopped at {}", way.name, name_of(at)));
        SM_CHECK(trace.views.contains(at.rip));
        end_pass(way);
        must_have_recorded(way, 1);
        say_on_failure({});
    }
    SM_CHECK(trace.views.contains(guest.function(way.site.site).value));
    SM_CHECK(trace.views.contains(guest.function(way.site.end).value));
    note("%s%s: %zu instructions, stopped before each of them, %zu times in the shadow view",
         way.name, next_sample == 0 ? ", its time taken" : "", number - 1, trace.in_shadow());
    return trace;
}

} // namespace shadowmon::kvmtest
