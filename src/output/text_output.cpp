// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/output/text_output.h"

#include "src/events/decoder.h"
#include "src/output/writer.h"
#include <shadowmonitor/escape.h>

#include <variant>

namespace shadowmon {
namespace {

constexpr uint64_t ns_per_day = 86'400'000'000'000;

// Columns of a line; longer contents push the rest to the right.
constexpr size_t kind_column = 46;
constexpr size_t body_column = 54;

/// Registers mix counts, flags and addresses; small ones are read more easily as decimal.
constexpr uint64_t decimal_below = 1 << 20;

void put_number(Writer& w, uint64_t value) {
    if (value < decimal_below)
        w.decimal(value);
    else
        w.hex(value);
}

void put_comm(Writer& w, const Comm& comm) {
    if (comm.view().empty())
        w.text("-");
    else
        w.set(escape_to(w.at(), comm.view(), true));
}

void put_call(Writer& w, const Syscall& call) {
    if (call.name.empty())
        w.text("syscall_").decimal(call.nr);
    else
        w.text(call.name);
    if (call.compat)
        w.text("@32");
}

void put_counts(Writer& w, const TypeCounts& counts) {
    const char* separator = " (";
    for (unsigned type = 0; type < event_types; ++type) {
        if (counts[type] == 0)
            continue;
        w.text(separator).text(event_type_name(type)).text(" ").decimal(counts[type]);
        separator = ", ";
    }
    if (*separator == ',')
        w.text(")");
}

void put_irq(Writer& w, std::optional<uint32_t> vector, std::optional<uint32_t> irq,
             std::string_view handler) {
    w.set(escape_to(w.at(), handler, true));
    if (vector)
        w.text(" vector ").decimal(*vector);
    if (irq)
        w.text(" line ").decimal(*irq);
}

/// Kind and body of an event, one function per type of body.
struct BodyWriter {
    Writer& w;
    const char* line;

    Writer& kind(std::string_view kind) {
        return w.pad_to(line, kind_column).text(kind).pad_to(line, body_column);
    }

    void operator()(const SyscallEnter& body) {
        kind("enter");
        put_call(w, body.call);
        const char* separator = "(";
        for (uint64_t arg : body.args) {
            put_number(w.text(separator), arg);
            separator = ", ";
        }
        w.text(")");
    }

    void operator()(const SyscallExit& body) {
        kind("exit");
        put_call(w, body.call);
        w.text(" = ");
        if (body.ret >= 0)
            put_number(w, static_cast<uint64_t>(body.ret));
        else
            w.decimal(body.ret);
        if (!body.error.empty())
            w.text(" (").text(body.error).text(")");
    }

    void operator()(const Switch& body) {
        const char state = task_state_letter(body.prev_state);
        kind("switch").text({&state, 1}).text(" -> ");
        put_comm(w, body.next_comm);
        w.text("/").decimal(body.next_tid);
    }

    void operator()(const Lost& body) {
        kind("lost").decimal(body.total()).text(" events");
        put_counts(w, body.by_type);
    }

    void operator()(const HookHit& body) {
        kind("hook");
        w.set(escape_to(w.at(), body.name, true));
        const char* separator = "(";
        for (uint64_t arg : body.args) {
            put_number(w.text(separator), arg);
            separator = ", ";
        }
        put_number(w.text(") ax="), body.ax);
    }

    void operator()(const IrqEnter& body) {
        kind("irq");
        put_irq(w, body.vector, body.irq, body.handler);
    }

    void operator()(const IrqExit& body) {
        kind("irq end");
        put_irq(w, body.vector, body.irq, body.handler);
        if (body.duration_ns)
            w.text(" = ").decimal(*body.duration_ns).text(" ns");
        else
            w.text(" [unpaired]");
    }

    void operator()(const HookRetired& body) {
        kind("retired");
        w.set(escape_to(w.at(), body.name, true));
        w.text(" (");
        w.set(escape_to(w.at(), body.why.substr(0, Decoder::max_hook_name), false));
        w.text(")");
    }

    void operator()(const UnknownHook& body) {
        kind("unknown").text("rip=").hex(body.rip.value).text(" rsp=").hex(body.rsp.value);
    }
};

} // namespace

void TextOutput::event(const Event& event) {
    char* line = sink_.reserve(Sink::max_record);
    Writer w(line);
    if (const uint64_t day = event.realtime_ns / ns_per_day; day != day_) {
        day_ = day;
        w.text("# ");
        w.set(time_.date(w.at(), event.realtime_ns));
        w.text(" UTC\n");
    }
    char* const start = w.at();
    w.set(time_.time_of_day(w.at(), event.realtime_ns));
    w.text(event.cpu < 10 ? " 00" : event.cpu < 100 ? " 0" : " ").decimal(event.cpu).text(" ");
    put_comm(w, event.process.comm);
    w.text("/").decimal(event.process.tid);
    std::visit(BodyWriter{w, start}, event.body);
    if (event.late)
        w.text(" [late]");
    if (event.no_task)
        w.text(" [no task]");
    if (event.no_body)
        w.text(" [no body]");
    w.text("\n");
    sink_.commit(static_cast<size_t>(w.at() - line));
}

Status TextOutput::finish(const Summary& summary) {
    // As comments, so that what filters events does not meet them.
    const std::string text = to_text(summary);
    for (std::string_view rest = text; !rest.empty();) {
        const size_t end = std::min(rest.find('\n'), rest.size() - 1) + 1;
        sink_.append(rest[0] == '\n' ? "#" : "# ");
        sink_.append(rest.substr(0, end));
        rest.remove_prefix(end);
    }
    return sink_.close();
}

} // namespace shadowmon
