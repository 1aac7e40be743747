// SPDX-License-Identifier: MIT
//
// The backend ksm on this kernel's real KSM: memory becomes mergeable whether or
// not ksmd runs, so only the knobs are played.
#include "libupm/backends/ksm.hpp"

#include "tests/support/support.hpp"

#include <cerrno>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sstream>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

namespace upm::test {

namespace {

using testing::HasSubstr;
using testing::Not;

std::uint64_t address(const void *pointer) {
    return reinterpret_cast<std::uint64_t>(pointer);
}

TEST(KsmKnobs, NoKsmInTheKernel) {
    const TempDir dir;
    KsmBackend backend(dir.path().c_str());
    Reason reason;
    EXPECT_EQ(backend.open(reason), -EOPNOTSUPP);
    EXPECT_THAT(reason.c_str(), HasSubstr("no KSM"));
}

TEST(KsmKnobs, NotRunningSaysHowToTurnItOn) {
    const TempDir dir;
    KsmBackend backend(dir.path().c_str());
    Reason reason;
    for (const char *run : {"0\n", "2\n"}) {
        dir.write("run", run);
        EXPECT_EQ(backend.open(reason), -EOPNOTSUPP);
        EXPECT_THAT(reason.c_str(), HasSubstr("echo 1 > " + dir.path() + "/run"));
    }
}

TEST(KsmKnobs, Running) {
    const TempDir dir;
    dir.write("run", "1\n");
    KsmBackend backend(dir.path().c_str());
    Reason reason;
    EXPECT_EQ(backend.open(reason), 0);
    EXPECT_FALSE(backend.capabilities().immediate);
    EXPECT_FALSE(backend.capabilities().remote);
    EXPECT_FALSE(backend.capabilities().file_pages);
    EXPECT_FALSE(backend.capabilities().domains);
    const std::uint8_t key[16] = {};
    EXPECT_EQ(backend.open_domain(key), -EOPNOTSUPP);
}

TEST(KsmKnobs, Stats) {
    const TempDir dir;
    dir.write("pages_shared", "10\n");
    dir.write("pages_sharing", "20\n");
    dir.write("pages_unshared", "30\n");
    KsmBackend backend(dir.path().c_str());
    struct upm_stats stats {};
    EXPECT_EQ(backend.stats(-1, stats), -EOPNOTSUPP) << "a knob is missing";
    dir.write("pages_volatile", "40\n");
    EXPECT_EQ(backend.stats(-1, stats), 0);
    EXPECT_EQ(stats.pages_shared, 10U);
    EXPECT_EQ(stats.pages_sharing, 20U);
    EXPECT_EQ(stats.metadata_bytes, 100U * 64);
    EXPECT_EQ(stats.max_pages, 0U);
}

class Ksm : public testing::Test {
  protected:
    void SetUp() override {
        if (!std::filesystem::exists("/sys/kernel/mm/ksm"))
            GTEST_SKIP() << "this kernel has no KSM (no /sys/kernel/mm/ksm)";
        dir_.write("run", "1\n");
    }
    int run(const void *start, std::size_t len, bool unmerge = false, bool dry_run = false) {
        counts = {};
        return backend_.run(
            {.addr = address(start), .len = len, .unmerge = unmerge, .dry_run = dry_run}, counts);
    }
    [[nodiscard]] std::uint64_t sum() const {
        std::uint64_t sum = counts.merged + counts.inserted + counts.zero + counts.already +
                            counts.queued + counts.unmerged + counts.kept;
        for (const std::uint64_t count : counts.skipped)
            sum += count;
        return sum;
    }

    upm_counts counts{};

