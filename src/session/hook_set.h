// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/compartment/grace_period.h"
#include "src/compartment/hook_counters.h"
#include "src/compartment/hook_limits.h"
#include "src/compartment/hook_table.h"
#include "src/control/hook_command.h"
#include "src/guest/modules.h"
#include "src/hooks/displaced_code.h"
#include "src/hooks/hook_planner.h"
#include "src/vm/views.h"

#include <algorithm>
#include <deque>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace shadowmon {

/// A hook that is wanted: where, and what becomes of a hit.
struct HookRequest {
    std::string name;    ///< of the user's, or of the monitor
    Displaced displaced; ///< instructions that the hook stands for
    /// The guest's bytes from there to the end of the instructions, or of the hook if that is
    /// longer: behind an instruction of one byte that nothing falls through, whatever is there.
    std::vector<std::byte> original;
    Gpa gpa; ///< of the first byte; what follows on its page follows there as well
    uint16_t type = SM_EVENT_HOOK;
    uint16_t flags = 0;
    std::optional<uint64_t> limit = {}; ///< events per second
    /// Of the next page, if the bytes go on there; nothing: right behind the first one.
    std::optional<Gpa> next_page = {};
    std::optional<GuestModule> module = {}; ///< whose code it is; nothing: the kernel's own
    bool internal = false;                  ///< the monitor's own affair: not listed, not chosen
    bool comes_back = false;                ///< waits for its module when that goes

    Gpa gpa_of(size_t offset) const {
        size_t here = SM_PAGE_SIZE - gpa.page_offset();
        return offset < here || !next_page ? gpa + offset : *next_page + (offset - here);
    }
    bool has_byte_at(Gpa at) const;
};

/// A hook that went because of the guest.
struct RetiredHook {
    uint32_t id;
    std::string name;
    std::string why;
};

/// The hooks of one trace: those in the guest's code, those that were taken out to be put back
/// later, and those on their way out, whose place in the compartment is used again once no vCPU
/// can be on its way through it. Writes to the compartment, which the guest runs through at the
/// same time, and patches the guest by the views of the caller. One thread uses it.
///
///   stage() -> staged -> on <-> off
///                        |      |
///                        v      v      vCPUs outside      nobody reads the entry
///   remove():            leaving ---------------------> unlisted -----------------> free
///
/// The guest does not see hooks: it reads its own bytes, and before it writes to a byte of a
/// displaced instruction the kernel takes the hook's bytes away and says so. Such a hook is
/// retired: it stays listed, with the reason, until it is removed. So does one whose module goes;
/// that one gives its place up at once, which may be another module's next.
class HookSet {
  public:
    /// All that the hooks need of a compartment; the region's memory has to outlive it.
    struct Parts {
        HookTable table;
        DisplacedCode code;
        HookLimits limits;
        HookCounters counters;
        std::vector<const sm_slot*> slots;
        uint64_t tsc_khz; ///< of the guest
        Gva call_gate;    ///< where hooks by CALL lead
    };
    explicit HookSet(Parts parts) : parts_(std::move(parts)) {}

    /// Writes hooks into the compartment, all or none. Nothing in the guest leads to them yet.
    /// Fails for a place that has one already, and if there is no room.
    Result<std::vector<uint32_t>> stage(std::span<const HookRequest> requests);

    /// What has to be written to the guest for staged hooks; armed() says that it has been.
    std::vector<kvm_views_patch> patches(std::span<const uint32_t> ids) const;
    void armed(std::span<const uint32_t> ids);

    /// Takes staged hooks back.
    void unstage(std::span<const uint32_t> ids);

    /// What became of a change to the guest's code.
    struct Change {
        uint64_t pause_tsc = 0; ///< host TSC ticks that the vCPUs stood still
    };

    /// stage(), patch and armed() in one; on failure nothing has changed.
    Result<std::vector<uint32_t>> add(Views& views, std::span<const HookRequest> requests,
                                      Change* change = nullptr);

    /// Takes hooks out of the guest's code, or puts them back. Those that are so already, and
    /// retired ones, are passed over. A hook that the guest has overwritten is retired.
    Result<Change> disable(Views& views, std::span<const uint32_t> ids);
    Result<Change> enable(Views& views, std::span<const uint32_t> ids);

