// SPDX-License-Identifier: MIT
//
// libupm.so as a program sees it: choice by environment, output, fork. Each test
// runs a program of its own, because the choice is made once per process.
#include "tests/support/support.hpp"

#include <cstdlib>
#include <filesystem>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace upm::test {

namespace {

using testing::HasSubstr;
using testing::MatchesRegex;
using testing::Not;
using testing::StartsWith;
using testing::StrEq;

Finished probe(std::vector<std::string> steps, std::vector<std::string> environment = {}) {
    steps.insert(steps.begin(), UPM_PROBE);
    // What the machine happens to have must not decide: only what a test names.
    environment.insert(environment.begin(), {"UPM_BACKEND", "UPM_DOMAIN", "UPM_VERBOSE",
                                             "UPM_SOCKET=/proc/none/upmd.sock"});
    return run(steps, environment);
}

// With a module that answers; see fake_device.cpp.
Finished fake_probe(const std::vector<std::string> &steps, const std::string &mode = "",
                    std::vector<std::string> environment = {}) {
    environment.insert(environment.begin(),
                       {std::string("LD_PRELOAD=") + UPM_FAKE_DEVICE, "FAKE_UPM=" + mode});
    return probe(steps, environment);
}

#define UPM_SKIP_WITH_MODULE()                                                                     \
    if (std::filesystem::exists("/dev/upm"))                                                       \
    GTEST_SKIP() << "/dev/upm is there"

TEST(Library, NoneMergesNothing) {
    const Finished done =
        probe({"info", "advise", "dry", "unmerge", "async", "stats", "domain", "remote"},
              {"UPM_BACKEND=none"});
    EXPECT_EQ(done.status, 0);
    EXPECT_THAT(done.out, StartsWith("backend none\nreason UPM_BACKEND=none: merges nothing\n"));
    for (const char *step : {"advise", "dry", "unmerge", "async", "in_no_domain", "remote"})
        EXPECT_THAT(done.out, HasSubstr(std::string(step) + " E")) << step;
    EXPECT_THAT(done.out, HasSubstr("advise EOPNOTSUPP merged=0"));
    EXPECT_THAT(done.out, HasSubstr("async_c -95"));
    EXPECT_THAT(done.out, HasSubstr("stats failed"));
    EXPECT_THAT(done.out, HasSubstr("domain Operation not supported"));
}

TEST(Library, IsSilent) {
    EXPECT_THAT(probe({"info", "advise", "async"}).err, StrEq(""));
    EXPECT_THAT(probe({"info", "advise"}, {"UPM_VERBOSE=0", "UPM_BACKEND=none"}).err, StrEq(""));
}

TEST(Library, TellsOfAMistakeOnce) {
    EXPECT_THAT(probe({"info", "advise", "fork", "advise"}, {"UPM_BACKEND=bogus"}).err,
                MatchesRegex("upm\\[[0-9]+\\]: UPM_BACKEND=bogus is not auto, kmod, store, ksm or "
                             "none; using none\n"));
}

#ifdef UPM_HOOK
// Two copies of the code are in that process, and both read the variable.
TEST(Library, TellsOfAMistakeOnceUnderTheHook) {
    const Finished done = probe({"info", "advise"}, {"UPM_BACKEND=bogus", "LD_PRELOAD=" UPM_HOOK});
    EXPECT_THAT(done.out, HasSubstr("backend none"));
    EXPECT_THAT(done.err, MatchesRegex("upm\\[[0-9]+\\]: UPM_BACKEND=bogus is not [^\n]*\n"));
}
#endif

TEST(Library, VerboseSaysOneLine) {
    const Finished done =
        probe({"advise", "advise", "info"}, {"UPM_VERBOSE=1", "UPM_BACKEND=none"});
    EXPECT_THAT(done.err,
                MatchesRegex("upm\\[[0-9]+\\]: backend none: UPM_BACKEND=none: merges nothing\n"));
}

TEST(Library, VerboseSaysOneLinePerProcess) {
    const Finished done =
        probe({"advise", "fork", "advise", "advise"}, {"UPM_VERBOSE=1", "UPM_BACKEND=none"});
    EXPECT_EQ(std::count(done.err.begin(), done.err.end(), '\n'), 2);
}

TEST(Library, BadBackendGivesNoneAndSaysSo) {
    EXPECT_THAT(
        probe({"info"}, {"UPM_BACKEND=kmood"}).out,
        HasSubstr(
            "backend none\nreason UPM_BACKEND=kmood: no such backend (auto, kmod, store, ksm, "
            "none)\n"));
}

// Where it can start none, it must say so at once, and not wait for one.
TEST(Library, StoreWithoutABroker) {
    const Finished done = probe({"info", "advise"}, {"UPM_BACKEND=store"});
    EXPECT_THAT(done.out, HasSubstr("backend none\nreason UPM_BACKEND=store: "));
    EXPECT_THAT(done.out, HasSubstr("/proc/none/upmd.sock"));
    EXPECT_THAT(done.out, HasSubstr("advise EOPNOTSUPP"));
}

TEST(Library, KmodWithoutAModule) {
    UPM_SKIP_WITH_MODULE();
    EXPECT_THAT(probe({"info"}, {"UPM_BACKEND=kmod"}).out,
                HasSubstr("backend none\nreason UPM_BACKEND=kmod: no /dev/upm: the module is not "
                          "loaded (modprobe upm)\n"));
    EXPECT_THAT(probe({"info"}).out, HasSubstr("reason auto: kmod: no /dev/upm"));
}

TEST(Library, BadDomainMergesNothing) {
    const Finished done = fake_probe({"info", "advise"}, "", {"UPM_DOMAIN=12"});
    EXPECT_THAT(done.out,
                HasSubstr("backend none\nreason UPM_DOMAIN is not a key of 32 hex digits"));
    EXPECT_THAT(done.out, HasSubstr("advise EOPNOTSUPP"));
}

TEST(Library, KmodWorks) {
    const Finished done =
        fake_probe({"info", "advise", "dry", "unmerge", "remote", "async", "stats"});
    EXPECT_THAT(done.out, StartsWith("backend kmod\nreason auto: kmod: module 0.0.9-fake, ABI "
                                     "version 1\n"));
    EXPECT_THAT(done.out, HasSubstr("advise ok merged=3 unmerged=0 bytes=12288\n"));
    EXPECT_THAT(done.out, HasSubstr("dry ok merged=3"));
    EXPECT_THAT(done.out, HasSubstr("unmerge ok merged=0 unmerged=4"));
    EXPECT_THAT(done.out, HasSubstr("remote ok merged=3"));
    EXPECT_THAT(done.out, HasSubstr("async ok merged=3"));
    EXPECT_THAT(done.out, HasSubstr("async_c 0\n"));
    EXPECT_THAT(done.out, HasSubstr("stats ok"));
}

TEST(Library, KmodOfAnotherAbiIsRefused) {
    const Finished done = fake_probe({"info", "advise"}, "abi", {"UPM_BACKEND=kmod"});
    EXPECT_THAT(done.out,
                HasSubstr("backend none\nreason UPM_BACKEND=kmod: module 0.0.9-fake has ABI "
                          "version 2, this library has 1"));
    EXPECT_THAT(done.out, HasSubstr("advise EOPNOTSUPP"));
}

TEST(Library, RemoteWithoutTheRight) {
    const Finished done = fake_probe({"advise", "remote"}, "eperm");
    EXPECT_THAT(done.out, HasSubstr("advise ok"));
    EXPECT_THAT(done.out, HasSubstr("remote EPERM merged=0"));
}

TEST(Library, DisabledByTheAdministrator) {
    const Finished done = fake_probe({"info", "advise"}, "disabled");
    EXPECT_THAT(done.out, HasSubstr("backend kmod"));
    EXPECT_THAT(done.out, HasSubstr("disabled by /sys/kernel/upm/enabled"));
    EXPECT_THAT(done.out, HasSubstr("advise EOPNOTSUPP"));
}

TEST(Library, WorksInAChild) {
    for (const std::vector<std::string> &steps :
         {std::vector<std::string>{"fork", "advise", "async"},
          std::vector<std::string>{"advise", "async", "fork", "advise", "async"},
          std::vector<std::string>{"async", "fork", "fork", "async", "advise"}}) {
        const Finished done = fake_probe(steps);
        EXPECT_THAT(done.out, HasSubstr("child ok"));
        EXPECT_THAT(done.out, HasSubstr("async ok merged=3"));
        EXPECT_THAT(done.out, Not(HasSubstr(" E")));
    }
}

// As daemons do after fork.
TEST(Library, SurvivesClosedDescriptors) {
    constexpr const char *kKey = "UPM_DOMAIN=00112233445566778899aabbccddeeff";
    for (const char *loss : {"close", "replace"}) {
        const Finished done =
            fake_probe({"advise", loss, "advise", "fork", loss, "advise", "async"}, "", {kKey});
        EXPECT_THAT(done.out, Not(HasSubstr(" E"))) << loss;
        EXPECT_THAT(done.out, HasSubstr("async ok merged=3")) << loss;
        EXPECT_THAT(done.out, HasSubstr("child ok")) << loss;
    }
}

TEST(Library, DomainsAreHandedOn) {
    const TempDir dir;
    const std::string log = dir.path() + "/log";
    const Finished done = fake_probe({"advise", "domain"}, "", {"FAKE_UPM_LOG=" + log});
    EXPECT_THAT(done.out, HasSubstr("ended closed\ndomain open\ncloexec 1\nin_domain ok"));
    EXPECT_THAT(done.out, HasSubstr("stats_of_no_domain Bad file descriptor"));
    // A handle that is not open must not quietly mean the default domain.
    EXPECT_THAT(done.out, HasSubstr("in_no_domain EINVAL"));
    EXPECT_THAT(read_file(log),
                MatchesRegex("info abi=1\n"
                             "advise flags=0 pid=0 domain=0 addr=[0-9a-f]+ len=4000\n"
                             "advise flags=0 pid=0 domain=1 addr=[0-9a-f]+ len=4000\n"));
}

// A hook calls the library between a program's system call and its look at errno.
TEST(Library, KeepsErrno) {
    EXPECT_THAT(probe({"errno"}).out, HasSubstr("errno kept"));
    EXPECT_THAT(probe({"errno"}, {"UPM_BACKEND=kmod"}).out, HasSubstr("errno kept"));
    EXPECT_THAT(fake_probe({"errno"}, "disabled").out, HasSubstr("errno kept"));
}

TEST(Library, ListsItsBackends) {
    const Finished done = fake_probe({"backends"}, "", {"UPM_BACKEND=none"});
    EXPECT_THAT(done.out, HasSubstr("row kmod available: module 0.0.9-fake, ABI version 1\n"
                                    "row store: "));
    EXPECT_THAT(done.out, HasSubstr("row ksm"));
    EXPECT_THAT(done.out, HasSubstr("row none available active: merges nothing\n"));
}

} // namespace

} // namespace upm::test
