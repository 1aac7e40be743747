// SPDX-License-Identifier: MIT
//
// The command upm as a user runs it: output, JSON, errors, exit status. The module
// is played by fake_device.cpp; the processes it works on are real.
#include "tests/support/support.hpp"

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <iterator>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <nlohmann/json.hpp>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace upm::test {

namespace {

using nlohmann::json;
using testing::AllOf;
using testing::ContainsRegex;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;
using testing::StrEq;

Finished upm(std::vector<std::string> arguments, std::vector<std::string> environment = {}) {
    arguments.insert(arguments.begin(), UPM_COMMAND);
    environment.insert(environment.begin(), {"UPM_BACKEND", "UPM_DOMAIN", "UPM_VERBOSE",
                                             "UPM_SOCKET=/proc/none/upmd.sock"});
    return run(arguments, environment);
}

Finished fake_upm(const std::vector<std::string> &arguments, const std::string &mode = "",
                  std::vector<std::string> environment = {}) {
    environment.insert(environment.begin(),
                       {std::string("LD_PRELOAD=") + UPM_FAKE_DEVICE, "FAKE_UPM=" + mode});
    return upm(arguments, environment);
}

// A process to work on, with one mapping that the test knows.
class Victim {
  public:
    static constexpr std::size_t kPages = 3;

    Victim() : memory_(kPages) {
        memory_.fill('v');
        pid_ = ::fork();
        if (pid_ == 0) {
            (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
            (void)::prctl(PR_SET_NAME, "vic\ntim");
            for (;;)
                (void)::pause();
        }
        // The name is what the test waits for: it is set last.
        while (read_file(fmt::format("/proc/{}/comm", pid_)) != "vic\ntim\n")
            (void)::usleep(1000);
    }
    Victim(const Victim &) = delete;
    Victim &operator=(const Victim &) = delete;
    ~Victim() { end(); }

    void end() {
        if (pid_ > 0) {
            (void)::kill(pid_, SIGKILL);
            (void)::waitpid(pid_, nullptr, 0);
        }
        pid_ = -1;
    }
    [[nodiscard]] std::string pid() const { return std::to_string(pid_); }
    [[nodiscard]] std::string range() const {
        return fmt::format("{:x}-{:x}", reinterpret_cast<std::uintptr_t>(memory_.data()),
                           reinterpret_cast<std::uintptr_t>(memory_.data()) + memory_.size());
    }
    [[nodiscard]] std::string selector() const { return pid() + ":" + range(); }

  private:
    Pages memory_;
    pid_t pid_ = -1;
};

TEST(Command, WithoutArgumentsShowsUsage) {
    const Finished done = upm({});
    EXPECT_EQ(done.status, 2);
    EXPECT_THAT(done.out, StrEq(""));
    EXPECT_THAT(done.err, HasSubstr("Usage: upm COMMAND"));
}

TEST(Command, Help) {
    for (const char *option : {"--help", "-h", "help"}) {
        const Finished done = upm({option});
        EXPECT_EQ(done.status, 0);
        for (const char *name : {"advise", "unmerge", "status", "doctor", "UPM_BACKEND"})
            EXPECT_THAT(done.out, HasSubstr(name));
        EXPECT_THAT(done.err, StrEq(""));
    }
}

TEST(Command, EveryCommandHasHelp) {
    for (const char *name : {"advise", "unmerge", "status", "doctor"}) {
        const Finished done = upm({name, "--help"});
        EXPECT_EQ(done.status, 0) << name;
        EXPECT_THAT(done.out, HasSubstr(std::string("upm ") + name));
        EXPECT_THAT(done.out, HasSubstr("--json"));
    }
    EXPECT_THAT(upm({"advise", "--help"}).out, HasSubstr("--dry-run"));
    EXPECT_THAT(upm({"unmerge", "--help"}).out, Not(HasSubstr("--dry-run")));
}

TEST(Command, Version) {
    const Finished done = upm({"--version"});
    EXPECT_EQ(done.status, 0);
    EXPECT_THAT(done.out, testing::MatchesRegex("upm [0-9.]+ \\(libupm [0-9.]+\\)\n"));
}

// A broker that root's look started would keep other users' containers out.
TEST(Command, WhatOnlyTellsStartsNoBroker) {
    for (const char *word : {"--version", "--help", "status", "doctor"}) {
        const TempDir folder;
        (void)upm({word}, {"UPM_SOCKET=" + folder.path() + "/upmd.sock"});
        EXPECT_TRUE(std::filesystem::is_empty(folder.path())) << word;
    }
}

struct WrongCase {
    const char *name;
    std::vector<std::string> arguments;
    const char *message;
};

class Wrong : public testing::TestWithParam<WrongCase> {};

// Exit status 2, one line that says what was wrong, nothing on stdout.
TEST_P(Wrong, IsAUsageError) {
    const Finished done = upm(GetParam().arguments);
    EXPECT_EQ(done.status, 2);
    EXPECT_THAT(done.out, StrEq(""));
    EXPECT_THAT(done.err, AllOf(StartsWith("upm"), HasSubstr(GetParam().message)));
    EXPECT_EQ(std::count(done.err.begin(), done.err.end(), '\n'), 1) << done.err;
}

INSTANTIATE_TEST_SUITE_P(
    Arguments, Wrong,
    testing::Values(WrongCase{"UnknownCommand", {"frobnicate"}, "there is no command 'frobnicate'"},
                    WrongCase{"UnknownOption", {"--frob"}, "there is no option '--frob'"},
                    WrongCase{"ControlCharacters", {"a\x1b[2J"}, "'a\\x1b[2J'"},
                    WrongCase{"CommandOption", {"status", "--frob"}, "frob"},
                    WrongCase{"Stray", {"status", "stray"}, "stray argument 'stray'"},
                    WrongCase{
                        "NoFolder", {"status", "--root", "/nowhere"}, "'/nowhere' is no folder"},
                    WrongCase{"EmptyGroup", {"advise", "--cgroup", ""}, "--cgroup takes the path"},
                    WrongCase{"StrayOfCdi", {"cdi", "generate", "stray"}, "stray argument 'stray'"},
                    WrongCase{"NothingOfCdi", {"cdi", "--new-key"}, "say upm cdi generate"},
                    WrongCase{"NoTarget", {"advise"}, "--pid, --cgroup or --range"},
                    WrongCase{"BadPid", {"advise", "--pid", "x1"}, "'x1' is not a process id"},
                    WrongCase{"NegativePid", {"advise", "--pid=-5"}, "'-5' is not a process id"},
                    WrongCase{"BadRange", {"unmerge", "--range", "5:1"}, "'5:1' is not a range"},
                    WrongCase{"BadSize",
                              {"advise", "--pid", "1", "--min-bytes", "5X"},
                              "--min-bytes: '5X' is no number of bytes"},
                    WrongCase{"MissingValue", {"advise", "--pid"}, "pid"},
                    WrongCase{"DryUnmerge", {"unmerge", "--pid", "1", "--dry-run"}, "dry-run"}),
    [](const auto &test) { return test.param.name; });

TEST(Advise, NeedsABackendThatReachesOthers) {
    const Finished done = upm({"advise", "--pid", "1"}, {"UPM_BACKEND=none"});
    EXPECT_EQ(done.status, 1);
    EXPECT_THAT(done.err, StartsWith("upm advise: backend none cannot work on other processes "
                                     "(UPM_BACKEND=none: merges nothing)"));
    EXPECT_THAT(done.out, StrEq(""));
}

TEST(Advise, WorksOnTheMappingsOfAProcess) {
    const Victim victim;
    const TempDir dir;
    const std::string log = dir.path() + "/log";
    const Finished done = fake_upm({"advise", "--pid", victim.pid(), "--json", "--verbose"}, "",
                                   {"FAKE_UPM_LOG=" + log});
    EXPECT_EQ(done.status, 0) << done.err;
    EXPECT_THAT(done.err, StrEq(""));
    const json result = json::parse(done.out);
    EXPECT_EQ(result["command"], "advise");
    EXPECT_EQ(result["backend"], "kmod");
    EXPECT_EQ(result["errors"], json::array());
    ASSERT_EQ(result["targets"].size(), 1U);
    const json &target = result["targets"][0];
    EXPECT_EQ(target["pid"], std::stoi(victim.pid()));
    EXPECT_EQ(target["command"], "vic\ntim");
    EXPECT_GT(target["mappings"], 10);
    EXPECT_GE(target["left_out"]["special"], 1) << "the vDSO must be left out";
    EXPECT_EQ(target["details"].size(), target["mappings"]);
    // The fake merges all pages of a mapping but one.
    EXPECT_EQ(target["counts"]["skipped"]["busy"], target["mappings"]);
    EXPECT_EQ(target["counts"]["pages"].get<int>(),
              target["counts"]["merged"].get<int>() + target["mappings"].get<int>());
    EXPECT_EQ(target["counts"], result["counts"]);
    EXPECT_THAT(read_file(log), HasSubstr("pid=" + victim.pid() + " domain=0"));
    EXPECT_THAT(done.out, Not(HasSubstr("[vdso]")));
}

TEST(Advise, Range) {
    const Victim victim;
    const TempDir dir;
    const std::string log = dir.path() + "/log";
    const Finished done =
        fake_upm({"advise", "--range", victim.selector(), "--json"}, "", {"FAKE_UPM_LOG=" + log});
    EXPECT_EQ(done.status, 0) << done.err;
    const json result = json::parse(done.out);
    EXPECT_EQ(result["counts"]["pages"], Victim::kPages);
    EXPECT_EQ(result["targets"][0]["mappings"], 1);
    EXPECT_THAT(read_file(log),
                HasSubstr("addr=" + victim.range().substr(0, victim.range().find('-')) +
                          " len=" + fmt::format("{:x}", Victim::kPages * page_size()) + "\n"));
}

TEST(Advise, RangeWithNothingMapped) {
    const Victim victim;
    const Finished done = fake_upm({"advise", "--range", victim.pid() + ":1000-2000"});
    EXPECT_EQ(done.status, 1);
    EXPECT_THAT(done.err, StrEq(fmt::format(
                              "upm advise: pid {} (vic\\x0atim): nothing is mapped in 1000-2000\n",
                              victim.pid())));
}

TEST(Advise, Text) {
    const Victim victim;
    const Finished done = fake_upm({"advise", "--range", victim.selector()});
    EXPECT_EQ(done.status, 0);
    EXPECT_THAT(done.out, HasSubstr("MERGED SIZE"));
    EXPECT_THAT(done.out, HasSubstr(victim.pid() + "  vic\\x0atim"));
    EXPECT_THAT(done.out, HasSubstr("8.0 KiB"));
    EXPECT_THAT(done.out, HasSubstr("skipped pages\nREASON  PAGES\nbusy        1\n"));
}

TEST(Advise, VerboseHasARowForEachMapping) {
    const Victim victim;
    const Finished done = fake_upm({"advise", "--pid", victim.pid(), "--verbose"});
    EXPECT_THAT(done.out, HasSubstr(victim.range()));
    EXPECT_THAT(done.out, HasSubstr("upm-tool-tests")) << "the name of a mapped file";
}

TEST(Advise, DryRunAndFlagsReachTheModule) {
    const Victim victim;
    const TempDir dir;
    const std::string log = dir.path() + "/log";
    const Finished dry = fake_upm({"advise", "--range", victim.selector(), "-n", "--json"}, "",
                                  {"FAKE_UPM_LOG=" + log});
    EXPECT_EQ(json::parse(dry.out)["dry_run"], true);
    EXPECT_THAT(read_file(log), HasSubstr("advise flags=2 "));
    const Finished unmerge =
        fake_upm({"unmerge", "--range", victim.selector(), "--json"}, "", {"FAKE_UPM_LOG=" + log});
    EXPECT_EQ(json::parse(unmerge.out)["counts"]["unmerged"], Victim::kPages);
    EXPECT_EQ(json::parse(unmerge.out)["command"], "unmerge");
    EXPECT_THAT(read_file(log), HasSubstr("advise flags=1 "));
}

TEST(Advise, Filters) {
    const Victim victim;
    const auto target = [&](const std::vector<std::string> &more) {
        std::vector<std::string> arguments = {"advise", "--pid", victim.pid(), "--json"};
        arguments.insert(arguments.end(), more.begin(), more.end());
        return json::parse(fake_upm(arguments).out)["targets"][0];
    };
    const int all = target({})["mappings"];
    const json anonymous = target({"--anon-only"});
    EXPECT_LT(anonymous["mappings"], all);
    EXPECT_EQ(anonymous["mappings"].get<int>() + anonymous["left_out"]["file"].get<int>(), all);
    const json big = target({"--min-bytes", "64K"});
    EXPECT_EQ(big["mappings"].get<int>() + big["left_out"]["small"].get<int>(), all);
    EXPECT_GT(big["left_out"]["small"], 0);
}

// Containers end and unmap while the agent works: that is no failure.
TEST(Advise, VanishedMappingsAreCounted) {
    const Victim victim;
    const Finished done = fake_upm({"advise", "--pid", victim.pid(), "--json"}, "enomem");
    EXPECT_EQ(done.status, 0) << done.err;
    const json target = json::parse(done.out)["targets"][0];
    EXPECT_GT(target["vanished"], 5);
    EXPECT_GT(target["mappings"], 5);
}

TEST(Advise, WithoutTheRightSaysWhatWhereWhy) {
    const Victim victim;
    const Finished done = fake_upm({"advise", "--range", victim.selector(), "--json"}, "eperm");
    EXPECT_EQ(done.status, 1);
    EXPECT_THAT(done.err,
                StartsWith(fmt::format("upm advise: pid {} (vic\\x0atim): cannot merge {}: "
                                       "Operation not permitted (needs CAP_SYS_PTRACE",
                                       victim.pid(), victim.range())));
    const json result = json::parse(done.out);
    ASSERT_EQ(result["errors"].size(), 1U);
    EXPECT_EQ(result["errors"][0]["errno"], "EPERM");
    EXPECT_EQ(result["errors"][0]["range"], victim.range());
}

// One line, not one for each of its hundred mappings.
TEST(Advise, HopelessTargetFailsOnce) {
    const Victim victim;
    const Finished done = fake_upm({"advise", "--pid", victim.pid()}, "eperm");
    EXPECT_EQ(std::count(done.err.begin(), done.err.end(), '\n'), 1) << done.err;
}

TEST(Advise, OtherTargetsAreWorkedOn) {
    const Victim victim;
    Victim dead;
    const std::string dead_pid = dead.pid();
    dead.end();
    const Finished done = fake_upm({"advise", "--pid", dead_pid, "--pid", victim.pid(), "--json"});
    EXPECT_EQ(done.status, 1);
    EXPECT_THAT(done.err, StrEq(fmt::format("upm advise: pid {}: No such process\n", dead_pid)));
    const json result = json::parse(done.out);
    EXPECT_EQ(result["targets"].size(), 2U);
    EXPECT_GT(result["targets"][1]["counts"]["merged"], 0);
    EXPECT_EQ(result["errors"][0]["errno"], "ESRCH");
}

TEST(Advise, DisabledPointsToStatus) {
    const Victim victim;
    const Finished done = fake_upm({"advise", "--pid", victim.pid()}, "disabled");
    EXPECT_EQ(done.status, 1);
    EXPECT_THAT(done.err, HasSubstr("upm doctor"));
}

class AdviseCgroup : public testing::Test {
  protected:
    void SetUp() override {
        dir.write("proc/self/mountinfo", "41 31 0:38 / /cg rw - cgroup2 cgroup2 rw\n");
        dir.write("cg/cgroup.procs", "1\n");
        dir.write("cg/a,b c/cgroup.procs", victim.pid() + "\n");
        dir.write("cg/a,b c/d/cgroup.procs", "999999\n");
        dir.write("proc/" + victim.pid() + "/maps", "1000-3000 rw-p 0 00:00 0 \n"
                                                    "4000-5000 rw-s 0 00:00 0 \n");
        dir.write("proc/" + victim.pid() + "/comm", "played\n");
    }
    const TempDir dir;
    const Victim victim;
};

TEST_F(AdviseCgroup, WorksOnTheSubtree) {
    const Finished done = fake_upm({"advise", "--cgroup", "a,b c", "--root", dir.path(), "--json"});
    EXPECT_EQ(done.status, 0) << done.err;
    const json result = json::parse(done.out);
    EXPECT_EQ(result["counts"]["pages"], 2);
    EXPECT_EQ(result["targets"][0]["left_out"]["shared"], 1);
    EXPECT_EQ(result["vanished_processes"], 1) << "process 999999 has gone";
}

TEST_F(AdviseCgroup, MissingOrEmptyGroupFails) {
    const Finished missing = fake_upm({"advise", "--cgroup", "none", "--root", dir.path()});
    EXPECT_EQ(missing.status, 1);
    EXPECT_THAT(missing.err, HasSubstr("cannot find control group none (tried /cg/none)"));
    dir.write("cg/empty/cgroup.procs", "");
    const Finished empty = fake_upm({"advise", "--cgroup", "empty", "--root", dir.path()});
    EXPECT_EQ(empty.status, 1);
    EXPECT_THAT(empty.err, HasSubstr("control group empty has no process"));
}

TEST(Status, WithoutAModule) {
    const TempDir dir;
    const Finished text = upm({"status", "--root", dir.path()}, {"UPM_BACKEND=none"});
    EXPECT_EQ(text.status, 0);
    EXPECT_THAT(text.out, StartsWith("backend  none (libupm "));
    EXPECT_THAT(text.out, HasSubstr("module   not loaded"));
    const json status =
        json::parse(upm({"status", "--json", "--root", dir.path()}, {"UPM_BACKEND=none"}).out);
    EXPECT_EQ(status["backend"], "none");
    EXPECT_EQ(status["reason"], "UPM_BACKEND=none: merges nothing");
    EXPECT_TRUE(status["module"].is_null());
    EXPECT_TRUE(status["stats"].is_null());
    EXPECT_EQ(status["capabilities"]["remote"], false);
}

TEST(Status, ShowsKnobsStatisticsAndDomains) {
    const TempDir dir;
    dir.write("sys/kernel/upm/enabled", "1\n");
    dir.write("sys/kernel/upm/domain_policy", "uid\n");
    dir.write("sys/kernel/upm/pages_sharing", "256\n", 0444);
    dir.write("sys/kernel/upm/general_profit", "-4096\n", 0444);
    dir.write("sys/kernel/upm/pages_skipped", "not_present 3\nbusy 4\n", 0444);
    dir.write("sys/kernel/upm/unmerge", "secret", 0200);
    dir.write("sys/kernel/upm/domains/uid-0/pages_shared", "5\n", 0444);
    dir.write("sys/kernel/upm/domains/uid-1000/pages_shared", "6\n", 0444);
    const json status = json::parse(fake_upm({"status", "--json", "--root", dir.path()}).out);
    EXPECT_EQ(status["backend"], "kmod");
    EXPECT_EQ(status["stats"]["pages_sharing"], 256);
    EXPECT_EQ(status["module"]["knobs"], json({{"domain_policy", "uid"}, {"enabled", 1}}));
    EXPECT_EQ(status["module"]["statistics"],
              json({{"general_profit", -4096},
                    {"pages_sharing", 256},
                    {"pages_skipped", {{"busy", 4}, {"not_present", 3}}}}));
    EXPECT_EQ(status["module"]["domains"]["uid-1000"]["pages_shared"], 6);

    const std::string text = fake_upm({"status", "--root", dir.path()}).out;
    EXPECT_THAT(text, HasSubstr("mapped at 256 further places: 1.0 MiB saved"));
    EXPECT_THAT(text, HasSubstr("domain_policy"));
    EXPECT_THAT(text, HasSubstr("uid-1000"));
    EXPECT_THAT(text, Not(HasSubstr("secret")));
}

TEST(Doctor, FailsWithoutABackend) {
    const TempDir dir;
    const Finished done = upm({"doctor", "--json", "--root", dir.path()}, {"UPM_BACKEND=none"});
    EXPECT_EQ(done.status, 1);
    const json result = json::parse(done.out);
    int fails = 0;
    for (const json &check : result["checks"]) {
        const std::string status = check["status"];
        fails += status == "fail" ? 1 : 0;
        EXPECT_EQ(check["cure"] != "", status == "warn" || status == "fail") << check;
    }
    EXPECT_EQ(result["summary"]["fail"], fails);
    int sum = 0;
    for (const char *status : {"ok", "warn", "fail", "skip"})
        sum += result["summary"][status].get<int>();
    EXPECT_EQ(sum, static_cast<int>(result["checks"].size()));
}

TEST(Doctor, OfThisMachine) {
    const Finished done = fake_upm({"doctor"});
    EXPECT_THAT(done.out, HasSubstr("ok    abi"));
    EXPECT_THAT(done.out, HasSubstr("ok    backend"));
    EXPECT_EQ(done.status, done.out.find(", 0 fail") == std::string::npos ? 1 : 0);
}

TEST(Doctor, NamesBothAbiVersions) {
    const Finished done = fake_upm({"doctor"}, "abi");
    EXPECT_EQ(done.status, 1);
    EXPECT_THAT(done.out, HasSubstr("fail  abi"));
    EXPECT_THAT(done.out, HasSubstr("ABI version 2, this library has 1"));
}

// A full disk must not look like success.
TEST(Command, ReportsThatItCannotWrite) {
    const Finished done = run({"/bin/sh", "-c", std::string(UPM_COMMAND) + " --help > /dev/full"});
    EXPECT_EQ(done.status, 1);
    EXPECT_THAT(done.err, HasSubstr("cannot write standard output: No space left on device"));
}

// To look must not start a broker: by root it would be on systemd's path.
TEST(Look, StartsNothing) {
    const TempDir dir;
    const std::string socket = "UPM_SOCKET=" + dir.path() + "/upmd.sock";
    for (const char *command : {"status", "doctor"}) {
        const Finished done = upm({command, "--json"}, {"UPM_BACKEND=store", socket});
        EXPECT_THAT(done.out, HasSubstr("the first program starts a broker")) << done.err;
        EXPECT_TRUE(std::filesystem::is_empty(dir.path())) << command;
    }
    // The same call by a program does start one, so the place was right.
    (void)upm({"advise", "--pid", std::to_string(::getpid())}, {"UPM_BACKEND=store", socket});
    EXPECT_FALSE(std::filesystem::is_empty(dir.path()));
}

// What a container of Docker's default does to userfaultfd(2).
int without_userfaultfd(const std::vector<std::string> &words) {
    sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const sock_fprog program{.len = std::size(filter), .filter = filter};
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
        return -1;
    return run(words).status;
}

TEST(Look, SaysWhatWillBeMergedWithoutUserfaultfd) {
    const TempDir dir;
    (void)::setenv("UPM_BACKEND", "store", 1);
    (void)::setenv("UPM_SOCKET", (dir.path() + "/upmd.sock").c_str(), 1);
    EXPECT_EQ(in_child([] {
                  return without_userfaultfd({UPM_COMMAND, "doctor"}) == 0 ? 0 : 1;
              }),
              0);
    const auto said = [&](const std::vector<std::string> &words) {
        const std::string file = dir.path() + "/said";
        EXPECT_EQ(in_child([&] {
                      std::string line = "exec 2>&1 >" + file + "; exec 2>&1 " UPM_COMMAND;
                      for (const std::string &word : words)
                          line += " " + word;
                      return without_userfaultfd({"/bin/sh", "-c", line}) < 2 ? 0 : 1;
                  }),
                  0);
        return read_file(file);
    };
    EXPECT_THAT(said({"doctor"}),
                ContainsRegex("ok +merges +files that programs read into large blocks"));
    EXPECT_THAT(said({"status"}), HasSubstr("merges   files that programs read"));
    EXPECT_EQ(said({"run", "--", "true"}), "");
    // Nothing but that.
    EXPECT_THAT(said({"run", "--scope", "blocks", "--", "true"}),
                AllOf(StartsWith("upm run: "), HasSubstr("nothing of unmodified programs"),
                      HasSubstr("seccomp profile")));
    // And so says the hook, in the end.
    (void)::setenv("UPM_VERBOSE", "1", 1);
    EXPECT_THAT(said({"run", "--scope", "blocks", "--idle-ms", "1", "--", "/usr/bin/python3", "-c",
                      "'import time; block = bytearray(8 << 20); time.sleep(1)'"}),
                ContainsRegex("upm.[0-9]+.: nothing was merged: [^\n]*vouched for"));
    for (const char *name : {"UPM_BACKEND", "UPM_SOCKET", "UPM_VERBOSE"})
        (void)::unsetenv(name);
}

TEST(Run, IsSilentWhereNothingIsAskedFor) {
    const Finished done = upm({"run", "--", "true"}, {"UPM_BACKEND=none"});
    EXPECT_EQ(done.err, "");
    EXPECT_EQ(done.status, 0);
}

} // namespace

} // namespace upm::test
