// SPDX-License-Identifier: MIT
//
// The figures of real processes against a straight sum of smaps and against smem, and
// the command as a user runs it.
#include "tests/support/support.hpp"
#include "tools/pss-report/read/collect.hpp"
#include "tools/pss-report/show/output.hpp"

#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <fmt/format.h>
#include <fstream>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

namespace upm::tool::pss {

namespace {

using testing::AllOf;
using testing::HasSubstr;
using upm::test::Finished;

// A process that holds still, with memory of its own and shared with its parent.
class Still {
  public:
    Still() {
        pages_.fill('s');
        pid_ = ::fork();
        if (pid_ == 0) {
            (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
            pages_.page(0)[0] = 'x';
            (void)::prctl(PR_SET_NAME, "still \n\xff");
            for (;;)
                (void)::pause();
        }
        while (upm::test::read_file(fmt::format("/proc/{}/comm", pid_)) != "still \n\xff\n")
            (void)::usleep(1000);
    }
    Still(const Still &) = delete;
    Still &operator=(const Still &) = delete;
    ~Still() {
        (void)::kill(pid_, SIGKILL);
        (void)::waitpid(pid_, nullptr, 0);
    }
    [[nodiscard]] int pid() const { return pid_; }

  private:
    upm::test::Pages pages_{512};
    int pid_ = -1;
};

struct Sum {
    std::uint64_t rss = 0, pss = 0, uss = 0, anon = 0, lines = 0;
    bool operator==(const Sum &) const = default;
};

// As a shell script would do it, with none of the code under test.
Sum straight_sum(int pid) {
    Sum sum;
    std::ifstream file(fmt::format("/proc/{}/smaps", pid));
    for (std::string word; file >> word;) {
        std::uint64_t value = 0;
        const bool wanted = word == "Rss:" || word == "Pss:" || word == "Anonymous:" ||
                            word == "Private_Clean:" || word == "Private_Dirty:";
        if (!wanted || !(file >> value))
            continue;
        value <<= 10U;
        sum.rss += word == "Rss:" ? value : 0;
        sum.pss += word == "Pss:" ? value : 0;
        sum.anon += word == "Anonymous:" ? value : 0;
        sum.uss += word.starts_with("Private_") ? value : 0;
        sum.lines += word == "Pss:";
    }
    return sum;
}

Process process_of(int pid, bool mappings) {
    CollectOptions options;
    options.filter.pids = {pid};
    options.mappings = mappings;
    Collector collector(Root(), options);
    const Snapshot snapshot = collector.collect();
    EXPECT_EQ(snapshot.processes.size(), 1U);
    return snapshot.processes.empty() ? Process() : snapshot.processes[0];
}

// What the parent does to pages that both have changes the child's figures: taken anew
// until nothing changed meanwhile.
TEST(Agreement, WithAStraightSumOfSmaps) {
    const Still still;
    for (const bool mappings : {false, true}) {
        Usage usage;
        Sum before, sum;
        for (int i = 0; i < 100 && (i == 0 || before != sum); ++i) {
            before = straight_sum(still.pid());
            usage = process_of(still.pid(), mappings).usage;
            sum = straight_sum(still.pid());
        }
        EXPECT_EQ(usage.rss, sum.rss);
        EXPECT_EQ(usage.uss, sum.uss);
        EXPECT_EQ(usage.anon, sum.anon);
        // smaps cuts the PSS of each mapping off to kilobytes, smaps_rollup only the sum.
        EXPECT_GE(usage.pss, sum.pss);
        EXPECT_LE(usage.pss, sum.pss + (mappings ? 0 : sum.lines << 10U));
    }
}

TEST(Agreement, WithSmem) {
    if (std::system("command -v smem >/dev/null") != 0)
        GTEST_SKIP() << "smem is not installed";
    const Still still;
    const Finished smem = upm::test::run({"/bin/sh", "-c", "smem -H -c 'pid uss pss rss'"});
    ASSERT_EQ(smem.status, 0) << smem.err;
    std::istringstream lines(smem.out);
    std::uint64_t pid = 0, uss = 0, pss = 0, rss = 0;
    bool found = false;
    while (lines >> pid >> uss >> pss >> rss) {
        if (pid != static_cast<std::uint64_t>(still.pid()))
            continue;
        found = true;
        const Usage usage = process_of(still.pid(), false).usage;
        EXPECT_EQ(usage.rss, rss << 10U);
        // Who else maps the libraries changes from one moment to the next, and smem
        // itself maps some; the rest must agree.
        const auto libraries = static_cast<double>(usage.file);
        EXPECT_NEAR(static_cast<double>(usage.uss), static_cast<double>(uss << 10U), libraries);
        EXPECT_NEAR(static_cast<double>(usage.pss), static_cast<double>(pss << 10U), libraries);
    }
    EXPECT_TRUE(found);
}

TEST(Agreement, NameOfAnOddProcess) {
    const Still still;
    EXPECT_EQ(process_of(still.pid(), false).command, "still \n\xff");
}

Finished command(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), UPM_PSS_REPORT);
    return upm::test::run(arguments);
}

TEST(Command, JsonOfARealProcess) {
    const Still still;
    const Finished done = command({"--pid", std::to_string(still.pid()), "--json"});
    ASSERT_EQ(done.status, 0) << done.err;
    const Json json = Json::parse(done.out);
    ASSERT_EQ(json["rows"].size(), 1U);
    EXPECT_EQ(json["rows"][0]["pid"], still.pid());
    EXPECT_EQ(json["rows"][0]["command"], "still \n\xef\xbf\xbd");
    EXPECT_GT(json["rows"][0]["usage"]["pss"].get<std::uint64_t>(), 0U);
}

TEST(Command, TableShowsOddNamesWithoutControlCharacters) {
    const Still still;
    const Finished done = command({"--pid", std::to_string(still.pid())});
    EXPECT_THAT(done.out, HasSubstr("still \\x0a\\xff\n"));
}

TEST(Command, WatchesAndRecords) {
    const upm::test::TempDir dir;
    const std::string file = dir.path() + "/r.jsonl";
    const Still still;
    const Finished done = command({"--pid", std::to_string(still.pid()), "--watch", "0.01",
                                   "--count", "3", "--record", file, "--tag", "t", "-n", "1"});
    ASSERT_EQ(done.status, 0) << done.err;
    std::size_t lines = 0;
    for (const char c : upm::test::read_file(file))
        lines += c == '\n';
    EXPECT_EQ(lines, 3U);
}

TEST(Command, WritesAFileWhole) {
    const upm::test::TempDir dir;
    const std::string file = dir.path() + "/pss.prom";
    ASSERT_EQ(command({"--prom", "--output", file, "--by", "user"}).status, 0);
    EXPECT_THAT(upm::test::read_file(file), HasSubstr("pss_report_pss_bytes{user="));
    const Finished failed = command({"--prom", "--output", dir.path() + "/no/such"});
    EXPECT_EQ(failed.status, 1);
    EXPECT_THAT(failed.err, HasSubstr("No such file"));
}

TEST(Command, LeavesLinksAndPipesWhatTheyAre) {
    const upm::test::TempDir dir;
    const std::string file = dir.path() + "/file", link = dir.path() + "/link",
                      pipe = dir.path() + "/pipe";
    dir.write("file", "old");
    ASSERT_EQ(::symlink("file", link.c_str()), 0);
    ASSERT_EQ(command({"--csv", "-o", link}).status, 0);
    struct stat info {};
    EXPECT_TRUE(::lstat(link.c_str(), &info) == 0 && S_ISLNK(info.st_mode));
    EXPECT_THAT(upm::test::read_file(file), HasSubstr("time,by,key"));
    ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
    const int reader = ::open(pipe.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    ASSERT_GE(reader, 0);
    const std::string few = std::to_string(::getpid()); // fits into the pipe
    EXPECT_EQ(command({"--csv", "-o", pipe, "--pid", few}).status, 0);
    EXPECT_TRUE(::lstat(pipe.c_str(), &info) == 0 && S_ISFIFO(info.st_mode));
    char text[5] = {};
    EXPECT_EQ(::read(reader, text, 4), 4);
    EXPECT_STREQ(text, "time");
    (void)::close(reader);
    EXPECT_EQ(command({"--csv", "-o", dir.path()}).status, 1);
}

TEST(Command, EscapesNamesInErrors) {
    const Finished done = command({"x\x1b"});
    EXPECT_EQ(done.status, 1);
    EXPECT_EQ(done.err, "pss-report: cannot read x\\x1b: No such file or directory\n");
}

// In place of a report of nobody.
TEST(Command, SaysThatThereIsNoSuchUser) {
    for (const char *user : {"nobody-of-this-name", "-5", "99999999999", ""}) {
        const Finished done = command({"--user", user});
        EXPECT_EQ(done.status, 1) << user;
        EXPECT_EQ(done.err,
                  fmt::format("pss-report: --user '{}': /etc/passwd has no such user\n", user));
        EXPECT_EQ(done.out, "");
    }
    EXPECT_EQ(command({"--user", "4294967294"}).status, 0) << "a number needs no name";
}

// Not that of the file that is to become it.
TEST(Command, NamesTheFileThatCannotBeWritten) {
    const Finished done = command({"--pid", std::to_string(::getpid()), "-o", "/nowhere/report"});
    EXPECT_EQ(done.status, 1);
    EXPECT_EQ(done.err, "pss-report: cannot write /nowhere/report: No such file or directory\n");
}

struct BadCase {
    const char *label;
    std::vector<std::string> arguments;
    const char *message;
    friend void PrintTo(const BadCase &bad, std::ostream *out) { *out << bad.label; }
};
class BadCommand : public testing::TestWithParam<BadCase> {};
TEST_P(BadCommand, IsRefusedWithTheReason) {
    const Finished done = command(GetParam().arguments);
    EXPECT_EQ(done.status, 2);
    EXPECT_THAT(done.err, AllOf(HasSubstr("pss-report: "), HasSubstr(GetParam().message)));
    EXPECT_EQ(done.out, "");
}
INSTANTIATE_TEST_SUITE_P(
    Arguments, BadCommand,
    testing::Values(BadCase{"Unknown", {"--bogus"}, "bogus"},
                    BadCase{"Stray", {"x", "--csv"}, "of recordings there are a table and --json"},
                    BadCase{"Pid", {"--pid", "1,x"}, "--pid: 'x' is no process id"},
                    BadCase{"NegativePid", {"--pid=-1"}, "no process id"},
                    BadCase{"By", {"--by", "x"}, "process, cgroup, container, user, command"},
                    BadCase{"Sort", {"--sort", "x"}, "--sort: 'x' is not one of pid"},
                    BadCase{"Fields", {"--fields", "pid,,rss"}, "--fields: ''"},
                    BadCase{"Units", {"--units", "x"}, "--units: 'x'"},
                    BadCase{"Limit", {"--limit", "x"}, "--limit: 'x' is no whole number"},
                    BadCase{"Formats", {"--json", "--csv"}, "exclude each other"},
                    BadCase{"Watch", {"--watch", "0"}, "--watch: '0' is no number from 0.01"},
                    BadCase{"Count", {"--count", "3"}, "--count needs --watch"},
                    BadCase{"Color", {"--color", "x"}, "--color: 'x'"}),
    [](const auto &test) { return test.param.label; });

} // namespace

} // namespace upm::tool::pss