    /// Takes hooks out for good.
    Result<Change> remove(Views& views, std::span<const uint32_t> ids);

    /// The guest writes to the patch there, which the kernel has taken back: what is left of its
    /// hook goes, too, and it is retired. Returns its id; nothing if no hook is there.
    Result<std::optional<uint32_t>> overwritten(Views& views, Gpa gpa);

    /// Takes hooks out whose module goes, whether they are on or off: all that they are from then
    /// on is an entry in the list.
    Result<Change> let_modules_go(Views& views, std::span<const uint32_t> ids,
                                  const std::string& why);

    /// Hooks that were retired since the last call.
    std::vector<RetiredHook> take_retired() { return std::exchange(retired_, {}); }

    /// Brings hooks that are leaving a step further. `rings_empty`: every event that was recorded
    /// before this call has been given out.
    void tick(Views& views, bool rings_empty);

    /// True while a hook is leaving that place: there can be no new one yet.
    bool leaves(const Displaced& place) const;

    /// True while some hook is leaving.
    bool leaving() const { return !leaving_.empty() || !unlisted_.empty() || !spent_.empty(); }

    /// Those of modules that have a place in the guest's code, be they on or off.
    std::vector<uint32_t> in_modules() const;

    std::vector<HookStatus> list() const;
    HookStatus status(uint32_t id) const;

    /// Ids of the hooks meant by a user's words: an id, a name, a name with * and ?. The error
    /// names the word that means none.
    Result<std::vector<uint32_t>> select(const std::vector<std::string>& words) const;

    /// True if a hook covers a byte of [at, at + size).
    bool covers(Gva at, size_t size) const;

    /// Bytes of the guest's that hooks cover at the moment, for whoever reads its code.
    std::vector<std::pair<Gva, std::vector<std::byte>>> covered() const;

    bool is_on(uint32_t id) const {
        auto hook = hooks_.find(id);
        return hook != hooks_.end() && hook->second.state == State::on;
    }
    std::vector<uint32_t> all() const;
    std::vector<uint32_t> active() const; ///< those in the guest's code, the monitor's own last
    const HookRequest& request(uint32_t id) const { return hooks_.at(id).request; }

    size_t size() const { return hooks_.size(); } ///< the monitor's own among them
    uint32_t capacity() const { return parts_.table.capacity(); }
    size_t room() const { return parts_.table.capacity() - next_id_ + free_ids_.size(); }

  private:
    enum class State { staged, on, off, retired };
    struct Hook {
        HookRequest request;
        State state = State::staged;
        std::string note;
        std::optional<Resume> resume;
        bool gone = false; ///< retired, and has nothing in guest and compartment any more
        Gva at() const { return request.displaced.address(); }
        Gva end() const { return at() + request.original.size(); }
    };
    /// What a hook has in the compartment. The id stays with one that is listed on.
    struct Leaver {
        std::optional<uint32_t> id;
        uint64_t rip;
        std::optional<Resume> resume;
    };

    Status stage_one(const HookRequest& request, std::vector<uint32_t>& ids);
    std::optional<uint32_t> take_id();
    Result<Change> patch(Views& views, std::vector<uint32_t> ids, State from, State to,
                         uint32_t flags);
    void add_patches(const Hook& hook, uint32_t flags, std::vector<kvm_views_patch>& patches) const;
    Status retire(Views& views, uint32_t id);
    void note_retired(uint32_t id, std::string why);
    std::string name_of_patch(std::span<const uint32_t> ids, size_t index) const;
    void let_go(std::map<uint32_t, Hook>::iterator hook);

    Parts parts_;
    std::map<uint32_t, Hook> hooks_;
    std::map<Gva, uint32_t> places_; ///< of all of them, by where they begin; none overlap
    uint32_t next_id_ = 0;
    std::deque<uint32_t> free_ids_;

    std::vector<Leaver> leaving_;  ///< out of the guest's code; a vCPU may still be in its piece
    std::vector<Leaver> unlisted_; ///< out of the table; somebody may still read the entry
    std::optional<GracePeriod> grace_;
    std::vector<uint32_t> spent_;      ///< ids that events in the rings may still carry
    std::vector<RetiredHook> retired_; ///< not told yet
};

} // namespace shadowmon
