// SPDX-License-Identifier: MIT
//
// Looks at the mappings of processes, among them some that never let themselves be
// looked at: a pipe without a writer stands for the lock of such a process's memory.
#include "tests/libupm/store/fixture.hpp"
#include "tools/upmd/watcher.hpp"

#include <chrono>
#include <csignal>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>

namespace upm::test {

namespace {

using upmd::Descriptor;

class UpmdWatcher : public testing::Test {
  protected:
    using Folder = std::shared_ptr<const Descriptor>;

    static Folder open_folder(const std::string &path) {
        return std::make_shared<const Descriptor>(
            Descriptor(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)));
    }
    // The results of so many looks, or of those that come in time.
    std::vector<upmd::Watcher::Result> results(std::size_t count, int patience_ms = 10'000) {
        std::vector<upmd::Watcher::Result> all;
        pollfd event{.fd = watcher.event(), .events = POLLIN, .revents = 0};
        while (all.size() < count && ::poll(&event, 1, patience_ms) == 1)
            for (auto &result : watcher.take_results())
                all.push_back(std::move(result));
        return all;
    }

    upmd::Watcher watcher;
};

TEST_F(UpmdWatcher, SeesSegmentsOfAProcess) {
    constexpr std::size_t kPages = 8;
    const Pages content(kPages);
    content.fill('x');
    const int fd = make_segment(content.data(), content.size());
    struct stat status {};
    ASSERT_EQ(::fstat(fd, &status), 0);
    void *const whole = ::mmap(nullptr, content.size(), PROT_READ, MAP_PRIVATE, fd, 0);
    void *const part = ::mmap(nullptr, 3 * page_size(), PROT_READ, MAP_PRIVATE, fd, 0);
    (void)::close(fd);
    watcher.look(5, 0, open_folder("/proc/self"));
    auto found = results(1);
    ASSERT_EQ(found.size(), 1U);
    EXPECT_EQ(found[0].process, 5U);
    EXPECT_TRUE(found[0].look.readable && found[0].look.complete && !found[0].look.gone);
    EXPECT_EQ(found[0].look.pages.size(), 1U);
    EXPECT_EQ(found[0].look.pages[status.st_ino], kPages + 3);
    (void)::munmap(whole, content.size());
    (void)::munmap(part, 3 * page_size());
    watcher.look(5, 0, open_folder("/proc/self"));
    found = results(1);
    ASSERT_EQ(found.size(), 1U);
    EXPECT_TRUE(found[0].look.pages.empty());
}

TEST_F(UpmdWatcher, AProcessThatHasEndedIsGone) {
    StayingChild child([] { return 0; });
    const Folder folder = open_folder("/proc/" + std::to_string(child.pid()));
    child.end();
    watcher.look(1, 0, folder);
    const auto found = results(1);
    ASSERT_EQ(found.size(), 1U);
    EXPECT_TRUE(found[0].look.gone);
}

// The file of the process itself is empty then.
TEST_F(UpmdWatcher, SeesSegmentsOfAProcessWhoseFirstThreadHasEnded) {
    const Pages content(2);
    content.fill('x');
    const int fd = make_segment(content.data(), content.size());
    struct stat status {};
    ASSERT_EQ(::fstat(fd, &status), 0);
    const pid_t pid = fork_tied();
    if (pid == 0) {
        (void)::mmap(nullptr, content.size(), PROT_READ, MAP_PRIVATE, fd, 0);
        std::thread([] {
            for (;;)
                (void)::pause();
        }).detach();
        ::syscall(SYS_exit, 0); // this thread alone
    }
    (void)::close(fd);
    const std::string folder = "/proc/" + std::to_string(pid);
    while (!read_file(folder + "/maps").empty())
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    watcher.look(1, 0, open_folder(folder));
    auto found = results(1);
    ASSERT_EQ(found.size(), 1U);
    EXPECT_TRUE(found[0].look.readable && found[0].look.complete && !found[0].look.gone);
    EXPECT_EQ(found[0].look.pages[status.st_ino], 2U);
    (void)::kill(pid, SIGKILL);
    (void)wait_for(pid);
}

// Two of a user's hang, and nobody else's wait for that.
TEST_F(UpmdWatcher, OthersDoNotWaitForWhatHangs) {
    const TempDir dir;
    const std::string pipe = dir.path() + "/maps";
    ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
    const Folder stuck = open_folder(dir.path());
    for (std::uint64_t i = 0; i < 20; ++i)
        watcher.look(i, 1, stuck);
    watcher.look(100, 2, open_folder("/proc/self"));
    const auto found = results(1);
    ASSERT_EQ(found.size(), 1U);
    EXPECT_EQ(found[0].process, 100U);
    watcher.look(101, 1, open_folder("/proc/self"));
    EXPECT_EQ(results(1, 200).size(), 0U) << "this user's have used up what it has";
    // Let the two go, which read nothing then; the others find no pipe that they could wait for.
    {
        const Descriptor writer(::open(pipe.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
        ASSERT_TRUE(writer);
        ASSERT_EQ(::unlink(pipe.c_str()), 0);
    }
    EXPECT_EQ(results(21).size(), 21U);
}

TEST(UpmdMappings, OnlySegmentsCount) {
    upmd::Look look;
    upmd::add_mappings(
        "5500-5600 r-xp 00000000 08:01 77 /bin/cat\n"
        "7000-9000 r--p 00000000 00:01 1234                /memfd:upm-store (deleted)\n"
        "9000-a000 rw-p 00004000 00:01 1234                /memfd:upm-store (deleted)\n"
        "b000-c000 rw-p 00000000 00:01 99                  /memfd:other (deleted)\n"
        "nonsense /memfd:upm-store (deleted)\n",
        0x1000, look);
    EXPECT_EQ(look.pages, (std::unordered_map<std::uint64_t, std::uint64_t>{{1234, 3}}));
}

// A process has more mappings than are read: what was not seen may be there.
TEST(UpmdMappings, ABoundedLookIsNotComplete) {
    const Descriptor maps(::open("/proc/self/maps", O_RDONLY | O_CLOEXEC));
    EXPECT_FALSE(upmd::read_mappings(maps.get(), 1).complete);
    (void)::lseek(maps.get(), 0, SEEK_SET);
    EXPECT_TRUE(upmd::read_mappings(maps.get(), 1UL << 30U).complete);
}

} // namespace

} // namespace upm::test
