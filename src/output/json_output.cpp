// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/output/json_output.h"

#include "src/events/decoder.h"
#include "src/output/json_writer.h"

#include <variant>

namespace shadowmon {
namespace {

void put_call(JsonWriter& w, const Syscall& call) {
    w.text(",\"syscall\":{\"name\":\"");
    if (call.name.empty())
        w.text("syscall_").decimal(call.nr);
    else
        w.text(call.name);
    w.text("\",\"nr\":").decimal(call.nr);
    if (call.compat)
        w.text(",\"compat\":true");
}

void put_task(JsonWriter& w, uint32_t pid, uint32_t tid, const Comm& comm, Gva task) {
    w.text("{\"pid\":").decimal(pid).text(",\"tid\":").decimal(tid).text(",\"comm\":");
    w.comm(comm);
    w.text(",\"task\":");
    w.hex_string(task.value);
}

void put_irq(JsonWriter& w, std::optional<uint32_t> vector, std::optional<uint32_t> irq,
             std::string_view handler) {
    w.text(",\"irq\":{\"handler\":");
    w.string<Decoder::max_hook_name>(handler);
    if (vector)
        w.text(",\"vector\":").decimal(*vector);
    if (irq)
        w.text(",\"line\":").decimal(*irq);
}

/// What is particular to a kind, one function per type of body.
struct BodyWriter {
    JsonWriter& w;
    const Process& process;

    void operator()(const SyscallEnter& body) {
        put_call(w, body.call);
        const char* separator = ",\"args\":[";
        for (uint64_t arg : body.args) {
            w.text(separator);
            w.hex_string(arg);
            separator = ",";
        }
        w.text("]}");
    }

    void operator()(const SyscallExit& body) {
        put_call(w, body.call);
        w.text("},\"ret\":");
        w.signed_count(body.ret);
        if (!body.error.empty())
            w.text(",\"error\":\"").text(body.error).text("\"");
    }

    void operator()(const Switch& body) {
        const char state = task_state_letter(body.prev_state);
        w.text(",\"prev\":");
        put_task(w, process.pid, process.tid, process.comm, process.task);
        w.text(",\"state\":\"").text({&state, 1}).text("\",\"state_raw\":");
        w.hex_string(body.prev_state);
        w.text("},\"next\":");
        put_task(w, body.next_pid, body.next_tid, body.next_comm, body.next_task);
        w.text("}");
    }

    void operator()(const Lost& body) {
        w.text(",\"lost\":");
        put_type_counts(w, body.by_type);
        w.text(",\"total\":");
        w.count(body.total());
    }

    void operator()(const HookHit& body) {
        w.text(",\"hook\":");
        w.string<Decoder::max_hook_name>(body.name);
        const char* separator = ",\"args\":[";
        for (uint64_t arg : body.args) {
            w.text(separator);
            w.hex_string(arg);
            separator = ",";
        }
        w.text("],\"ax\":");
        w.hex_string(body.ax);
        w.text(",\"sp\":");
        w.hex_string(body.sp);
        w.text(",\"flags\":");
        w.hex_string(body.flags);
    }

    void operator()(const IrqEnter& body) {
        put_irq(w, body.vector, body.irq, body.handler);
        w.text("}");
    }

    void operator()(const IrqExit& body) {
        put_irq(w, body.vector, body.irq, body.handler);
        w.text("},");
        if (body.duration_ns) {
            w.text("\"duration_ns\":");
            w.count(*body.duration_ns);
        } else {
            w.text("\"unpaired\":true");
        }
    }

    void operator()(const HookRetired& body) {
        w.text(",\"hook\":");
        w.string<Decoder::max_hook_name>(body.name);
        w.text(",\"reason\":");
        w.string<Decoder::max_hook_name>(body.why.substr(0, Decoder::max_hook_name));
    }

    void operator()(const UnknownHook& body) {
        w.text(",\"rip\":");
        w.hex_string(body.rip.value);
        w.text(",\"rsp\":");
        w.hex_string(body.rsp.value);
    }
};

} // namespace

void JsonOutput::event(const Event& event) {
    char* line = sink_.reserve(Sink::max_record);
    const Process& process = event.process;
    JsonWriter w(line);
    w.text("{\"time\":\"");
    w.set(time_.rfc3339(w.at(), event.realtime_ns));
    w.text("\",\"tsc\":\"").decimal(event.tsc).text("\"");
    if (!event.get_if<HookRetired>()) {
        w.text(",\"cpu\":").decimal(event.cpu);
        w.text(",\"ring\":").decimal(event.ring).text(",\"seq\":");
        w.count(event.seq);
    }
    w.text(",\"kind\":\"").text(event_type_name(event_type(event))).text("\"");
    if (!event.get_if<HookRetired>()) {
        w.text(",\"pid\":").decimal(process.pid).text(",\"tid\":").decimal(process.tid);
        w.text(",\"ppid\":").decimal(process.ppid).text(",\"uid\":").decimal(process.uid);
        w.text(",\"comm\":");
        w.comm(process.comm);
        w.text(",\"task\":");
        w.hex_string(process.task.value);
        w.text(",\"cr3\":");
        w.hex_string(event.cr3);
    }
    std::visit(BodyWriter{w, process}, event.body);
    if (event.late)
        w.text(",\"late\":true");
    if (event.no_task)
        w.text(",\"no_task\":true");
    if (event.no_body)
        w.text(",\"no_body\":true");
    w.text("}\n");
    sink_.commit(static_cast<size_t>(w.at() - line));
}

Status JsonOutput::finish(const Summary& summary) {
    sink_.append(to_json(summary));
    sink_.append("\n");
    return sink_.close();
}

} // namespace shadowmon
