/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Proves that no jump into the gate ends in the shadow view or leaves a slot behind. */
#include "tests/unit/payload/gate_process.h"

#include <iterator>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

namespace shadowmon::payload {
namespace {

int seconds_since_jump;
constexpr int for_ever = 10;

/* A second of CPU time has gone by since the jump, or since the last one. */
void on_alarm(int, siginfo_t*, void* context) {
    auto& regs = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    const auto gate = reinterpret_cast<u64>(sm_gate_page);
    /* A jump out of the gate: what the guest does with itself there is its own affair. */
    if (view == main_view && static_cast<u64>(regs[REG_RIP]) - gate >= SM_PAGE_SIZE) {
        abort_guest(regs);
        return;
    }
    /* A split lock may be made to wait for long, by the host of a VM as well. */
    if (++seconds_since_jump < for_ever)
        return;
    dprintf(2, "entered at +%#lx: runs for ever, now at +%#llx, view %d\n",
            static_cast<long>(entered_at - sm_gate_page),
            regs[REG_RIP] - reinterpret_cast<long long>(sm_gate_page), view);
    _exit(badly);
}

/*
 * The guest jumps to every byte of the gates, with the registers that matter chosen to hurt. In a
 * child: a jump that leaves the gate in the main view may run any code there is, and so destroy
 * what the test stands on, or never end. That is the guest's own affair, and the next child goes
 * on behind that place; in the shadow view nothing is.
 */
class GateJump : public Gate {
  protected:
    /* To all places from progress.place on. */
    [[noreturn]] void jump_everywhere() {
        struct sigaction action {};
        action.sa_sigaction = on_alarm;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        sigaction(SIGVTALRM, &action, nullptr);
        /* Ends whom no signal reaches any more. */
        const rlimit seconds = {40, 40}; /* of CPU time; all of it takes one */
        setrlimit(RLIMIT_CPU, &seconds);
        for (; sm_gate_page + progress.place < sm_gate_end; progress.place++) {
            const unsigned before = events;
            jump(sm_gate_page + progress.place);
            progress.recorded += events != before;
        }
        _exit(all_seen);
    }

  private:
    void jump(const u8* entry) {
        const itimerval second = {{.tv_sec = 1, .tv_usec = 0}, {.tv_sec = 1, .tv_usec = 0}};
        const u64 interesting[] = {
            0, 1, 2, 0xffffffff, 0x100000000, 0x100000001, 0x8000000000000000, ~u64{0}};
        entered_at = entry;
        random_.seed(progress.place);
        for (int round = 0; round < 8; round++) {
            GateRegs regs = random_regs();
            /* No address of this process: a store through it faults. */
            for (u64* r = &regs.rax; r <= &regs.r15; r++)
                *r |= 0x00ff000000000000;
            for (u64* r : {&regs.rax, &regs.rcx, &regs.rdx})
                *r = interesting[random_() % std::size(interesting)];
            if (round % 2) /* the pair that enters the shadow view at any VMFUNC */
                regs.rax = 0, regs.rcx = 1;
            next_address = round % 3 ? reinterpret_cast<u64>(gate_landing) : 0;
            Frame* frame = push_frame(reinterpret_cast<u64>(gate_landing) + (round % 5 ? 0 : 2),
                                      random_flags());
            regs.rsp = reinterpret_cast<u64>(frame) - 24;
            setitimer(ITIMER_VIRTUAL, &second, nullptr);
            seconds_since_jump = 0;
            aborts = 0;
            gate_enter(&regs, entry);
            if (fault_in_shadow || (view == shadow_view && !refused_vmfunc)) {
                dprintf(2, "entered at +%#x: ends in the shadow view%s\n", progress.place,
                        fault_in_shadow ? " by a fault" : "");
                _exit(badly);
            }
            refused_vmfunc = false;
            if (view != main_view)
                show(main_view);
        }
        if (busy_slots() != 0) {
            dprintf(2, "entered at +%#x: a slot stays claimed\n", progress.place);
            _exit(badly);
        }
    }
};

TEST_F(GateJump, NoneEndsInTheShadowView) {
    const auto places = static_cast<unsigned>(sm_gate_end - sm_gate_page);
    unsigned lost_places = 0;
    progress = {};
    for (int status = 0; !(WIFEXITED(status) && WEXITSTATUS(status) == all_seen);) {
        const pid_t child = fork();
        ASSERT_GE(child, 0);
        if (child == 0)
            jump_everywhere();
        ASSERT_EQ(waitpid(child, &status, 0), child);
        ASSERT_FALSE(WIFEXITED(status) && WEXITSTATUS(status) == badly);
        if (WIFEXITED(status) && WEXITSTATUS(status) == all_seen)
            continue;
        ASSERT_EQ(progress.view, main_view) << "lost from +" << progress.place;
        progress.place++;
        lost_places++;
    }
    EXPECT_EQ(progress.place, places);
    EXPECT_GT(progress.recorded, 0u);
    EXPECT_LT(lost_places, places / 20) << "nearly all have to be seen to their end";
}

} // namespace
} // namespace shadowmon::payload
