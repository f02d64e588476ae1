// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/control/control_socket.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <random>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <thread>
#include <unistd.h>

namespace shadowmon {
namespace {

HookStatus sample(uint32_t id) {
    HookStatus hook;
    hook.id = id;
    hook.name = "vfs_read\xff\"";
    hook.address = 0xffffffff81234567;
    hook.gate = "int20";
    hook.state = "on";
    hook.recorded = ~uint64_t{0} - 7;
    hook.lost = 3;
    hook.limited = 4;
    hook.limit = 1000;
    return hook;
}

TEST(HookCommand, GoesThereAndBack) {
    HookCommand command{HookCommand::Verb::add, {"vfs_read", "nf_*", "do_exit+0x2a"}, 100};
    auto back = parse_command(encode(command));
    ASSERT_TRUE(back) << back.error().message();
    EXPECT_EQ(back->verb, command.verb);
    EXPECT_EQ(back->hooks, command.hooks);
    EXPECT_EQ(back->limit, command.limit);
    auto list = parse_command(encode(HookCommand{}));
    ASSERT_TRUE(list);
    EXPECT_EQ(list->verb, HookCommand::Verb::list);
    EXPECT_FALSE(list->limit);
}

TEST(HookCommand, BadOnesAreNamed) {
    auto error = [](const std::string& line) {
        auto command = parse_command(line);
        return command ? "none" : command.error().message();
    };
    auto says = [&](const std::string& line, const char* text) {
        EXPECT_NE(error(line).find(text), std::string::npos) << line << ": " << error(line);
    };
    for (const char* line : {"", "[]", "7", "{", "null", "\"list\""})
        says(line, "no JSON object");
    says("{}", "no command \"\"");
    says(R"({"command":"drop"})", "no command \"drop\"");
    says(R"({"command":7})", "\"command\" has the wrong type");
    says(R"({"command":"add","hooks":"x"})", "\"hooks\" has the wrong type");
    says(R"({"command":"add","hooks":[1]})", "\"hooks\" has the wrong type");
    says(R"({"command":"add","hooks":[]})", "add needs the names");
    says(R"({"command":"remove"})", "remove needs the names");
    says(R"({"command":"add","hooks":[""]})", "name of 0 bytes");
    says(R"({"command":"add","hooks":["x"],"limit":0})", "1 or more");
    says(R"({"command":"list","limit":5})", "goes with add");
    says(R"({"command":"add","hooks":["x"],"limit":-5})", "\"limit\" has the wrong type");
    says(R"({"command":"add","hooks":["x"],"limit":1e3})", "\"limit\" has the wrong type");
    says(encode(HookCommand{HookCommand::Verb::add, {std::string(257, 'x')}, {}}),
         "name of 257 bytes");
    says(encode(HookCommand{HookCommand::Verb::add, std::vector<std::string>(4097, "x"), {}}),
         "4097 hooks");
}

TEST(HookReply, GoesThereAndBack) {
    HookReply reply;
    reply.error = "no";
    reply.notes = {"3 functions cannot be hooked"};
    reply.hooks = {sample(1), sample(2)};
    reply.hooks[1].limit.reset();
    reply.hooks[1].note = "the guest wrote over it";
    auto back = parse_reply(encode(reply));
    ASSERT_TRUE(back) << back.error().message();
    EXPECT_EQ(back->error, "no");
    EXPECT_EQ(back->notes, reply.notes);
    ASSERT_EQ(back->hooks.size(), 2u);
    EXPECT_EQ(back->hooks[0].id, 1u);
    // A byte that is no UTF-8 does not survive JSON, the rest does.
    EXPECT_EQ(back->hooks[0].name, "vfs_read\xef\xbf\xbd\"");
    EXPECT_EQ(back->hooks[0].address, 0xffffffff81234567);
    EXPECT_EQ(back->hooks[0].recorded, ~uint64_t{0} - 7);
    EXPECT_EQ(back->hooks[0].hits(), ~uint64_t{0});
    EXPECT_EQ(back->hooks[0].limit, 1000u);
    EXPECT_FALSE(back->hooks[1].limit);
    EXPECT_EQ(back->hooks[1].note, "the guest wrote over it");
    for (const char* line : {"", "[]", R"({"hooks":[7]})", R"({"hooks":7})",
                             R"({"hooks":[{"id":"x"}]})", R"({"notes":[7]})", R"({"error":1})"})
        EXPECT_FALSE(parse_reply(line)) << line;
}

/// The reply is put together by hand: any JSON library has to understand it, and to write it so.
TEST(HookReply, IsWhatAJsonLibraryWrites) {
    HookReply reply;
    auto same = [&] {
        std::string text = encode(reply);
        auto value = nlohmann::json::parse(text, nullptr, false);
        return value.is_object() && value.dump() == text ? value : nlohmann::json();
    };
    EXPECT_EQ(same(), nlohmann::json({{"hooks", nlohmann::json::array()},
                                      {"notes", nlohmann::json::array()}}));
    reply.error = "no \"vfs_raed\"\n";
    reply.notes = {"plain", "a\\b\t\x7f", ""};
    reply.hooks = {sample(1), sample(2), sample(3)};
    reply.hooks[1].limit.reset();
    reply.hooks[1].note = "\x1b[31m \xff \xc3\xa4 \"";
    reply.pause_tsc = ~uint64_t{0};
    auto value = same();
    ASSERT_TRUE(value.is_object()) << encode(reply);
    EXPECT_EQ(value["error"], reply.error);
    EXPECT_EQ(value["notes"], nlohmann::json(reply.notes));
    EXPECT_EQ(value["pause_tsc"], reply.pause_tsc);
    ASSERT_EQ(value["hooks"].size(), 3u);
    EXPECT_EQ(value["hooks"][0].size(), 10u);
    EXPECT_EQ(value["hooks"][0]["hits"], ~uint64_t{0});
    EXPECT_EQ(value["hooks"][1]["note"], "\x1b[31m \xef\xbf\xbd \xc3\xa4 \"");
    EXPECT_FALSE(value["hooks"][1].contains("limit"));
    EXPECT_EQ(value["hooks"][2]["name"], "vfs_read\xef\xbf\xbd\"");
}

TEST(HookCommand, AnyBytesAreAnswered) {
    std::mt19937 random(1);
    const std::string good = encode(HookCommand{HookCommand::Verb::add, {"vfs_read", "nf_*"}, 100});
    for (int i = 0; i < 20'000; i++) {
        std::string line = good;
        for (int n = static_cast<int>(random() % 4); n >= 0; n--)
            line[random() % line.size()] = static_cast<char>(random());
        line.resize(random() % (line.size() + 1));
        (void)parse_command(line);
        (void)parse_reply(line);
    }
}

class Control : public testing::Test {
  protected:
    void SetUp() override {
        path_ = testing::TempDir() + "control." + std::to_string(getpid());
        auto server = ControlServer::listen(path_);
        ASSERT_TRUE(server) << server.error().message();
        server_.emplace(std::move(*server));
    }
    void TearDown() override {
        stop();
        server_.reset();
        EXPECT_NE(access(path_.c_str(), F_OK), 0) << "the socket's file is left";
    }
    /// Serves in a thread as a trace does.
    void start(ControlServer::Handler handler) {
        thread_ = std::thread([this, handler = std::move(handler)] {
            while (!stop_) {
                std::vector<pollfd> fds;
                server_->add_to(fds);
                ::poll(fds.data(), fds.size(), 10);
                server_->serve(handler);
            }
        });
    }
    void stop() {
        stop_ = true;
        if (thread_.joinable())
            thread_.join();
    }
    UniqueFd connect() {
        UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM, 0));
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        path_.copy(address.sun_path, sizeof(address.sun_path) - 1);
        EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
        timeval limit{30, 0};
        ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
        return fd;
    }
    static std::string read_all(int fd) {
        std::string all;
        char buffer[4096];
        for (ssize_t n; (n = ::recv(fd, buffer, sizeof(buffer), 0)) > 0;)
            all.append(buffer, static_cast<size_t>(n));
        return all;
    }

