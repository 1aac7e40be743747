// SPDX-License-Identifier: MIT
//
// What the broker tells its operator: where it listens, and whom it refuses what.
#include "tools/upmd/log.hpp"

#include "libupm/base/packet.hpp"
#include "libupm/store/client.hpp"
#include "tests/support/broker_process.hpp"
#include "tests/support/process.hpp"
#include "tests/support/support.hpp"
#include "tests/tools/upmd/played_broker.hpp"
#include "tools/common/descriptor.hpp"

#include <array>
#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <string>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <utility>
#include <vector>

namespace upm::test {

namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class UpmdLog : public testing::Test {
  protected:
    UpmdLog() {
        EXPECT_EQ(::pipe2(ends_.data(), O_NONBLOCK | O_CLOEXEC), 0);
        log_ = std::make_unique<upmd::Log>(ends_[1]);
    }
    ~UpmdLog() override {
        (void)::close(ends_[0]);
        (void)::close(ends_[1]);
    }
    std::string said() {
        std::string text;
        std::array<char, 4096> part{};
        for (ssize_t size = 0; (size = ::read(ends_[0], part.data(), part.size())) > 0;)
            text.append(part.data(), static_cast<std::size_t>(size));
        return text;
    }

    std::array<int, 2> ends_{-1, -1};
    std::unique_ptr<upmd::Log> log_;
};

TEST_F(UpmdLog, OneRefusalOfManyIsTold) {
    constexpr std::uint64_t kMinute = 60'000;
    for (std::uint64_t i = 0; i < 1000; ++i)
        log_->refused(1000, "a reason", 1 + i);
    EXPECT_EQ(said(), "upmd: refuses what user 1000 asks for: a reason\n");
    log_->refused(1001, "a reason", 2);
    log_->refused(1000, "another", 2);
    EXPECT_EQ(said(), "upmd: refuses what user 1001 asks for: a reason\n"
                      "upmd: refuses what user 1000 asks for: another\n");
    log_->refused(1000, "a reason", 1 + 9 * kMinute);
    EXPECT_EQ(said(), "");
    log_->refused(1000, "a reason", 1 + 10 * kMinute);
    EXPECT_EQ(said(), "upmd: refuses what user 1000 asks for: a reason; 1000 times more since this "
                      "was told\n");
}

// User namespaces have thousands of users.
TEST_F(UpmdLog, ManyUsersFillNoDisk) {
    for (uid_t uid = 0; uid < 100'000; ++uid)
        log_->refused(uid, "a reason", 1);
    std::string text = said();
    EXPECT_LE(std::count(text.begin(), text.end(), '\n'), 256);
    log_->refused(1, "a reason", 1'000'000);
    EXPECT_THAT(said(), HasSubstr("user 1 "));
}

TEST_F(UpmdLog, AReaderWhoDoesNotReadHoldsNobodyUp) {
    ASSERT_EQ(::fcntl(ends_[1], F_SETFL, 0), 0); // to write would block
    for (int i = 0; i < 10'000; ++i)
        log_->say("0123456789012345678901234567890123456789");
    EXPECT_THAT(said(), HasSubstr("upmd: 0123"));
    (void)::close(std::exchange(ends_[0], -1));
    log_->say("nobody reads at all");
    upmd::Log(-1).say("nobody is told");
}

class UpmdRefusals : public PlayedBroker {
  protected:
    void begin_with(const upmd::Limits &limits) {
        begin(limits);
        broker().tell_of_refusals([this](uid_t uid, const char *why) {
            told_.emplace_back(std::to_string(uid) + " " + why);
        });
    }
    std::vector<std::string> told_;
};

TEST_F(UpmdRefusals, NameTheLimitThatStandsAgainstThem) {
    upmd::Limits limits = roomy();
    limits.max_pages = 40;
    limits.quota_pages = 20;
    limits.client_pages = 10;
    begin_with(limits);
    EXPECT_EQ(publish(join_as(1, 1), hashes_from(1, 11)), -EDQUOT);
    EXPECT_EQ(publish(join_as(1, 1), hashes_from(1, 10)), 0);
    EXPECT_EQ(publish(join_as(1, 2), hashes_from(20, 10)), 0);
    EXPECT_EQ(publish(join_as(1, 3), {40}), -EDQUOT);
    EXPECT_EQ(publish(join_as(2, 4), hashes_from(50, 10)), 0);
    EXPECT_EQ(publish(join_as(2, 5), hashes_from(60, 10)), 0);
    EXPECT_EQ(publish(join_as(3, 6), {70}), -EDQUOT);
    EXPECT_THAT(told_, ElementsAre("1 one of its processes has what --client-quota allows",
                                   "1 it has what --quota allows one user",
                                   "3 all users together have what --max allows"));
}

TEST_F(UpmdRefusals, TellWhoseFaultAFileIs) {
    begin_with(roomy());
    store::PublishRequest request{};
    request.count = 1;
    for (const int error : {EMFILE, EINVAL}) {
        upmd::Brought nothing;
        nothing.error = error;
        EXPECT_EQ(say(join_as(1, 1), store::Op::kPublish, request, {1}, std::move(nothing)),
                  -error);
    }
    EXPECT_THAT(told_, ElementsAre(HasSubstr("its files did not come through"),
                                   "1 it sends files that cannot be shared"));
}

TEST_F(UpmdRefusals, AreCounted) {
    begin_with(roomy());
    broker().refuse_connection(1, "a reason");
    EXPECT_FALSE(broker().handle(connect(2, 7), {}, {}, 1));
    EXPECT_THAT(told_,
                ElementsAre("1 a reason", "2 it sends packets that are not of the protocol"));
    for (const char *line : {"upmd_refused_connections_total 1\n", "upmd_bad_packets_total 1\n",
                             "upmd_refused_total 0\n"})
        EXPECT_THAT(broker().metrics(), HasSubstr(line));
}

TEST(UpmdTells, WhereItListensAndWhatItMayTake) {
    const TempDir folder;
    const std::string socket = folder.path() + "/upmd.sock";
    const std::vector<std::string> options = {"--socket", socket, "--idle-exit", "1",
                                              "--max",    "64",   "--quota",     "16",
                                              "--seeds",  "8",    "--mode",      "0666"};
    std::vector<std::string> command = {UPM_UPMD};
    command.insert(command.end(), options.begin(), options.end());
    const Finished done = run(command, {});
    EXPECT_EQ(done.status, 0);
    EXPECT_EQ(done.err, "upmd: listens at " + socket +
                            "; shares at most 64 MiB, of one user 16 MiB, of one process 16 MiB; "
                            "seeds of one user keep at most 8 MiB\n");
}

// A broker of its own, whose messages go into a file.
class UpmdThatTells : public testing::Test {
  protected:
    // Post: it listens, and may open 128 files.
    void SetUp() override {
        const std::string socket = folder_.path() + "/upmd.sock";
        (void)socket.copy(path_.text, sizeof(path_.text) - 1);
        pid_ = fork_tied();
        if (pid_ == 0) {
            constexpr rlimit kFew{.rlim_cur = 128, .rlim_max = 128};
            const int file = ::open(log().c_str(), O_CREAT | O_WRONLY | O_APPEND, 0600);
            if (::dup2(file, STDERR_FILENO) >= 0 && ::setrlimit(RLIMIT_NOFILE, &kFew) == 0)
                (void)::execl(UPM_UPMD, UPM_UPMD, "--socket", socket.c_str(), nullptr);
            ::_exit(127);
        }
        for (int tries = 0; tries < kTries && !listens(socket); ++tries)
            (void)::usleep(kPauseUs);
        ASSERT_TRUE(listens(socket));
    }
    void TearDown() override {
        (void)::kill(pid_, SIGTERM);
        EXPECT_EQ(wait_for(pid_), 0);
    }
    [[nodiscard]] std::string log() const { return folder_.path() + "/log"; }
    [[nodiscard]] bool comes_to_say(const std::string &text) const {
        for (int tries = 0; tries < kTries; ++tries, (void)::usleep(kPauseUs))
            if (read_file(log()).find(text) != std::string::npos)
                return true;
        return false;
    }

    static constexpr int kTries = 10'000;
    static constexpr unsigned kPauseUs = 10'000;
    const TempDir folder_;
    store::SocketPath path_{};
    pid_t pid_ = -1;
};

// How many there may be follows from how many files the broker may open.
TEST_F(UpmdThatTells, WhoseConnectionsItRefuses) {
    const std::string who =
        "upmd: refuses what user " + std::to_string(::geteuid()) + " asks for: ";
    std::array<store::Connection, 40> many;
    for (store::Connection &one : many)
        (void)one.open(path_, {});
    EXPECT_TRUE(comes_to_say(who + "all users together have as many connections as may be\n"))
        << read_file(log());
    (void)forbid_files(pid_);
    store::Connection late;
    EXPECT_EQ(late.open(path_, {}), -ECONNRESET);
    EXPECT_TRUE(comes_to_say(who + "the broker can open no more files\n")) << read_file(log());
}

TEST_F(UpmdThatTells, WhoDoesNotKeepToTheProtocol) {
    const tool::Descriptor socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    ASSERT_EQ(packet::fill_address(path_.text, address), 0);
    ASSERT_EQ(::connect(socket.get(), reinterpret_cast<sockaddr *>(&address), sizeof(address)), 0);
    ASSERT_EQ(::send(socket.get(), "hello", 5, 0), 5);
    EXPECT_TRUE(comes_to_say("asks for: it sends packets that are not of the protocol\n"))
        << read_file(log());
}

// It is told once, and not every ten seconds.
TEST(UpmdTells, WhyThereAreNoMetrics) {
    const TempDir folder;
    const Finished done = run({UPM_UPMD, "--socket", folder.path() + "/upmd.sock", "--idle-exit",
                               "1", "--metrics", folder.path() + "/none/upmd.prom"},
                              {});
    EXPECT_EQ(done.status, 0);
    EXPECT_THAT(done.err, HasSubstr("cannot write metrics into " + folder.path() +
                                    "/none/upmd.prom: No such file or directory\n"));
}

} // namespace

} // namespace upm::test
