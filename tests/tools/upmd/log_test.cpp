// SPDX-License-Identifier: MIT
//
// What the broker tells its operator: where it listens, and whom it refuses what.
#include "tools/upmd/log.hpp"

#include "tests/support/support.hpp"
#include "tests/tools/upmd/played_broker.hpp"

#include <array>
#include <cerrno>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <string>
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