  private:
    const TempDir dir_;
    KsmBackend backend_{dir_.path().c_str()};
};

TEST_F(Ksm, MakesMemoryMergeable) {
    const Pages pages(8);
    pages.fill('x');
    EXPECT_THAT(vm_flags(pages.data()), Not(HasSubstr(" mg")));
    EXPECT_EQ(run(pages.data(), pages.size()), 0);
    EXPECT_THAT(vm_flags(pages.data()), HasSubstr(" mg"));
    EXPECT_EQ(counts.pages, 8U);
    EXPECT_EQ(counts.queued, 8U);
    EXPECT_GT(counts.nanoseconds, 0U);
}

TEST_F(Ksm, TouchesOnlyTheRange) {
    const Pages pages(8);
    pages.fill('x');
    EXPECT_EQ(run(pages.page(2), 3 * page_size()), 0);
    EXPECT_EQ(counts.pages, 3U);
    EXPECT_THAT(vm_flags(pages.page(1)), Not(HasSubstr(" mg")));
    EXPECT_THAT(vm_flags(pages.page(2)), HasSubstr(" mg"));
    EXPECT_THAT(vm_flags(pages.page(4)), HasSubstr(" mg"));
    EXPECT_THAT(vm_flags(pages.page(5)), Not(HasSubstr(" mg")));
}

TEST_F(Ksm, DryRunChangesNothing) {
    const Pages pages(4);
    EXPECT_EQ(run(pages.data(), pages.size(), false, true), 0);
    EXPECT_EQ(counts.queued, 4U);
    EXPECT_THAT(vm_flags(pages.data()), Not(HasSubstr(" mg")));
}

TEST_F(Ksm, UnmergeTellsWhatWasMergeable) {
    const Pages pages(4);
    pages.fill('x');
    ASSERT_EQ(run(pages.page(1), page_size()), 0);
    EXPECT_EQ(run(pages.data(), pages.size(), true), 0);
    EXPECT_EQ(counts.unmerged, 1U);
    EXPECT_EQ(counts.kept, 3U);
    EXPECT_EQ(sum(), counts.pages);
    EXPECT_THAT(vm_flags(pages.page(1)), Not(HasSubstr(" mg")));
}

// madvise(2) itself would advise the rest and fail then; the contract is stricter.
TEST_F(Ksm, HoleChangesNothing) {
    const Pages pages(4);
    ASSERT_EQ(::munmap(pages.page(2), page_size()), 0);
    EXPECT_EQ(run(pages.data(), pages.size()), -ENOMEM);
    EXPECT_EQ(counts.pages, 0U);
    EXPECT_THAT(vm_flags(pages.data()), Not(HasSubstr(" mg")));
}

TEST_F(Ksm, SeveralMappings) {
    const Pages pages(6);
    pages.fill('x');
    ASSERT_EQ(::mprotect(pages.page(1), page_size(), PROT_READ), 0);
    ASSERT_EQ(::mprotect(pages.page(3), page_size(), PROT_NONE), 0);
    EXPECT_EQ(run(pages.data(), pages.size()), 0);
    EXPECT_EQ(counts.queued, 6U);
    EXPECT_EQ(sum(), 6U);
}

// KSM itself would take it. But a program that marks memory so wants it neither
// in core dumps nor in children, and hardly compared with that of others.
TEST_F(Ksm, SecretsAreSkipped) {
    const Pages pages(4);
    ASSERT_EQ(::madvise(pages.page(0), page_size(), MADV_DONTDUMP), 0);
    ASSERT_EQ(::madvise(pages.page(2), page_size(), MADV_WIPEONFORK), 0);
    EXPECT_EQ(run(pages.data(), pages.size()), 0);
    EXPECT_EQ(counts.queued, 2U);
    EXPECT_EQ(counts.skipped[UPM_SKIPPED_SECRET], 2U);
    EXPECT_EQ(sum(), 4U);
    EXPECT_THAT(vm_flags(pages.page(0)), Not(HasSubstr(" mg")));
    EXPECT_THAT(vm_flags(pages.page(1)), HasSubstr(" mg"));
}

TEST_F(Ksm, SharedIsSkipped) {
    void *const shared =
        ::mmap(nullptr, 2 * page_size(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(shared, MAP_FAILED);
    EXPECT_EQ(run(shared, 2 * page_size()), 0);
    EXPECT_EQ(counts.skipped[UPM_SKIPPED_SHARED], 2U);
    EXPECT_EQ(sum(), 2U);
    (void)::munmap(shared, 2 * page_size());
}

TEST_F(Ksm, VdsoIsSpecial) {
    const auto vdso = static_cast<std::uint64_t>(::getauxval(AT_SYSINFO_EHDR));
    if (vdso == 0)
        GTEST_SKIP() << "no vDSO here";
    // NOLINTNEXTLINE(performance-no-int-to-ptr)
    EXPECT_EQ(run(reinterpret_cast<void *>(vdso), page_size()), 0);
    EXPECT_EQ(counts.skipped[UPM_SKIPPED_SPECIAL], 1U);
}

// Only what was written is anonymous; the rest of a file KSM never merges.
TEST_F(Ksm, FilePagesAreToldApart) {
    const TempDir dir;
    dir.write("file", std::string(4 * page_size(), 'f'));
    const int fd = ::open((dir.path() + "/file").c_str(), O_RDONLY | O_CLOEXEC);
    ASSERT_GE(fd, 0);
    auto *const mapped = static_cast<char *>(
        ::mmap(nullptr, 4 * page_size(), PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0));
    ASSERT_NE(static_cast<void *>(mapped), MAP_FAILED);
    ASSERT_EQ(::madvise(mapped, 4 * page_size(), MADV_RANDOM), 0); // no fault-around
    mapped[page_size()] = 'w';
    volatile char read = mapped[2 * page_size()];
    (void)read;
    EXPECT_EQ(run(mapped, 4 * page_size()), 0);
    EXPECT_EQ(counts.queued, 1U);
    EXPECT_GE(counts.skipped[UPM_SKIPPED_FILE], 1U);
    EXPECT_EQ(sum(), 4U);
    EXPECT_EQ(counts.pages, 4U);
    EXPECT_THAT(vm_flags(mapped), HasSubstr(" mg"));
    (void)::munmap(mapped, 4 * page_size());
    (void)::close(fd);
}

TEST_F(Ksm, CleanFileIsLeftAlone) {
    const TempDir dir;
    dir.write("file", std::string(2 * page_size(), 'f'));
    const int fd = ::open((dir.path() + "/file").c_str(), O_RDONLY | O_CLOEXEC);
    auto *const mapped =
        static_cast<char *>(::mmap(nullptr, 2 * page_size(), PROT_READ, MAP_PRIVATE, fd, 0));
    ASSERT_NE(static_cast<void *>(mapped), MAP_FAILED);
    EXPECT_EQ(run(mapped, 2 * page_size()), 0);
    EXPECT_EQ(counts.queued, 0U);
    EXPECT_EQ(sum(), 2U);
    EXPECT_THAT(vm_flags(mapped), Not(HasSubstr(" mg")));
    (void)::munmap(mapped, 2 * page_size());
    (void)::close(fd);
}

// Without /proc the flags of a mapping are unknown: nothing may be advised.
// A mapping that goes away between the check for holes and the look at mappings.
TEST_F(Ksm, WhatVanishedMeanwhileIsCounted) {
    const TempDir proc;
    const Pages pages(8);
    pages.fill('x');
    const auto line = [&](std::size_t first, std::size_t end) {
        std::ostringstream text;
        text << std::hex << address(pages.data()) + first * page_size() << '-'
             << address(pages.data()) + end * page_size()
             << " rw-p 00000000 00:00 0\nVmFlags: rd wr mr mw me ac\n";
        return text.str();
    };
    proc.write("smaps", line(0, 2) + line(5, 6));
    KsmBackend backend(proc.path().c_str(), proc.path().c_str());
    EXPECT_EQ(backend.run({.addr = address(pages.data()), .len = pages.size()}, counts), 0);
    EXPECT_EQ(counts.queued, 3U);
    EXPECT_EQ(counts.skipped[UPM_SKIPPED_UNMAPPED], 5U);
    EXPECT_EQ(counts.pages, 8U);
}

TEST_F(Ksm, NoProcNoAdvise) {
    const TempDir empty;
    const Pages pages(2);
    KsmBackend blind(empty.path().c_str(), empty.path().c_str());
    EXPECT_EQ(blind.run({.addr = address(pages.data()), .len = pages.size()}, counts), -ENOENT);
    EXPECT_THAT(vm_flags(pages.data()), Not(HasSubstr(" mg")));
}

} // namespace

} // namespace upm::test
