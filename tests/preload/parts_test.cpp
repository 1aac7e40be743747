// SPDX-License-Identifier: MIT
//
// Parts of the hook that can be tried without preloading it.
#include "preload/address_map.hpp"
#include "preload/copying.hpp"
#include "preload/history.hpp"
#include "preload/outsiders.hpp"
#include "preload/settings.hpp"
#include "tests/support/support.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <fstream>
#include <gtest/gtest.h>
#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <memory>
#include <string>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <unistd.h>
#include <vector>

namespace upm::test {

namespace {

using hook::History;

upm_counts counted(std::uint64_t merged, std::uint64_t already) {
    upm_counts counts{};
    counts.merged = merged;
    counts.already = already;
    counts.pages = merged + already;
    return counts;
}

constexpr std::uint64_t kSecond = 1'000'000'000;

TEST(HookHistory, NewMemoryIsDueAtOnce) {
    EXPECT_TRUE(History().due(0, false));
}

TEST(HookHistory, PausesDouble) {
    History history;
    std::uint64_t now = 0;
    for (std::uint64_t pause = kSecond; pause <= 8 * kSecond; pause *= 2) {
        history.add(counted(1, 99)); // something new each time
        history.finish(now, false);
        EXPECT_FALSE(history.due(now + pause - 1, false)) << pause;
        EXPECT_TRUE(history.due(now + pause, false)) << pause;
        now += pause;
    }
}

TEST(HookHistory, WhatKeepsBreakingIsGivenUpEvenIfForced) {
    History history;
    for (int pass = 0; pass < 3; ++pass) {
        EXPECT_FALSE(history.retired()) << pass;
        history.add(counted(20, 80)); // a fifth was written to again
        history.finish(0, false);
    }
    EXPECT_TRUE(history.retired());
    EXPECT_FALSE(history.due(1000 * kSecond, true));
}

TEST(HookHistory, FewBrokenPagesAreForgiven) {
    History history;
    for (int pass = 0; pass < 6; ++pass) {
        history.add(counted(5, 95));
        history.finish(0, false);
    }
    EXPECT_FALSE(history.retired());
}

TEST(HookHistory, WhatIsStableIsLeftAlone) {
    History history;
    history.add(counted(100, 0));
    history.finish(0, false);
    for (int pass = 0; pass < 2; ++pass) {
        EXPECT_TRUE(history.waits());
        history.add(counted(0, 100));
        history.finish(0, false);
    }
    EXPECT_FALSE(history.waits());
    EXPECT_FALSE(history.retired());
    EXPECT_TRUE(history.due(0, true)) << "somebody asked";
}

TEST(HookHistory, NothingIsAdvisedForEver) {
    History history;
    unsigned passes = 0;
    for (std::uint64_t now = 0; history.waits(); now += 1000 * kSecond, ++passes) {
        history.add(counted(1, 99));
        history.finish(now, false);
    }
    EXPECT_EQ(passes, History::kMaxPasses);
}

TEST(HookHistory, TheScannerNeedsToBeToldOnce) {
    History history;
    history.finish(0, true);
    EXPECT_FALSE(history.waits());
}

TEST(HookSettings, WhatIsNotUnderstoodIsTheDefault) {
    ::setenv("UPM_MIN_BYTES", "much", 1);
    ::setenv("UPM_TRIGGER", "never", 1);
    ::setenv("UPM_IDLE_MS", "soon", 1);
    const hook::Settings settings = hook::read_settings();
    EXPECT_EQ(settings.min_bytes, 65536U);
    EXPECT_EQ(settings.trigger, hook::Trigger::kIdle);
    EXPECT_EQ(settings.idle_ns, 100'000'000U);
}

TEST(HookSettings, ABlockIsAPageAtLeast) {
    ::setenv("UPM_MIN_BYTES", "1", 1);
    EXPECT_EQ(hook::read_settings().min_bytes, 4096U);
}

// --- the map of blocks ---

struct Record {
    std::uintptr_t start = 0;
    std::size_t len = 0;
};

constexpr std::size_t kPage = 4096;
constexpr std::size_t kMib = 1UL << 20;

void *at(std::uintptr_t address) {
    return reinterpret_cast<void *>(address); // NOLINT(performance-no-int-to-ptr)
}

class HookAddressMap : public ::testing::Test {
  protected:
    bool add(Record &record) { return map_->set(at(record.start), record.len, &record); }
    void remove(Record &record) { map_->clear(at(record.start), record.len, &record); }

