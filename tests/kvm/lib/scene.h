// SPDX-License-Identifier: GPL-2.0-or-later
/// Stops a vCPU between any two instructions of the round trip from a hook to the instruction
/// behind it, and leaves it there to its VMM.
///
/// The stop is made by a signal to the vCPU's thread: a timer of the host interrupts the guest. In
/// the emulated machine with one CPU an instruction takes one tick, and the way there is nearly the
/// same each time, so with a little change of the time all places are met soon. Which one it was
/// is told by RIP, as a round trip has no loop; how many there are, by the TSC, which counts
/// instructions. A test goes on until it has met all of them.
#pragma once

#include "tests/kvm/lib/hooked_guest.h"
#include "tests/kvm/lib/monitored_guest.h"

#include <algorithm>
#include <ctime>
#include <functional>
#include <map>
#include <random>
#include <set>

namespace shadowmon::kvmtest {

struct Way {
    const char* name;
    HookSite site;
    const uint8_t* function;
    const uint8_t* sled;
    const uint8_t* plain;
};
constexpr Way all_ways[] = {
    {"INT",
     {3, hooked_by_int_site, hooked_by_int_end, false},
     hooked_by_int,
     hooked_by_int_sled,
     unhooked_int},
    {"CALL",
     {4, hooked_by_call_site, hooked_by_call_end, true},
     hooked_by_call,
     hooked_by_call_sled,
     unhooked_call},
};

/// The hook of hooked_loop, by INT.
constexpr HookSite loop_hook = {5, hooked_loop_site, hooked_loop_end, false};

constexpr uint64_t flag_tf = 1 << 8, flag_if = 1 << 9;
/// CF PF AF ZF SF DF OF and the bit that is always set.
constexpr uint64_t guest_flags = 0xcd7;
/// More claims than there are passages.
constexpr uint32_t no_sample = 1 << 30;

/// Ends the test as skipped where an exit cannot be put at an instruction.
void require_one_cpu();

/// A signal to this thread after some time: makes the next exit one to the VMM.
class Alarm {
  public:
    Alarm();
    Alarm(const Alarm&) = delete;
    ~Alarm();
    /// 0: none.
    void set(long ns);

  private:
    timer_t timer_;
};

/// Where a vCPU was stopped.
struct Stop {
    uint64_t rip;
    uint32_t view;
};

/// All places from the hook to the instruction behind it.
struct Trace {
    std::map<uint64_t, uint32_t> views; ///< by RIP

    bool is_shadow(uint64_t rip) const {
        const auto found = views.find(rip);
        return found != views.end() && found->second == KVM_VIEWS_SHADOW;
    }
    size_t in_shadow() const {
        size_t n = 0;
        for (const auto& place : views)
            n += place.second == KVM_VIEWS_SHADOW;
        return n;
    }
};

/// A guest with both kinds of hooks. What is said of one vCPU is said of the first one.
class Scene {
  public:
    MonitoredGuest guest;
    /// Takes the records of a passage that does not count: in which no exit came where it should.
    std::function<void()> forget_records = [this] { guest.take_records(); };

    /// All pages of the rings are mapped anew whenever the views are: where that happens at each
    /// place, small ones save most of the time.
    static constexpr uint32_t large_ring = 1 << 20, small_ring = 1 << 16;
    explicit Scene(unsigned vcpus = 1, uint32_t slots = 2, uint32_t ring_size = large_ring);

    Vcpu& vcpu() { return guest.vm().vcpu(0); }
    volatile GuestContext& context() { return guest.vm().context(0); }
    volatile HookedControl& control() {
        return guest.vm().at<HookedControl>(Gpa{TG_CONTEXT_GPA + HG_DELTA});
    }

    /// One passage, interrupted by nothing but the timer, if that is set; returns its ticks.
    uint64_t pass(const Way& way, const uint8_t* function, uint64_t delta, uint64_t flags,
                  uint32_t next_sample = no_sample) {
        prepare(function, delta, flags, next_sample);
        end_pass(way);
        return control().ticks;
    }
    /// A passage up to some place from the hook to the instruction behind it.
    Stop stop(const Way& way, uint32_t next_sample = no_sample);
    /// The rest of it: everything must be as the guest has left it.
    void end_pass(const Way& way);
    /// Ticks of a passage that nothing interrupts: the least of some.
    uint64_t least_ticks(const Way& way, const uint8_t* function, uint64_t flags,
                         uint32_t next_sample = no_sample) {
        uint64_t ticks = ~uint64_t{0};
        for (unsigned i = 0; i < 8; i++)
            ticks = std::min(ticks, pass(way, function, 0, flags, next_sample));
        return ticks;
    }
    bool counts_instructions(const Way& way);
    /// Maps what a passage needs, so that it has no exit of its own.
    void warm_up(const Way& way) {
        pass(way, way.function, 0, guest_flags);
        forget_records();
        interrupted();
    }
    /// Every place from the hook to the instruction behind it.
    Trace find_trace(const Way& way, uint32_t next_sample);

    /// Runs all vCPUs in user mode, where none can return to what a CALL led to, until this holds.
    template <typename Condition> void in_user_mode(const char* what, Condition condition) {
        start_user_mode();
        wait_until(what, condition);
        end_user_mode();
    }
    /// Closes the views fd and waits for the end of the views: of the monitor nothing is left.
    void detach();
    /// Attaches again and maps what a passage needs.
    void attach();

    /// Records since the last time; each must be whole.
    void must_have_recorded(const Way& way, unsigned number);
    /// Interrupts and NMIs taken since the last time, by the place where they were.
    std::vector<uint64_t> interrupted();
    std::string name_of(const Stop& stop) const {
        return fmt::format("{}, {} view", guest.name_of(stop.rip),
                           stop.view == KVM_VIEWS_MAIN ? "main" : "shadow");
    }

  private:
    void start_user_mode();
    void end_user_mode();
    void prepare(const uint8_t* function, uint64_t delta, uint64_t flags, uint32_t next_sample);

    Alarm alarm_;
    double ns_per_instruction_; ///< where the TSC counts instructions
    long alarm_ns_;
    std::minstd_rand random_;
    uint64_t interrupts_ = 0;
    uint64_t tsc_ = 0;
};

/// Runs passages until each place was met. When it is, something is done to the vCPU or the guest,
/// and the vCPU goes on.
template <typename There, typename After>
void at_each_stop(Scene& scene, const Way& way, const Trace& trace, There there, After after) {
    std::set<uint64_t> left;
    for (const auto& place : trace.views)
        left.insert(place.first);
    for (unsigned passages = 0; !left.empty(); passages++) {
        SM_CHECK(passages < 100 * trace.views.size());
        const Stop stop = scene.stop(way);
        say_on_failure(fmt::format("{}, stopped at {}", way.name, scene.name_of(stop)));
        // When a ring begins anew, one event goes a longer way: that is a place like any other.
        const auto place = trace.views.find(stop.rip);
        if (place != trace.views.end())
            SM_CHECK_EQ(stop.view, place->second, "the view is the same each time");
        if (left.erase(stop.rip) || place == trace.views.end()) {
            there(stop);
            scene.end_pass(way);
            after(stop);
        } else {
            scene.end_pass(way);
            scene.forget_records();
        }
        say_on_failure({});
    }
}

} // namespace shadowmon::kvmtest
