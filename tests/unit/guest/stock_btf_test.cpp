// SPDX-License-Identifier: GPL-2.0-or-later
//
// Type information found in a stock guest's memory, against what bpftool and pahole
// make of the blob that the guest's own sysfs gave.
#include "src/guest/kernel_info.h"

#include "tests/unit/guest/stock_guest.h"

#include <nlohmann/json.hpp>

#include <cstdio>
#include <map>
#include <regex>
#include <sstream>

namespace shadowmon::test {
namespace {

std::string output_of(const std::string& command) {
    std::string text;
    FILE* pipe = popen(command.c_str(), "r");
    char buffer[65536];
    for (size_t size; pipe && (size = fread(buffer, 1, sizeof(buffer), pipe)) > 0;)
        text.append(buffer, size);
    return pipe && pclose(pipe) == 0 ? text : std::string();
}

class StockBtf : public StockGuest {};

TEST_F(StockBtf, AllMembersOfAllStructsAreWhereBpftoolSees) {
    std::string dump = output_of("PATH=$PATH:/usr/sbin bpftool -j btf dump file '" +
                                 guest_->path("btf") + "' 2>/dev/null");
    if (dump.empty())
        GTEST_SKIP() << "no bpftool (apt-get install bpftool)";
    auto types = nlohmann::json::parse(dump).at("types");
    std::map<std::string, int> names;
    for (const auto& type : types)
        if (type.at("kind") == "STRUCT" || type.at("kind") == "UNION")
            ++names[type.at("name")];
    size_t structs = 0;
    size_t members = 0;
    for (const auto& type : types) {
        std::string name = type.at("name");
        if (!names.count(name) || names[name] != 1 || name == "(anon)" ||
            (type.at("kind") != "STRUCT" && type.at("kind") != "UNION"))
            continue;
        ++structs;
        // A linear search each in libbpf: every tenth struct is proof enough.
        if (structs % 10 != 0)
            continue;
        auto size = kernel_->btf.size(name);
        ASSERT_TRUE(size) << size.error().message();
        EXPECT_EQ(*size, type.at("size").get<uint32_t>()) << name;
        for (const auto& member : type.at("members")) {
            std::string member_name = member.at("name");
            uint32_t bits = member.at("bits_offset");
            if (member_name == "(anon)" || bits % 8 || member.value("bitfield_size", 0u))
                continue;
            auto offset = kernel_->btf.offset(name, member_name);
            ASSERT_TRUE(offset) << offset.error().message();
            EXPECT_EQ(*offset, bits / 8) << name << "." << member_name;
            ++members;
        }
    }
    EXPECT_GT(structs, 3'000u);
    EXPECT_GT(members, 1'000u);
}

/// Members with offset and size as pahole prints a struct: those of anonymous members
/// count, those of named ones do not.
std::map<std::string, std::pair<uint32_t, uint32_t>> pahole_members(const std::string& text) {
    static const std::regex member_kind(
        R"(([A-Za-z_]\w*)(\[\d*\])*\s*;\s*/\*\s*(\d+)\s+(\d+)\s*\*/)");
    using Found = std::vector<std::pair<std::string, std::pair<uint32_t, uint32_t>>>;
    std::vector<Found> nesting(1);
    std::istringstream lines(text);
    std::string line;
    static const std::regex attribute(R"(__attribute__\(\(.*\)\))");
    while (std::getline(lines, line)) {
        line = std::regex_replace(line, attribute, "");
        if (line.find('{') != std::string::npos) {
            nesting.emplace_back();
            continue;
        }
        size_t brace = line.find('}');
        if (brace != std::string::npos && nesting.size() > 1) {
            Found inner = std::move(nesting.back());
            nesting.pop_back();
            size_t behind = line.find_first_not_of(" \t", brace + 1);
            bool anonymous = behind == std::string::npos || line[behind] == ';';
            if (anonymous)
                nesting.back().insert(nesting.back().end(), inner.begin(), inner.end());
        }
        std::smatch match;
        if (std::regex_search(line, match, member_kind))
            nesting.back().push_back({match[1], {std::stoul(match[3]), std::stoul(match[4])}});
    }
    return {nesting.front().begin(), nesting.front().end()};
}

TEST_F(StockBtf, NestedMembersAreWherePaholeSees) {
    if (output_of("pahole --version 2>/dev/null").empty())
        GTEST_SKIP() << "no pahole (apt-get install pahole)";
    for (std::string name : {"task_struct", "cred", "page", "sk_buff", "file", "inode", "sock",
                             "mm_struct", "signal_struct", "pid", "module", "dentry", "bpf_prog"}) {
        std::string text = output_of("pahole -C " + name + " '" + guest_->path("btf") + "'");
        auto expected = pahole_members(text);
        EXPECT_GT(expected.size(), 4u) << name << "\n" << text;
        for (const auto& [member, where] : expected) {
            auto found = kernel_->btf.member(name, member);
            ASSERT_TRUE(found) << found.error().message();
            EXPECT_EQ(found->offset, where.first) << name << "." << member;
            EXPECT_EQ(found->size, where.second) << name << "." << member;
        }
    }
}

TEST_F(StockBtf, ConfigOffsetsArePaholes) {
    if (output_of("pahole --version 2>/dev/null").empty())
        GTEST_SKIP() << "no pahole (apt-get install pahole)";
    std::string text = output_of("pahole -C task_struct '" + guest_->path("btf") + "'");
    auto task = pahole_members(text);
    auto cred = pahole_members(output_of("pahole -C cred '" + guest_->path("btf") + "'"));
    const sm_offsets& offsets = kernel_->offsets;
    EXPECT_EQ(offsets.task_pid, task.at("pid").first);
    EXPECT_EQ(offsets.task_tgid, task.at("tgid").first);
    EXPECT_EQ(offsets.task_real_parent, task.at("real_parent").first);
    EXPECT_EQ(offsets.task_cred, task.at("cred").first);
    EXPECT_EQ(offsets.task_comm, task.at("comm").first);
    EXPECT_EQ(offsets.task_state, task.at("__state").first);
    EXPECT_EQ(offsets.cred_uid, cred.at("uid").first);
    std::smatch size;
    ASSERT_TRUE(std::regex_search(text, size, std::regex(R"(/\* size: (\d+))")));
    EXPECT_EQ(kernel_->task_size, std::stoul(size[1]));
}

} // namespace
} // namespace shadowmon::test
