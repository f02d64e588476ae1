// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/events/decoder.h"
#include "src/output/json_output.h"
#include "src/output/json_writer.h"

#include <cmath>
#include <fmt/format.h>

namespace shadowmon {
namespace {

/// The summary has no bound that is known in advance: pieces are written into a small
/// buffer each, and added up.
class Builder {
  public:
    template <typename Put> void add(std::string_view key, Put put) {
        out_ += out_.empty() ? "{\"" : ",\"";
        out_ += key;
        out_ += "\":";
        value(put);
    }

    /// `put(JsonWriter&, item)` for each item, as an array.
    template <typename List, typename Put>
    void array(std::string_view key, const List& list, Put put) {
        out_ += fmt::format(",\"{}\":[", key);
        for (bool first = true; const auto& item : list) {
            if (!std::exchange(first, false))
                out_ += ',';
            value([&](JsonWriter& w) { put(w, item); });
        }
        out_ += ']';
    }

    void raw(std::string_view text) { out_ += text; }
    std::string take() { return std::move(out_); }

  private:
    template <typename Put> void value(Put put) {
        char piece[8 * Decoder::max_hook_name + 1024]; // a name may become eight times as long
        JsonWriter w(piece);
        put(w);
        out_.append(piece, w.at());
    }

    std::string out_;
};

void put_time(JsonWriter& w, const Summary& summary, uint64_t realtime_ns) {
    TimeFormat time;
    if (summary.events == 0) {
        w.text("null");
        return;
    }
    w.text("\"");
    w.set(time.rfc3339(w.at(), realtime_ns));
    w.text("\"");
}

void put_field(JsonWriter& w, std::string_view key, uint64_t value) {
    w.text(",\"").text(key).text("\":");
    w.count(value);
}

} // namespace

std::string to_json(const Summary& summary) {
    const auto count = [](uint64_t value) { return [value](JsonWriter& w) { w.count(value); }; };
    const auto types = [](const auto& counts) {
        return [&counts](JsonWriter& w) { put_type_counts(w, counts); };
    };
    const LostCounter& lost = summary.lost;

    Builder json;
    json.add("kind", [](JsonWriter& w) { w.text("\"summary\""); });
    json.add("events", count(summary.events));
    json.add("by_kind", types(summary.by_type));
    json.add("first", [&](JsonWriter& w) { put_time(w, summary, summary.first_ns); });
    json.add("last", [&](JsonWriter& w) { put_time(w, summary, summary.last_ns); });
    json.add("late", count(summary.late));
    json.add("lost", count(lost.total()));
    json.add("lost_by_kind", types(lost.by_type()));
    json.array("lost_by_ring", lost.rings(), [](JsonWriter& w, const RingLoss& ring) {
        w.text("{\"ring\":").decimal(ring.ring).text(",\"dropped\":");
        put_type_counts(w, ring.dropped);
        w.text(",\"abandoned\":");
        put_type_counts(w, ring.abandoned);
        put_field(w, "missing", ring.missing);
        w.text("}");
    });
    json.add("broken_rings", count(lost.broken_rings()));
    json.array("processes", summary.processes, [](JsonWriter& w, const ProcessCount& p) {
        w.text("{\"pid\":").decimal(p.pid).text(",\"comm\":");
        w.comm(p.comm);
        put_field(w, "events", p.events);
        put_field(w, "syscalls", p.syscalls);
        put_field(w, "switches", p.switches);
        w.text("}");
    });
    json.add("process_count", count(summary.process_count));
    json.array("syscalls", summary.syscalls, [](JsonWriter& w, const SyscallCount& s) {
        w.text("{\"name\":\"").text(s.name).text("\",\"nr\":").decimal(s.nr);
        if (s.compat)
            w.text(",\"compat\":true");
        put_field(w, "calls", s.calls);
        put_field(w, "returns", s.returns);
        put_field(w, "errors", s.errors);
        w.text("}");
    });
    json.add("syscall_count", count(summary.syscall_count));
    json.array("hooks", summary.hooks, [](JsonWriter& w, const HookCount& h) {
        w.text("{\"name\":");
        w.string<Decoder::max_hook_name>(h.name);
        put_field(w, "hits", h.hits);
        w.text("}");
    });
    json.add("hook_count", count(summary.hook_count));
    json.array("irqs", summary.irqs, [](JsonWriter& w, const IrqCount& i) {
        w.text("{\"handler\":");
        w.string<Decoder::max_hook_name>(i.handler);
        put_field(w, "entries", i.entries);
        put_field(w, "timed", i.timed);
        put_field(w, "unpaired", i.unpaired);
        put_field(w, "total_ns", i.total_ns);
        w.text("}");
    });
    json.add("irq_count", count(summary.irq_count));
    json.raw(",\"figures\":{");
    for (const char* separator = ""; const Figure& figure : summary.figures) {
        // JSON has no infinity and no NaN.
        json.raw(std::isfinite(figure.value)
                     ? fmt::format("{}\"{}\":{}", separator, figure.key, figure.value)
                     : fmt::format("{}\"{}\":null", separator, figure.key));
        separator = ",";
    }
    json.raw("}}");
    return json.take();
}

} // namespace shadowmon