    std::string path_;
    std::optional<ControlServer> server_;
    std::thread thread_;
    std::atomic<bool> stop_ = false;
};

TEST_F(Control, CommandsAreAnswered) {
    start([](const HookCommand& command) {
        HookReply reply;
        for (size_t i = 0; i < command.hooks.size(); i++)
            reply.hooks.push_back(sample(static_cast<uint32_t>(i)));
        reply.notes = command.hooks;
        return reply;
    });
    std::vector<std::thread> clients;
    for (size_t n : {1, 10, 4096}) {
        clients.emplace_back([this, n] {
            HookCommand command{HookCommand::Verb::enable, std::vector<std::string>(n, "x"), {}};
            for (int round = 0; round < 5; round++) {
                auto reply = send_command(path_, command);
                ASSERT_TRUE(reply) << reply.error().message();
                EXPECT_EQ(reply->hooks.size(), n);
                EXPECT_EQ(reply->notes.size(), n);
            }
        });
    }
    for (std::thread& client : clients)
        client.join();
}

TEST_F(Control, BadCommandsGetAnAnswerToo) {
    start([](const HookCommand&) { return HookReply{}; });
    UniqueFd fd = connect();
    const std::string lines = "nonsense\n{\"command\":\"list\"}\n";
    ASSERT_EQ(::send(fd.get(), lines.data(), lines.size(), 0), static_cast<ssize_t>(lines.size()));
    ::shutdown(fd.get(), SHUT_WR);
    std::string all = read_all(fd.get());
    EXPECT_EQ(all.find("{\"error\":\"the command is no JSON object\""), 0u) << all;
    EXPECT_EQ(std::count(all.begin(), all.end(), '\n'), 2) << all;
}

