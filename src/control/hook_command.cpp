// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/control/hook_command.h"

#include <algorithm>
#include <array>
#include <fmt/format.h>
#include <iterator>
#include <nlohmann/json.hpp>

namespace shadowmon {

namespace {

using nlohmann::json;

constexpr std::array<std::pair<HookCommand::Verb, const char*>, 5> verbs = {{
    {HookCommand::Verb::list, "list"},
    {HookCommand::Verb::add, "add"},
    {HookCommand::Verb::remove, "remove"},
    {HookCommand::Verb::enable, "enable"},
    {HookCommand::Verb::disable, "disable"},
}};

/// Names may hold any bytes that the guest's symbols hold; what is not UTF-8 becomes U+FFFD.
std::string dump(const json& value) {
    return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

json parse_object(const std::string& line) {
    json value = json::parse(line, nullptr, false);
    return value.is_object() ? value : json();
}

/// The member `key` if it is there and a T; a default otherwise. `bad` names the first wrong one.
template <typename T>
T take(const json& object, const char* key, bool (json::*is)() const, std::string& bad) {
    auto found = object.find(key);
    if (found == object.end())
        return {};
    if (((*found).*is)())
        return found->get<T>();
    if (bad.empty())
        bad = key;
    return {};
}

std::string take_text(const json& object, const char* key, std::string& bad) {
    return take<std::string>(object, key, &json::is_string, bad);
}

uint64_t take_count(const json& object, const char* key, std::string& bad) {
    return take<uint64_t>(object, key, &json::is_number_unsigned, bad);
}

std::optional<uint64_t> take_limit(const json& object, std::string& bad) {
    if (!object.contains("limit"))
        return std::nullopt;
    return take_count(object, "limit", bad);
}

/// The array `key`, which may be missing; null: it is no array, or there is none.
const json* find_array(const json& object, const char* key, std::string& bad) {
    auto found = object.find(key);
    if (found == object.end())
        return nullptr;
    if (found->is_array())
        return &*found;
    if (bad.empty())
        bad = key;
    return nullptr;
}

std::vector<std::string> take_texts(const json& object, const char* key, std::string& bad) {
    std::vector<std::string> texts;
    const json* array = find_array(object, key, bad);
    for (size_t i = 0; array && i < array->size(); i++) {
        if ((*array)[i].is_string())
            texts.push_back((*array)[i].get<std::string>());
        else if (bad.empty())
            bad = key;
    }
    return texts;
}

/// A text with its quotes. Most are plain; json knows what to do with the others.
std::string quoted(const std::string& text) {
    bool plain = std::all_of(text.begin(), text.end(),
                             [](char c) { return c >= ' ' && c <= '~' && c != '"' && c != '\\'; });
    return plain ? '"' + text + '"' : dump(json(text));
}

/// Hooks come by the thousand, and the trace waits meanwhile: written without a json of each, but
/// as that would be.
void append(std::string& out, const HookStatus& hook) {
    auto add = std::back_inserter(out);
    fmt::format_to(add, R"({{"address":{},"gate":{},"hits":{},"id":{})", hook.address,
                   quoted(hook.gate), hook.hits(), hook.id);
    if (hook.limit)
        fmt::format_to(add, R"(,"limit":{})", *hook.limit);
    fmt::format_to(add, R"(,"limited":{},"lost":{},"name":{})", hook.limited, hook.lost,
                   quoted(hook.name));
    if (!hook.note.empty())
        fmt::format_to(add, R"(,"note":{})", quoted(hook.note));
    fmt::format_to(add, R"(,"recorded":{},"state":{}}})", hook.recorded, quoted(hook.state));
}

HookStatus to_status(const json& object, std::string& bad) {
    HookStatus hook;
    hook.id = static_cast<uint32_t>(take_count(object, "id", bad));
    hook.name = take_text(object, "name", bad);
    hook.address = take_count(object, "address", bad);
    hook.gate = take_text(object, "gate", bad);
    hook.state = take_text(object, "state", bad);
    hook.note = take_text(object, "note", bad);
    hook.recorded = take_count(object, "recorded", bad);
    hook.lost = take_count(object, "lost", bad);
    hook.limited = take_count(object, "limited", bad);
    hook.limit = take_limit(object, bad);
    return hook;
}

} // namespace

const char* verb_name(HookCommand::Verb verb) {
    for (const auto& [known, name] : verbs)
        if (known == verb)
            return name;
    return "";
}

std::string encode(const HookCommand& command) {
    json out = {{"command", verb_name(command.verb)}, {"hooks", command.hooks}};
    if (command.limit)
        out["limit"] = *command.limit;
    return dump(out);
}

std::string encode(const HookReply& reply) {
    std::string out = "{";
    if (!reply.error.empty())
        out += R"("error":)" + quoted(reply.error) + ",";
    out += R"("hooks":[)";
    for (size_t i = 0; i < reply.hooks.size(); i++) {
        if (i > 0)
            out += ',';
        append(out, reply.hooks[i]);
    }
    out += R"(],"notes":[)";
    for (size_t i = 0; i < reply.notes.size(); i++)
        out += (i > 0 ? "," : "") + quoted(reply.notes[i]);
    out += ']';
    if (reply.pause_tsc)
        out += fmt::format(R"(,"pause_tsc":{})", reply.pause_tsc);
    return out + "}";
}

Result<HookCommand> parse_command(const std::string& line) {
    json object = parse_object(line);
    if (object.is_null())
        return failf("the command is no JSON object");
    std::string bad;
    std::string verb = take_text(object, "command", bad);
    HookCommand command;
    command.hooks = take_texts(object, "hooks", bad);
    command.limit = take_limit(object, bad);
    if (!bad.empty())
        return failf("the command's \"{}\" has the wrong type", bad);
    bool known = false;
    for (const auto& [value, name] : verbs) {
        if (verb == name) {
            command.verb = value;
            known = true;
        }
    }
    if (!known)
        return failf("there is no command \"{}\"; there are: list, add, remove, enable, disable",
                     verb.substr(0, HookCommand::max_name));
    if (command.hooks.size() > HookCommand::max_hooks)
        return failf("{} hooks in one command; {} are possible", command.hooks.size(),
                     HookCommand::max_hooks);
    for (const std::string& name : command.hooks)
        if (name.empty() || name.size() > HookCommand::max_name)
            return failf("a hook's name of {} bytes; 1 to {} are possible", name.size(),
                         HookCommand::max_name);
    if (command.hooks.empty() && command.verb != HookCommand::Verb::list)
        return failf("{} needs the names or the ids of hooks", verb);
    if (command.limit && (*command.limit == 0 || command.verb != HookCommand::Verb::add))
        return failf("a limit goes with add, and is 1 or more events per second");
    return command;
}

Result<HookReply> parse_reply(const std::string& line) {
    json object = parse_object(line);
    if (object.is_null())
        return failf("the answer of the trace is no JSON object");
    std::string bad;
    HookReply reply;
    reply.error = take_text(object, "error", bad);
    reply.notes = take_texts(object, "notes", bad);
    reply.pause_tsc = take_count(object, "pause_tsc", bad);
    const json* hooks = find_array(object, "hooks", bad);
    for (size_t i = 0; hooks && i < hooks->size(); i++) {
        if ((*hooks)[i].is_object())
            reply.hooks.push_back(to_status((*hooks)[i], bad));
        else
            bad = "hooks";
    }
    if (!bad.empty())
        return failf("the answer's \"{}\" has the wrong type", bad);
    return reply;
}

} // namespace shadowmon
