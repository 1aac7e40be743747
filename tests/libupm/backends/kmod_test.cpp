// SPDX-License-Identifier: MIT
//
// The backend kmod against a module that the test plays.
#include "libupm/backends/kmod.hpp"

#include "kmod/uapi/upm.h"
#include "tests/libupm/engine/fake_backend.hpp"
#include "tests/support/support.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <set>
#include <string>
#include <unistd.h>
#include <vector>

namespace upm::test {

namespace {

using testing::HasSubstr;

class FakeModule final : public DeviceOps {
  public:
    FakeModule() {
        info.abi_version = UPM_ABI_VERSION;
        info.page_size = static_cast<std::uint32_t>(page_size());
        info.features = UPM_FEATURE_REMOTE | UPM_FEATURE_FILE_PAGES | UPM_FEATURE_DOMAINS |
                        UPM_FEATURE_DRY_RUN | UPM_FEATURE_UNMERGE;
        info.advise_flags = UPM_ADVISE_UNMERGE | UPM_ADVISE_DRY_RUN;
        info.enabled = 1;
        std::strcpy(info.version, "9.8.7");
    }

    int open() noexcept override {
        if (open_error != 0)
            return open_error;
        opened.insert(next_fd);
        return next_fd++;
    }
    void close(int fd) noexcept override {
        EXPECT_EQ(opened.erase(fd), 1U) << "closed a descriptor of somebody else: " << fd;
    }
    bool is_open(int fd) noexcept override { return opened.contains(fd) || foreign.contains(fd); }
    int ioctl(int fd, unsigned long request, void *argument) noexcept override {
        if (foreign.contains(fd))
            return -ENOTTY;
        if (!opened.contains(fd))
            return -EBADF;
        switch (request) {
        case UPM_IOC_INFO:
            return do_info(*static_cast<upm_ioc_info *>(argument));
        case UPM_IOC_ADVISE:
            return do_advise(*static_cast<upm_ioc_advise *>(argument));
        case UPM_IOC_DOMAIN_OPEN:
            return do_domain(*static_cast<upm_ioc_domain *>(argument));
        case UPM_IOC_STATS:
            return do_stats(*static_cast<upm_ioc_stats *>(argument));
        case UPM_IOC_LOAD:
            return do_load(*static_cast<upm_ioc_load *>(argument));
        default:
            return -ENOTTY;
        }
    }

    void split(int pid, std::uint64_t addr, std::uint64_t len) noexcept override {
        splits.push_back({.addr = addr, .len = len, .pid = pid});
        counts = counts_after_split;
        advise_error = error_after_split;
    }

    int do_info(upm_ioc_info &argument) {
        told_version = argument.abi_version;
        argument = info;
        return info_error;
    }
    int do_advise(upm_ioc_advise &argument) {
        advised.push_back(argument);
        argument.counts = counts;
        return advise_error;
    }
    int do_domain(upm_ioc_domain &argument) {
        domain = argument;
        argument.fd = 4321;
        return domain_error;
    }
    static int do_stats(upm_ioc_stats &argument) {
        argument.pages_shared = 1;
        argument.pages_sharing = 2;
        argument.pages_unused = 3;
        argument.max_pages = 4;
        argument.metadata_bytes = static_cast<std::uint64_t>(argument.domain_fd + 50);
        return 0;
    }

    // Reads as much as the test says, into pages of which the first is known, the second
    // new and the third zero.
    int do_load(upm_ioc_load &argument) {
        loaded.push_back(argument);
        if (load_error != 0)
            return load_error;
        const ssize_t got = ::pread(argument.fd, reinterpret_cast<void *>(argument.addr),
                                    std::min<std::size_t>(argument.len, load_most),
                                    static_cast<off_t>(argument.offset));
        EXPECT_GE(got, 0);
        argument.done = static_cast<std::uint64_t>(got);
        argument.copied = argument.done - 3 * page_size();
        argument.counts.pages = 3;
        argument.counts.merged = argument.counts.inserted = argument.counts.zero = 1;
        return 0;
    }