TEST_F(Control, EndlessLinesAreCut) {
    start([](const HookCommand&) { return HookReply{}; });
    UniqueFd fd = connect();
    std::string chunk(1 << 16, 'x');
    size_t sent = 0;
    while (sent < 64 * ControlServer::max_line) {
        ssize_t n = ::send(fd.get(), chunk.data(), chunk.size(), MSG_NOSIGNAL);
        if (n < 0)
            break;
        sent += static_cast<size_t>(n);
    }
    EXPECT_LT(sent, 64 * ControlServer::max_line);
    EXPECT_TRUE(send_command(path_, {}));
}

TEST_F(Control, SilentClientsKeepNobodyOut) {
    start([](const HookCommand&) { return HookReply{}; });
    std::vector<UniqueFd> idle;
    for (size_t i = 0; i + 1 < ControlServer::max_clients; i++)
        idle.push_back(connect());
    EXPECT_TRUE(send_command(path_, {}));
}

TEST_F(Control, SecondServerIsRefused) {
    auto second = ControlServer::listen(path_);
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().code(), EADDRINUSE);
    EXPECT_NE(second.error().message().find("another trace listens there"), std::string::npos);
}

TEST_F(Control, OnlyTheOwnerReachesIt) {
    struct stat info {};
    ASSERT_EQ(::stat(path_.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST(ControlPath, LeftoversAreTakenOver) {
    std::string path = testing::TempDir() + "leftover." + std::to_string(getpid());
    {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        path.copy(address.sun_path, sizeof(address.sun_path) - 1);
        UniqueFd dead(::socket(AF_UNIX, SOCK_STREAM, 0));
        ASSERT_EQ(::bind(dead.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    }
    EXPECT_TRUE(ControlServer::listen(path));
    // A file that is no socket is not ours to remove.
    UniqueFd file(::open(path.c_str(), O_CREAT | O_WRONLY, 0600));
    ASSERT_TRUE(file.valid());
    EXPECT_FALSE(ControlServer::listen(path));
    EXPECT_EQ(access(path.c_str(), F_OK), 0);
    ::unlink(path.c_str());
    EXPECT_FALSE(ControlServer::listen(std::string(200, 'x')));
    EXPECT_FALSE(ControlServer::listen(""));
}

TEST(ControlPath, NobodyThere) {
    auto reply = send_command("/nowhere/4711.sock", {});
    ASSERT_FALSE(reply);
    EXPECT_NE(reply.error().message().find("no trace of that VM is running"), std::string::npos);
}

} // namespace
} // namespace shadowmon