    // What the hook asks: which blocks does the range touch?
    std::vector<const Record *> found(std::uintptr_t start, std::size_t len) {
        std::vector<const Record *> all;
        const Record *const first = map_->before(at(start));
        if (first != nullptr && start - first->start < first->len)
            all.push_back(first);
        map_->for_each_start(at(start), len, [&](Record &record) { all.push_back(&record); });
        return all;
    }

    std::unique_ptr<hook::AddressMap<Record>> map_ = std::make_unique<hook::AddressMap<Record>>();
};

using Records = std::vector<const Record *>;

TEST_F(HookAddressMap, FindsWhatHoldsAnAddress) {
    Record block{.start = 0x7f0000000000, .len = 64 * kMib};
    ASSERT_TRUE(add(block));
    EXPECT_EQ(map_->find(at(block.start)), &block);
    EXPECT_EQ(map_->find(at(block.start + kPage)), nullptr);
    for (const std::size_t offset : {0UL, kPage, 2 * kMib - kPage, 2 * kMib, 17 * kMib, 63 * kMib})
        EXPECT_EQ(found(block.start + offset, kPage), Records{&block}) << offset;
    EXPECT_EQ(found(block.start - kPage, kPage), Records{});
    EXPECT_EQ(found(block.start + block.len, kPage), Records{});
    EXPECT_EQ(found(block.start - kPage, 2 * kPage), Records{&block});
    remove(block);
    EXPECT_EQ(found(block.start, block.len), Records{});
}

TEST_F(HookAddressMap, BlocksOfEachSizeAtEachPlace) {
    // Around the units of the tree: 2 MiB, 16 MiB, 64 GiB.
    const std::uintptr_t places[] = {0x100000000000, 0x1000001ff000, 0x100000fff000, 0x100fffffe000,
                                     0x10100012c000};
    const std::size_t sizes[] = {kPage,     2 * kPage,         2 * kMib,    3 * kMib + kPage,
                                 16 * kMib, 33 * kMib + kPage, 1024 * kMib, 200UL << 30};
    for (const std::uintptr_t start : places)
        for (const std::size_t len : sizes) {
            Record block{.start = start, .len = len};
            ASSERT_TRUE(add(block));
            for (std::size_t step = 0; step < len;
                 step += std::max(kPage, len / 64 / kPage * kPage))
                ASSERT_EQ(found(start + step, kPage), Records{&block}) << start << " " << step;
            EXPECT_EQ(found(start + len - kPage, kPage), Records{&block});
            EXPECT_EQ(found(start + len, 2 * kMib), Records{});
            EXPECT_EQ(found(start - 2 * kMib, 2 * kMib), Records{});
            remove(block);
            for (const std::size_t step : {0UL, len / 2, len - kPage})
                ASSERT_EQ(found(start + step, kPage), Records{});
        }
}

TEST_F(HookAddressMap, NeighboursAreToldApart) {
    std::vector<Record> blocks;
    std::uintptr_t next = 0x7f0000000000 - 5 * kPage;
    for (std::size_t i = 0; i < 1000; ++i) {
        blocks.push_back({.start = next, .len = (1 + i * 7919 % 1200) * kPage});
        next += blocks.back().len + i % 3 * kPage;
    }
    for (Record &block : blocks)
        ASSERT_TRUE(add(block));
    Records all;
    for (const Record &block : blocks) {
        all.push_back(&block);
        ASSERT_EQ(found(block.start, block.len), Records{&block});
        ASSERT_EQ(found(block.start + block.len - kPage, kPage), Records{&block});
    }
    EXPECT_EQ(found(blocks.front().start, next - blocks.front().start), all);
    for (std::size_t i = 0; i < blocks.size(); i += 2)
        remove(blocks[i]);
    for (std::size_t i = 0; i < blocks.size(); ++i)
        ASSERT_EQ(found(blocks[i].start, blocks[i].len),
                  i % 2 == 0 ? Records{} : Records{&blocks[i]});
}

TEST_F(HookAddressMap, AnAddressBeyondTheTreeIsNoBlocks) {
    Record block{.start = (1UL << 48) - kPage, .len = 2 * kPage};
    EXPECT_FALSE(add(block));
    EXPECT_EQ(found(block.start, SIZE_MAX), Records{});
}

// --- who else may write to memory ---

int pipe_end() {
    int ends[2] = {-1, -1};
    EXPECT_EQ(::pipe(ends), 0);
    ::close(ends[1]);
    return ends[0];
}

int mount_of(int fd) {
    std::ifstream file("/proc/self/fdinfo/" + std::to_string(fd));
    int mount = -1;
    for (std::string line; std::getline(file, line);)
        (void)std::sscanf(line.c_str(), "mnt_id: %d", &mount); // NOLINT(cert-err34-c)
    return mount;
}

TEST(HookOutsiders, KnowsHarmlessDescriptors) {
    const int fds[] = {::open("/dev/null", O_RDWR),
                       ::open("/dev/urandom", O_RDONLY),
                       ::open("/proc/self/exe", O_RDONLY),
                       ::open("/proc/self", O_RDONLY | O_DIRECTORY),
                       ::open("/proc/self/exe", O_PATH),
                       ::memfd_create("test", 0),
                       ::socket(AF_UNIX, SOCK_STREAM, 0),
                       ::socket(AF_INET, SOCK_DGRAM, 0),
                       ::eventfd(0, 0),
                       ::epoll_create1(0),
                       ::timerfd_create(CLOCK_MONOTONIC, 0),
                       ::inotify_init1(0),
                       pipe_end()};
    for (const int fd : fds) {
        ASSERT_GE(fd, 0);
        EXPECT_TRUE(hook::harmless_descriptor(fd)) << fd - fds[0];
        EXPECT_TRUE(hook::harmless_name(fd)) << fd - fds[0];
        ::close(fd);
    }
    EXPECT_TRUE(hook::harmless_descriptor(fds[0])) << "closed meanwhile";
    EXPECT_FALSE(hook::outsiders_may_write());
    EXPECT_FALSE(hook::outsiders_came());
}

TEST(HookOutsiders, DirectInputAndOutputIsNot) {
    const int fd = ::open("/var/tmp", O_RDWR | O_DIRECT | O_TMPFILE, 0600);
    if (fd < 0)
        GTEST_SKIP() << "no direct I/O in /var/tmp";
    EXPECT_FALSE(hook::harmless_descriptor(fd));
    EXPECT_FALSE(hook::harmless_name(fd));
    EXPECT_TRUE(hook::outsiders_may_write());
    EXPECT_TRUE(hook::outsiders_came());
    ::close(fd);
    EXPECT_FALSE(hook::outsiders_may_write());
    EXPECT_FALSE(hook::outsiders_came());
}

// The network card writes to memory of the process.
TEST(HookOutsiders, NorIsASocketOfTheCards) {
    const int fd = ::socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
    if (fd < 0)
        GTEST_SKIP() << "no AF_XDP, or not for this user";
    EXPECT_FALSE(hook::harmless_descriptor(fd));
    EXPECT_FALSE(hook::harmless_name(fd));
    EXPECT_TRUE(hook::outsiders_may_write());
    EXPECT_TRUE(hook::outsiders_came());
    ::close(fd);
    EXPECT_FALSE(hook::outsiders_may_write());
    EXPECT_FALSE(hook::outsiders_came());
}

TEST(HookOutsiders, NorIsAsynchronousInputAndOutput) {
    aio_context_t context = 0;
    if (::syscall(SYS_io_setup, 8, &context) != 0)
        GTEST_SKIP() << "no asynchronous I/O";
    EXPECT_TRUE(hook::outsiders_may_write());
    EXPECT_TRUE(hook::outsiders_came());
    EXPECT_EQ(::syscall(SYS_io_destroy, context), 0);
    EXPECT_FALSE(hook::outsiders_may_write());
    EXPECT_FALSE(hook::outsiders_came());
}

TEST(HookOutsiders, NorIsARing) {
    char parameters[256] = {};
    const auto fd = static_cast<int>(::syscall(SYS_io_uring_setup, 4, parameters));
    if (fd < 0)
        GTEST_SKIP() << "no io_uring";
    EXPECT_FALSE(hook::harmless_descriptor(fd));
    EXPECT_FALSE(hook::harmless_name(fd));
    // Its mapping counts when the descriptor is gone.
    void *const ring = ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ::close(fd);
    ASSERT_NE(ring, MAP_FAILED);
    EXPECT_TRUE(hook::outsiders_may_write());
    EXPECT_TRUE(hook::outsiders_came());
    ::munmap(ring, kPage);
    EXPECT_FALSE(hook::outsiders_may_write());
    EXPECT_FALSE(hook::outsiders_came());
}

// A ring may have neither a descriptor nor a mapping (Linux 6.5): then its buffers tell.
TEST(HookOutsiders, NorAreBuffersOfARingThatIsNotSeen) {
    constexpr unsigned kNoMmap = 1U << 14U;
    constexpr unsigned kRegisteredFdOnly = 1U << 15U;
    constexpr unsigned kRegisterBuffers = 0;
    constexpr unsigned kUnregisterBuffers = 1;
    constexpr unsigned kByRegisteredRing = 1U << 31U;
    alignas(kPage) static char memory[3 * kPage];
    const auto place = reinterpret_cast<std::uint64_t>(memory);
    io_uring_params parameters{};
    parameters.flags = kNoMmap | kRegisteredFdOnly;
    // `user_addr`, the last field of both, has no name in older headers.
    const std::uint64_t queues[] = {place, place + kPage};
    std::memcpy(reinterpret_cast<char *>(&parameters.cq_off + 1) - 8, &queues[0], 8);
    std::memcpy(reinterpret_cast<char *>(&parameters.sq_off + 1) - 8, &queues[1], 8);
    const auto ring = static_cast<int>(::syscall(SYS_io_uring_setup, 4, &parameters));
    if (ring < 0)
        GTEST_SKIP() << "no such ring";
    const iovec buffer{.iov_base = memory + 2 * kPage, .iov_len = kPage};
    ASSERT_EQ(
        ::syscall(SYS_io_uring_register, ring, kRegisterBuffers | kByRegisteredRing, &buffer, 1),
        0);
    EXPECT_TRUE(hook::outsiders_may_write());
    EXPECT_TRUE(hook::outsiders_came());
    ASSERT_EQ(
        ::syscall(SYS_io_uring_register, ring, kUnregisterBuffers | kByRegisteredRing, nullptr, 0),
        0);
    EXPECT_FALSE(hook::outsiders_may_write());
    EXPECT_FALSE(hook::outsiders_came());
}

// Encryption by a device goes to memory of the process.
TEST(HookOutsiders, NorIsASocketOfDevices) {
    const int fd = ::socket(AF_ALG, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        GTEST_SKIP() << "no AF_ALG";
    EXPECT_FALSE(hook::harmless_descriptor(fd));
    EXPECT_FALSE(hook::harmless_name(fd));
    ::close(fd);
}

// The program behind FUSE writes to memory of the reader, who sleeps meanwhile.
TEST(HookOutsiders, NorIsAFileThatAnotherProgramServes) {
    for (const char *name : {"ext4", "overlay", "tmpfs", "proc", "nfs4", "btrfs"})
        EXPECT_TRUE(hook::copies(name)) << name;
    for (const char *name : {"fuse", "fuseblk", "fuse.sshfs", "virtiofs", "9p", "cifs", "ceph", ""})
        EXPECT_FALSE(hook::copies(name)) << name;
    const TempDir dir;
    const int server = ::open("/dev/fuse", O_RDWR | O_CLOEXEC);
    const std::string options = "rootmode=100000,user_id=0,group_id=0,fd=" + std::to_string(server);
    const std::string path = dir.path() + "/file";
    const int place = ::open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    if (server < 0 || place < 0 ||
        ::mount("test", path.c_str(), "fuse.test", 0, options.c_str()) != 0)
        GTEST_SKIP() << "needs root and /dev/fuse";
    // Nobody answers: it can be named, but not opened. And nobody is to be asked.
    hook::CopyingMounts mounts;
    const int named = ::open(path.c_str(), O_PATH | O_CLOEXEC);
    EXPECT_FALSE(mounts.find(mount_of(named), path.c_str()));
    EXPECT_FALSE(mounts.knows(mount_of(named)));
    EXPECT_TRUE(mounts.find(mount_of(place), path.c_str()));
    EXPECT_TRUE(mounts.knows(mount_of(place)));
    mounts.forget();
    EXPECT_FALSE(mounts.knows(mount_of(place)));
    EXPECT_TRUE(hook::harmless_descriptor(named)) << "nothing can be read by it";
    EXPECT_EQ(::umount2(path.c_str(), MNT_DETACH), 0);
    for (const int fd : {named, place, server})
        ::close(fd);
}

TEST(HookOutsiders, WhatIsUnknownIsHarmful) {
    EXPECT_FALSE(hook::harmless_anonymous("anon_inode:[io_uring]"));
    EXPECT_FALSE(hook::harmless_anonymous("anon_inode:[vfio-device]"));
    EXPECT_FALSE(hook::harmless_anonymous("anon_inode:kvm-vm"));
    EXPECT_FALSE(hook::harmless_anonymous("anon_inode:[something-new]"));
    EXPECT_FALSE(hook::harmless_anonymous("/dmabuf:"));
    EXPECT_FALSE(hook::harmless_anonymous(""));
    for (const char *name : {"/[aio] (deleted)", "/dev/nvidia0", "/dev/infiniband/uverbs0",
                             "anon_inode:[io_uring]", "/dmabuf:", "socket:[7]"})
        EXPECT_FALSE(hook::harmless_mapping(name)) << name;
    for (const char *name : {"", "[heap]", "/usr/lib/libc.so.6", "/dev/zero (deleted)",
                             "/memfd:upm-store (deleted)", "/dev/shm/x", "/SYSV00000000 (deleted)"})
        EXPECT_TRUE(hook::harmless_mapping(name)) << name;
}

TEST(HookOutsiders, ADeviceIsHarmfulWhateverItsName) {
    const TempDir dir;
    const std::string path = dir.path() + "/gpu";
    if (::mknod(path.c_str(), S_IFCHR | 0600, makedev(10, 183)) != 0)
        GTEST_SKIP() << "cannot make a device";
    const int fd = ::open(path.c_str(), O_RDONLY); // a random number generator, if there is one
    if (fd < 0)
        GTEST_SKIP() << "no such device here";
    EXPECT_FALSE(hook::harmless_descriptor(fd));
    ::close(fd);
}

} // namespace

} // namespace upm::test