    upm_ioc_info info{};
    std::vector<upm_ioc_load> loaded;
    std::size_t load_most = ~std::size_t{0};
    int load_error = 0;
    upm_ioc_counts counts{};
    upm_ioc_counts counts_after_split{};
    std::vector<Call> splits;
    upm_ioc_domain domain{};
    std::vector<upm_ioc_advise> advised;
    std::set<int> opened;
    std::set<int> foreign;
    std::uint32_t told_version = 0;
    int next_fd = 500;
    int open_error = 0;
    int info_error = 0;
    int advise_error = 0;
    int error_after_split = 0;
    int domain_error = 0;
};

struct Kmod : testing::Test {
    int open() { return backend.open(reason); }
    int run(const Call &call) { return backend.run(call, counts); }

    FakeModule module;
    KmodBackend backend{module};
    Reason reason;
    upm_counts counts{};
    const Call one_page{.addr = 16 * page_size(), .len = page_size()};
};

TEST_F(Kmod, OpensAndSaysWhatItFound) {
    EXPECT_EQ(open(), 0);
    EXPECT_THAT(reason.c_str(), HasSubstr("module 9.8.7, ABI version 1"));
    EXPECT_EQ(module.told_version, unsigned{UPM_ABI_VERSION})
        << "the module must be able to refuse";
    EXPECT_EQ(module.opened.size(), 1U);
}

TEST_F(Kmod, OpensOnce) {
    EXPECT_EQ(open(), 0);
    EXPECT_EQ(open(), 0);
    EXPECT_EQ(module.opened.size(), 1U) << "a second look must not keep a second descriptor";
}

struct OpenError {
    int error;
    const char *hint;
};

class KmodOpen : public Kmod, public testing::WithParamInterface<OpenError> {};

TEST_P(KmodOpen, SaysTheCure) {
    module.open_error = GetParam().error;
    EXPECT_EQ(open(), GetParam().error);
    EXPECT_THAT(reason.c_str(), HasSubstr("/dev/upm"));
    EXPECT_THAT(reason.c_str(), HasSubstr(GetParam().hint));
}

INSTANTIATE_TEST_SUITE_P(Errors, KmodOpen,
                         testing::Values(OpenError{-ENOENT, "modprobe upm"},
                                         OpenError{-ENXIO, "modprobe upm"},
                                         OpenError{-EACCES, "Permission denied"},
                                         OpenError{-EMFILE, "Too many open files"}));

TEST_F(Kmod, RefusesAnotherAbiAndNamesBoth) {
    module.info.abi_version = 7;
    EXPECT_EQ(open(), -EPROTONOSUPPORT);
    EXPECT_THAT(reason.c_str(), HasSubstr("ABI version 7"));
    EXPECT_THAT(reason.c_str(), HasSubstr("this library has 1"));
    EXPECT_TRUE(module.opened.empty()) << "a refused module must not be held open";
}

TEST_F(Kmod, IsRefusedByTheModule) {
    module.info_error = -EINVAL;
    EXPECT_EQ(open(), -EINVAL);
    EXPECT_THAT(reason.c_str(), HasSubstr("refuses UPM_IOC_INFO of ABI version 1"));
    EXPECT_TRUE(module.opened.empty());
}

TEST_F(Kmod, RefusesAnotherPageSize) {
    for (const char *const size : {"2048", "65536"}) {
        module.info.page_size = static_cast<std::uint32_t>(std::stoul(size));
        EXPECT_EQ(open(), -EPROTONOSUPPORT);
        EXPECT_THAT(reason.c_str(), HasSubstr(size));
    }
}

TEST_F(Kmod, VersionNeedNotBeTerminated) {
    std::memset(module.info.version, 'v', sizeof(module.info.version));
    EXPECT_EQ(open(), 0);
    EXPECT_THAT(reason.c_str(), HasSubstr("module vvvvvvvvvvvvvvv, "));
}

// An administrator who switched merging off does not want KSM instead.
TEST_F(Kmod, DisabledIsStillChosen) {
    module.info.enabled = 0;
    EXPECT_EQ(open(), 0);
    EXPECT_THAT(reason.c_str(), HasSubstr("disabled by /sys/kernel/upm/enabled"));
}

TEST_F(Kmod, CapabilitiesAreFeatures) {
    EXPECT_EQ(open(), 0);
    const Capabilities all = backend.capabilities();
    EXPECT_TRUE(all.advise && all.immediate && all.remote && all.file_pages && all.unmerge &&
                all.dry_run && all.domains);

    FakeModule bare;
    bare.info.features = ~0ULL & ~(UPM_FEATURE_REMOTE | UPM_FEATURE_DOMAINS);
    bare.info.advise_flags = 0;
    KmodBackend other{bare};
    EXPECT_EQ(other.open(reason), 0);
    EXPECT_TRUE(other.capabilities().advise);
    EXPECT_FALSE(other.capabilities().remote);
    EXPECT_FALSE(other.capabilities().domains);
    EXPECT_FALSE(other.capabilities().unmerge) << "a flag that the module does not take";
    EXPECT_FALSE(other.capabilities().dry_run);
}

TEST_F(Kmod, PassesTheCallOn) {
    ASSERT_EQ(open(), 0);
    EXPECT_EQ(run({.addr = 3 * page_size(), .len = 5 * page_size(), .pid = 42, .domain_fd = 6}), 0);
    EXPECT_EQ(run({.addr = page_size(), .len = page_size(), .unmerge = true}), 0);
    EXPECT_EQ(run({.addr = page_size(), .len = page_size(), .dry_run = true}), 0);
    ASSERT_EQ(module.advised.size(), 3U);
    const upm_ioc_advise &first = module.advised[0];
    EXPECT_EQ(first.addr, 3 * page_size());
    EXPECT_EQ(first.len, 5 * page_size());
    EXPECT_EQ(first.pid, 42);
    EXPECT_EQ(first.domain_fd, 6);
    EXPECT_EQ(first.flags, 0U);
    EXPECT_EQ(first.reserved0 + first.reserved1[0] + first.reserved1[1], 0U);
    EXPECT_EQ(module.advised[1].flags, UPM_ADVISE_UNMERGE);
    EXPECT_EQ(module.advised[1].domain_fd, -1);
    EXPECT_EQ(module.advised[2].flags, UPM_ADVISE_DRY_RUN);
}

TEST_F(Kmod, MapsEveryCount) {
    ASSERT_EQ(open(), 0);
    module.counts.pages = 1;
    module.counts.merged = 2;
    module.counts.inserted = 3;
    module.counts.zero = 4;
    module.counts.already = 5;
    module.counts.unmerged = 6;
    module.counts.kept = 7;
    module.counts.nanoseconds = 8;
    for (unsigned i = 0; i < UPM_SKIP_SLOTS; ++i)
        module.counts.skipped[i] = 100 + i;
    EXPECT_EQ(run({.addr = page_size(), .len = page_size(), .unmerge = true}), 0);
    EXPECT_EQ(counts.pages, 1U);
    EXPECT_EQ(counts.merged, 2U);
    EXPECT_EQ(counts.inserted, 3U);
    EXPECT_EQ(counts.zero, 4U);
    EXPECT_EQ(counts.already, 5U);
    EXPECT_EQ(counts.queued, 0U);
    EXPECT_EQ(counts.unmerged, 6U);
    EXPECT_EQ(counts.kept, 7U);
    EXPECT_EQ(counts.nanoseconds, 8U);
    for (unsigned i = 0; i < UPM_SKIPPED_NR; ++i)
        EXPECT_EQ(counts.skipped[i], 100 + i);
}

class KmodLoad : public Kmod {
  protected:
    KmodLoad() {
        dir.write("file", content);
        file = ::open((dir.path() + "/file").c_str(), O_RDONLY | O_CLOEXEC);
        module.info.features |= UPM_FEATURE_LOAD;
    }
    ~KmodLoad() override { ::close(file); }
    KmodLoad(const KmodLoad &) = delete;
    KmodLoad &operator=(const KmodLoad &) = delete;

