// SPDX-License-Identifier: MIT
//
// Loads where there is no room: the broker's control group, its file system, or the file's own
// is full. And into memory that somebody has write-protected.
#include "tests/libupm/store/load_fixture.hpp"

#include <atomic>
#include <cerrno>
#include <fstream>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <thread>

namespace upm::test {

namespace {

constexpr int kNotHere = 77;

class StoreLoadRoom : public StoreLoad {
  protected:
    // A load by a backend of its own. 0: it has the file's bytes; `made` gets those that came
    // to share.
    static int load_with(int fd, const std::string &socket, std::uint64_t &made) {
        use(socket);
        StoreBackend fresh;
        Reason reason;
        if (fresh.open(reason) != 0)
            return 21;
        const Pages into(kPagesOfFile);
        upm_load_counts sums{};
        const std::int64_t got = fresh.load({.fd = fd,
                                             .into = reinterpret_cast<std::byte *>(into.data()),
                                             .len = into.size(),
                                             .ordinary = true},
                                            sums);
        made = sums.made + sums.shared;
        return got == static_cast<std::int64_t>(into.size()) && has_pattern(into, 7) ? 0 : 22;
    }
    // The same until something shares: on a busy machine the broker may be late.
    static int load_shared(int fd, const std::string &socket) {
        std::uint64_t made = 0;
        int ret = 0;
        for (int i = 0; i < 100 && made == 0 && ret == 0; ++i) {
            ret = load_with(fd, socket, made);
            if (made == 0)
                ::usleep(200'000);
        }
        return ret != 0 ? ret : made != 0 ? 0 : 23;
    }
};

// The memory of segments is the broker's. Where its control group has no more, nothing is made,
// or the kernel ends the broker; the program reads plainly.
TEST_F(StoreLoadRoom, ControlGroupOfTheBrokerIsFull) {
    const std::string group = "/sys/fs/cgroup/memory/upm-load-test-" + std::to_string(::getpid());
    if (::mkdir(group.c_str(), 0755) != 0)
        GTEST_SKIP() << "cannot make a memory control group: " << std::strerror(errno);
    const auto write = [&](const char *name, const std::string &value) {
        std::ofstream(group + "/" + name) << value;
    };
    bool counted = false;
    {
        const BrokerProcess poor;
        write("cgroup.procs", std::to_string(poor.pid()));
        write("memory.limit_in_bytes", std::to_string(1UL << 20U));
        std::ifstream limit(group + "/memory.limit_in_bytes");
        std::size_t bytes = 0;
        counted = static_cast<bool>(limit >> bytes) && bytes == 1UL << 20U;
        std::uint64_t made = 0;
        for (int i = 0; i < 3 && counted; ++i) {
            EXPECT_EQ(in_child([&] { return load_with(file(), poor.socket(), made); }), 0);
        }
        int status = 0;
        if (counted && ::waitpid(poor.pid(), &status, WNOHANG) == 0) {
            write("memory.limit_in_bytes", "-1");
            EXPECT_EQ(in_child([&] { return load_shared(file(), poor.socket()); }), 0);
        }
    }
    for (int tries = 0; ::rmdir(group.c_str()) != 0 && tries < 1000; ++tries)
        ::usleep(10'000);
    if (!counted)
        GTEST_SKIP() << "the group's limit cannot be set";
}

// A file system of 64 KiB for this process and its children; an ordinary user gets it in a user
// namespace. Returns false if there is none to be had.
bool mount_small(const std::string &folder) {
    const uid_t uid = ::geteuid();
    const bool root = uid == 0;
    if (::unshare(CLONE_NEWNS | (root ? 0 : CLONE_NEWUSER)) != 0)
        return false;
    if (!root) {
        const std::string line = std::to_string(uid) + " " + std::to_string(uid) + " 1";
        std::ofstream("/proc/self/uid_map") << line;
    }
    return ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
           ::mount("tmpfs", folder.c_str(), "tmpfs", 0, "size=64k,mode=755") == 0;
}

// Writes until there is no room. Returns false if there was no end.
bool fill_up(const std::string &path) {
    const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    const std::string piece(4096, 'f');
    for (int i = 0; i < 64; ++i) {
        if (::write(fd, piece.data(), piece.size()) < 0) {
            const bool full = errno == ENOSPC;
            ::close(fd);
            return full;
        }
    }
    ::close(fd);
    return false;
}

// Metrics cannot be written there; what was written stays, and loads go on.
TEST_F(StoreLoadRoom, FileSystemOfTheMetricsIsFull) {
    const TempDir folder;
    const int status = in_child([&] {
        if (!mount_small(folder.path()))
            return kNotHere;
        folder.write("metrics", "those of before\n");
        if (!fill_up(folder.path() + "/filler"))
            return 2;
        const BrokerProcess other({"--metrics", folder.path() + "/metrics"});
        const int ret = load_shared(file(), other.socket());
        if (ret != 0)
            return ret;
        return read_file(folder.path() + "/metrics") == "those of before\n" ? 0 : 3;
    });
    if (status == kNotHere)
        GTEST_SKIP() << "no file system can be mounted";
    EXPECT_EQ(status, 0);
}

// The file itself lies on a full one: reading it takes no room there.
TEST_F(StoreLoadRoom, FileSystemOfTheFileIsFull) {
    const TempDir folder;
    const int status = in_child([&] {
        if (!mount_small(folder.path()))
            return kNotHere;
        if (::mount(nullptr, folder.path().c_str(), nullptr, MS_REMOUNT, "size=20008k") != 0)
            return 2;
        const std::string path = folder.path() + "/file";
        const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        const Pages content(kPagesOfFile);
        fill_pattern(content, 7);
        if (::write(fd, content.data(), content.size()) != static_cast<ssize_t>(content.size()) ||
            !fill_up(folder.path() + "/filler"))
            return 3;
        const BrokerProcess other;
        return load_shared(fd, other.socket());
    });
    if (status == kNotHere)
        GTEST_SKIP() << "no file system can be mounted";
    EXPECT_EQ(status, 0);
}

// Lets writes through that somebody has forbidden, one page at a time.
class Guard {
  public:
    // Pre: the pages exist.
    Guard(void *start, std::size_t size)
        : fd_(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK))) {
        uffdio_api api{.api = UFFD_API, .features = 0, .ioctls = 0};
        uffdio_register part{};
        part.range = {.start = reinterpret_cast<std::uint64_t>(start), .len = size};
        part.mode = UFFDIO_REGISTER_MODE_WP;
        uffdio_writeprotect protect{.range = part.range, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
        works_ = fd_ >= 0 && ::ioctl(fd_, UFFDIO_API, &api) == 0 &&
                 ::ioctl(fd_, UFFDIO_REGISTER, &part) == 0 &&
                 ::ioctl(fd_, UFFDIO_WRITEPROTECT, &protect) == 0;
        if (works_)
            server_ = std::thread([this] { serve(); });
    }
    Guard(const Guard &) = delete;
    Guard &operator=(const Guard &) = delete;
    ~Guard() {
        over_ = true;
        if (server_.joinable())
            server_.join();
        if (fd_ >= 0)
            ::close(fd_);
    }
    [[nodiscard]] bool works() const { return works_; }
    [[nodiscard]] int asked() const { return asked_; }

  private:
    void serve() {
        while (!over_) {
            pollfd event{.fd = fd_, .events = POLLIN, .revents = 0};
            uffd_msg message{};
            if (::poll(&event, 1, 10) <= 0 ||
                ::read(fd_, &message, sizeof(message)) != sizeof(message))
                continue;
            ++asked_;
            uffdio_writeprotect allow{};
            allow.range = {.start = message.arg.pagefault.address & ~(page_size() - 1),
                           .len = page_size()};
            EXPECT_EQ(::ioctl(fd_, UFFDIO_WRITEPROTECT, &allow), 0);
        }
    }

    int fd_;
    bool works_ = false;
    std::atomic<bool> over_{false};
    std::atomic<int> asked_{0};
    std::thread server_;
};

// Whoever forbids writing to pages is asked for each, whether the caller vouches for the
// memory or not: they exist, and nothing is mapped in their place.
TEST_F(StoreLoadRoom, PagesThatSomebodyProtects) {
    ASSERT_EQ(open(), 0) << text;
    const auto stays = load_without_copies(); // known content, which is mapped at once
    ASSERT_NE(stays, nullptr);
    constexpr std::size_t kFirst = 1000;
    constexpr std::size_t kProtected = 50; // pages
    for (const bool ordinary : {false, true}) {
        const Pages into(kPagesOfFile);
        (void)::madvise(into.data(), into.size(), MADV_NOHUGEPAGE);
        std::memset(into.page(kFirst), 'g', kProtected * page_size());
        const Guard guard(into.page(kFirst), kProtected * page_size());
        if (!guard.works())
            GTEST_SKIP() << "no userfaultfd here";
        upm_load_counts sums{};
        EXPECT_EQ(backend.load({.fd = file(),
                                .into = reinterpret_cast<std::byte *>(into.data()),
                                .len = into.size(),
                                .ordinary = ordinary},
                               sums),
                  static_cast<std::int64_t>(into.size()));
        EXPECT_TRUE(has_pattern(into, 7));
        EXPECT_EQ(guard.asked(), static_cast<int>(kProtected)) << ordinary;
        if (!ordinary) {
            EXPECT_EQ(sums.shared + sums.made, 0U) << "nobody vouches for it";
        }
    }
}

} // namespace

} // namespace upm::test