    // Loads from byte 100 on, more than there is.
    std::int64_t load() {
        return backend.load({.fd = file,
                             .offset = 100,
                             .into = reinterpret_cast<std::byte *>(into.data()),
                             .len = into.size(),
                             .domain_fd = 6},
                            done);
    }
    // All of the file has been read, and `shared` pages are said to be so.
    void expect_all(std::int64_t got, std::uint64_t known, std::uint64_t made) {
        EXPECT_EQ(got, static_cast<std::int64_t>(content.size() - 100));
        EXPECT_EQ(std::memcmp(into.data(), content.data() + 100, content.size() - 100), 0);
        EXPECT_EQ(done.shared, known * page_size());
        EXPECT_EQ(done.made, made * page_size());
        EXPECT_EQ(done.shared + done.made + done.copied, content.size() - 100);
    }

    const TempDir dir;
    const std::string content = std::string(5 * page_size(), 'a') + std::string(999, 'b');
    int file = -1;
    Pages into{8};
    upm_load_counts done{};
};

TEST_F(KmodLoad, PassesTheCallOn) {
    ASSERT_EQ(open(), 0);
    EXPECT_EQ(backend.capabilities().load, 2U);
    expect_all(load(), 2, 1);
    ASSERT_EQ(module.loaded.size(), 1U);
    EXPECT_EQ(module.loaded[0].fd, file);
    EXPECT_EQ(module.loaded[0].domain_fd, 6);
    EXPECT_EQ(module.loaded[0].offset, 100U);
    EXPECT_EQ(module.loaded[0].addr, reinterpret_cast<std::uint64_t>(into.data()));
    EXPECT_EQ(module.loaded[0].len, into.size());
    EXPECT_EQ(module.loaded[0].flags, 0U);
    EXPECT_TRUE(module.advised.empty()) << "nothing is merged again";
}

// What the module does not read, for whatever reason, the library does.
TEST_F(KmodLoad, ReadsTheRest) {
    ASSERT_EQ(open(), 0);
    module.load_most = 3 * page_size() + 5;
    expect_all(load(), 2, 1);
}

TEST_F(KmodLoad, ReadsWhatTheModuleRefuses) {
    ASSERT_EQ(open(), 0);
    for (const int error : {-EOPNOTSUPP, -ENOMEM, -EIO}) {
        module.load_error = error;
        done = {};
        expect_all(load(), 0, 0);
    }
    ::close(file);
    module.load_error = -EBADF;
    EXPECT_EQ(load(), -EBADF);
    EXPECT_EQ(module.opened.size(), 1U) << "the device is not lost";
}

// An older module is not asked: it would say what a lost device says.
TEST_F(KmodLoad, OlderModuleMergesWhatWasRead) {
    module.info.features &= ~UPM_FEATURE_LOAD;
    ASSERT_EQ(open(), 0);
    EXPECT_EQ(backend.capabilities().load, 1U);
    module.counts.merged = 3;
    module.counts.inserted = 1;
    expect_all(load(), 3, 1);
    EXPECT_TRUE(module.loaded.empty());
    EXPECT_EQ(module.advised.size(), 1U);
    EXPECT_EQ(module.opened.size(), 1U);
}

// What the module cannot split, the library splits by other means, and then the
// counts are those of both passes, each page in one of them.
TEST_F(Kmod, TornHugePagesAreSplit) {
    ASSERT_EQ(open(), 0);
    module.counts.pages = 10;
    module.counts.merged = 4;
    module.counts.inserted = 1;
    module.counts.already = 2;
    module.counts.skipped[UPM_SKIP_COMPOUND] = 3;
    module.counts.nanoseconds = 7;
    module.counts_after_split.pages = 10;
    module.counts_after_split.merged = 2;
    module.counts_after_split.already = 7;
    module.counts_after_split.skipped[UPM_SKIP_BUSY] = 1;
    module.counts_after_split.nanoseconds = 1;
    EXPECT_EQ(run({.addr = page_size(), .len = 10 * page_size(), .pid = 42}), 0);
    ASSERT_EQ(module.splits.size(), 1U);
    EXPECT_EQ(module.splits[0].pid, 42);
    EXPECT_EQ(module.splits[0].addr, page_size());
    EXPECT_EQ(module.splits[0].len, 10 * page_size());
    EXPECT_EQ(module.advised.size(), 2U);
    EXPECT_EQ(counts.pages, 10U);
    EXPECT_EQ(counts.merged, 6U);
    EXPECT_EQ(counts.inserted, 1U);
    EXPECT_EQ(counts.already, 2U);
    EXPECT_EQ(counts.skipped[UPM_SKIPPED_COMPOUND], 0U);
    EXPECT_EQ(counts.skipped[UPM_SKIPPED_BUSY], 1U);
    EXPECT_EQ(counts.nanoseconds, 8U);
}

// Of a second pass that fails, what the first one did is told.
TEST_F(Kmod, AnErrorKeepsTheFirstPass) {
    ASSERT_EQ(open(), 0);
    module.counts.pages = 4;
    module.counts.merged = 3;
    module.counts.skipped[UPM_SKIP_COMPOUND] = 1;
    module.error_after_split = -EINTR;
    EXPECT_EQ(run({.addr = page_size(), .len = 4 * page_size()}), -EINTR);
    EXPECT_EQ(counts.pages, 4U);
    EXPECT_EQ(counts.merged, 3U);
    EXPECT_EQ(counts.skipped[UPM_SKIPPED_COMPOUND], 1U);
}

// A page of the first pass was written to before the second: no count may be more
// than all, and none wraps around.
TEST_F(Kmod, WritesBetweenThePassesAreNoSurplus) {
    ASSERT_EQ(open(), 0);
    module.counts.pages = 4;
    module.counts.merged = 3;
    module.counts.skipped[UPM_SKIP_COMPOUND] = 1;
    module.counts_after_split.pages = 4;
    module.counts_after_split.merged = 3;
    module.counts_after_split.already = 1;
    EXPECT_EQ(run({.addr = page_size(), .len = 4 * page_size()}), 0);
    EXPECT_EQ(counts.merged, 4U);
    EXPECT_EQ(counts.already, 0U);
}

// A dry run changes nothing, and to unmerge needs no small pages.
TEST_F(Kmod, OnlyMergingSplits) {
    ASSERT_EQ(open(), 0);
    module.counts.skipped[UPM_SKIP_COMPOUND] = 1;
    EXPECT_EQ(run({.addr = page_size(), .len = page_size(), .dry_run = true}), 0);
    EXPECT_EQ(run({.addr = page_size(), .len = page_size(), .unmerge = true}), 0);
    EXPECT_TRUE(module.splits.empty());
}

// A fatal signal stops the module in the middle: what it did must not be lost.
TEST_F(Kmod, ReportsPartialProgress) {
    ASSERT_EQ(open(), 0);
    module.counts.pages = module.counts.merged = 512;
    module.advise_error = -EINTR;
    EXPECT_EQ(run(one_page), -EINTR);
    EXPECT_EQ(counts.merged, 512U);
    EXPECT_EQ(module.advised.size(), 1U) << "EINTR means a fatal signal: no second try";
}

TEST_F(Kmod, PassesErrorsOn) {
    ASSERT_EQ(open(), 0);
    for (const int error : {-EPERM, -ESRCH, -ENOMEM, -EOPNOTSUPP, -EINVAL, -E2BIG, -EFAULT}) {
        module.advise_error = error;
        EXPECT_EQ(run({.addr = page_size(), .len = page_size(), .pid = 1}), error);
    }
    EXPECT_EQ(module.opened.size(), 1U);
}

// Daemons close every descriptor that they do not know.
TEST_F(Kmod, ReopensAfterClose) {
    ASSERT_EQ(open(), 0);
    module.opened.clear();
    EXPECT_EQ(run(one_page), 0);
    EXPECT_EQ(module.advised.size(), 1U);
    EXPECT_EQ(module.opened, std::set<int>{501});
    EXPECT_EQ(run(one_page), 0);
    EXPECT_EQ(module.opened, std::set<int>{501});
}

// The number may belong to another file by then, which must not be closed.
TEST_F(Kmod, LeavesAForeignFileAlone) {
    ASSERT_EQ(open(), 0);
    module.opened.erase(500);
    module.foreign.insert(500);
    EXPECT_EQ(run(one_page), 0);
    EXPECT_EQ(module.opened, std::set<int>{501});
}

TEST_F(Kmod, GivesUpWhenItCannotReopen) {
    ASSERT_EQ(open(), 0);
    module.opened.clear();
    module.open_error = -EACCES;
    EXPECT_EQ(run(one_page), -EBADF);
}

// EBADF for the domain: the device itself is fine and must not be opened anew.
TEST_F(Kmod, BadDomainIsNotALostDevice) {
    ASSERT_EQ(open(), 0);
    module.advise_error = -EBADF;
    EXPECT_EQ(run({.addr = page_size(), .len = page_size(), .domain_fd = 77}), -EBADF);
    EXPECT_EQ(module.advised.size(), 1U);
    EXPECT_EQ(module.opened, std::set<int>{500});
}

TEST_F(Kmod, OpensDomains) {
    ASSERT_EQ(open(), 0);
    std::uint8_t key[16];
    for (std::uint8_t i = 0; i < 16; ++i)
        key[i] = static_cast<std::uint8_t>(i + 1);
    EXPECT_EQ(backend.open_domain(key), 4321);
    EXPECT_EQ(std::memcmp(module.domain.key, key, sizeof(key)), 0);
    EXPECT_EQ(module.domain.flags, 0U);
    module.domain_error = -ENOSPC;
    EXPECT_EQ(backend.open_domain(key), -ENOSPC);
}

TEST_F(Kmod, ReadsStats) {
    ASSERT_EQ(open(), 0);
    struct upm_stats stats {};
    EXPECT_EQ(backend.stats(7, stats), 0);
    EXPECT_EQ(stats.pages_shared, 1U);
    EXPECT_EQ(stats.pages_sharing, 2U);
    EXPECT_EQ(stats.pages_unused, 3U);
    EXPECT_EQ(stats.max_pages, 4U);
    EXPECT_EQ(stats.metadata_bytes, 57U);
}

// The descriptor is inherited: a child in a sandbox may not be able to open one.
TEST_F(Kmod, ChildUsesTheParentsDescriptor) {
    ASSERT_EQ(open(), 0);
    module.open_error = -EACCES;
    EXPECT_EQ(in_child([&] { return run(one_page) == 0 && module.advised.size() == 1 ? 0 : 1; }),
              0);
}

TEST(KernelDevice, ReportsErrnoWithoutAModule) {
    KernelDevice device;
    const int fd = device.open();
    if (fd >= 0) {
        device.close(fd);
        GTEST_SKIP() << "/dev/upm is there";
    }
    EXPECT_LT(fd, 0);
    upm_ioc_info info{};
    EXPECT_EQ(device.ioctl(-1, UPM_IOC_INFO, &info), -EBADF);
    EXPECT_FALSE(device.is_open(-1));
    EXPECT_TRUE(device.is_open(0));
}

} // namespace

} // namespace upm::test
