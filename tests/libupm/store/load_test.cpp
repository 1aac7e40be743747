// SPDX-License-Identifier: MIT
//
// Loads with the backend store when things go wrong: what a program reads is what the
// file holds, and nobody waits for the broker.
#include "libupm/base/sharable_file.hpp"
#include "libupm/base/system.hpp"
#include "libupm/mm/pagemap.hpp"
#include "libupm/store/hash.hpp"
#include "libupm/store/load.hpp"
#include "tests/libupm/store/load_fixture.hpp"
#include "tests/libupm/store/proxy.hpp"

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
#include <memory>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace {

// Of waits that ended without what was waited for, in ms.
std::atomic<std::uint64_t> waited_in_vain{0};

} // namespace

// In place of libc's: by which the library waits for the broker.
extern "C" int poll(pollfd *events, nfds_t count, int timeout_ms) {
    const timespec timeout{.tv_sec = timeout_ms / 1000, .tv_nsec = timeout_ms % 1000 * 1'000'000L};
    const int ready = ::ppoll(events, count, timeout_ms < 0 ? nullptr : &timeout, nullptr);
    if (ready == 0 && timeout_ms > 0)
        waited_in_vain += static_cast<std::uint64_t>(timeout_ms);
    return ready;
}

namespace upm::test {

namespace {

constexpr unsigned kPatience = 100; // seconds that a child has, on a busy machine

// Of pages that were read, how many are the program's own.
std::size_t private_pages(const Pages &pages) {
    const PageMap map;
    std::vector<std::uint64_t> entries(pages.size() / page_size());
    volatile char sum = 0;
    for (std::size_t i = 0; i < entries.size(); ++i)
        sum = static_cast<char>(sum + pages.page(i)[0]);
    EXPECT_EQ(map.read(reinterpret_cast<std::uint64_t>(pages.data()),
                       static_cast<std::uint32_t>(entries.size()), entries.data()),
              0);
    return static_cast<std::size_t>(
        std::count_if(entries.begin(), entries.end(), [](std::uint64_t entry) {
            return (entry & kPagePresent) == 0 || (entry & kPageOfFile) == 0;
        }));
}

TEST_F(StoreLoad, TakesNoMemoryOfTheProgram) {
    ASSERT_EQ(open(), 0) << text;
    const auto first = load_without_copies();
    ASSERT_NE(first, nullptr);
    EXPECT_NE(made_ever, 0U) << "the broker makes the segments";
    EXPECT_EQ(private_pages(*first), 0U);
    const auto other = load_without_copies();
    ASSERT_NE(other, nullptr);
    const Pages &second = *other;
    EXPECT_EQ(loaded.shared, second.size());
    EXPECT_EQ(private_pages(second), 0U);
    second.page(4711)[5] = 'w';
    EXPECT_EQ(private_pages(second), 1U);
    EXPECT_TRUE(has_pattern(*first, 7));
}

// The first process only registers what is small; it is made for the second one.
TEST_F(StoreLoad, WhatIsSmallIsSharedFromTheSecondProcessOn) {
    constexpr std::size_t kSmall = 256; // pages
    ASSERT_EQ(open(), 0) << text;
    std::vector<std::unique_ptr<Pages>> stay;
    const auto load_once = [&] {
        const Pages &into = *stay.emplace_back(std::make_unique<Pages>(kSmall));
        EXPECT_EQ(load(into), static_cast<std::int64_t>(into.size()));
        EXPECT_TRUE(has_pattern(into, 7));
    };
    // On a busy machine the broker may be late.
    const auto load_until_shared = [&] {
        load_once();
        for (int i = 0; i < 100 && loaded.copied != 0; ++i) {
            ::usleep(200'000);
            load_once();
        }
    };
    insert_elsewhere([&] {
        StoreBackend mine;
        Reason reason;
        if (mine.open(reason) != 0)
            return 1;
        for (int i = 0; i < 5; ++i) {
            const Pages into(kSmall);
            upm_load_counts sums{};
            if (mine.load({.fd = file(),
                           .into = reinterpret_cast<std::byte *>(into.data()),
                           .len = into.size(),
                           .ordinary = true},
                          sums) != static_cast<std::int64_t>(into.size()) ||
                sums.copied != into.size())
                return 2; // it is the only one that asks
        }
        return 0;
    });
    load_until_shared();
    EXPECT_EQ(loaded.copied, 0U);
    EXPECT_NE(made_ever, 0U) << "the second one has it made";
    EXPECT_EQ(in_child([&] {
                  load_until_shared();
                  return loaded.shared == kSmall * page_size() ? 0 : 1;
              }),
              0)
        << "the third one finds it";
}

// At each packet of the talk.
TEST_F(StoreLoad, BrokerDiesAtEachPacket) {
    for (const bool restart : {false, true}) {
        for (int packet = 1;; ++packet) {
            BrokerProcess victim;
            const KillingProxy proxy(
                victim, packet, restart ? KillingProxy::Then::kRestart : KillingProxy::Then::kKill);
            use(proxy.socket());
            const auto body = [&] {
                StoreBackend fresh;
                Reason reason;
                if (fresh.open(reason) != 0)
                    return 0; // it died before there was anything to load
                const Pages into(kPagesOfFile);
                upm_load_counts sums{};
                return loads_by(fresh, into, sums) ? 0 : 1;
            };
            ASSERT_EQ(in_child(body, kPatience), 0) << "packet " << packet;
            if (!proxy.has_killed())
                break;
        }
    }
}

// Library and broker of neighbouring versions: with each that both know, content is made and found.
TEST_F(StoreLoad, EachVersionOfTheProtocol) {
    constexpr int kNever = 1 << 30;
    for (std::uint16_t version = 3; version <= store::kVersion; ++version) {
        BrokerProcess neighbour;
        KillingProxy proxy(neighbour, kNever, KillingProxy::Then::kKill);
        proxy.speak_at_most(version);
        use(proxy.socket());
        const auto body = [&](std::size_t pages, std::uint64_t &made) {
            StoreBackend fresh;
            Reason reason;
            if (fresh.open(reason) != 0)
                return 1;
            // It knows the segments by the memory that maps them.
            std::vector<std::unique_ptr<Pages>> stay;
            for (int i = 0; i < 100; ++i) { // on a busy machine the broker may be late
                const Pages &into = *stay.emplace_back(std::make_unique<Pages>(pages));
                upm_load_counts sums{};
                if (!loads_by(fresh, into, sums))
                    return 2;
                made += sums.made;
                if (sums.shared == into.size())
                    return 0;
                ::usleep(200'000);
            }
            return 3;
        };
        EXPECT_EQ(in_child(
                      [&] {
                          std::uint64_t made = 0;
                          const int ret = body(kPagesOfFile, made);
                          return ret != 0 ? ret : made != 0 ? 0 : 4;
                      },
                      kPatience),
                  0)
            << version;
        // Since version 5 the first one only registers what is small.
        EXPECT_EQ(in_child(
                      [&] {
                          std::uint64_t made = 0;
                          return version < 5 ? body(256, made) : 0;
                      },
                      kPatience),
                  0)
            << version;
    }
}

// It says nothing more from some packet on, and holds the connections open. All waits of a load
// together are no more than 20 ms, times what others make of that: 16 at most. What is counted is
// what was to be waited for, so it does not matter how busy the machine is.
TEST_F(StoreLoad, BrokerFreezesAtEachPacket) {
    constexpr int kOfOpen = 2; // packets of a greeting, which open() waits for
    constexpr int kLoads = 4;
    constexpr std::uint64_t kMostWaitedMs = 20 * 16;
    for (int packet = kOfOpen + 1;; ++packet) {
        BrokerProcess victim;
        const KillingProxy proxy(victim, packet, KillingProxy::Then::kFreeze);
        use(proxy.socket());
        const auto body = [&] {
            StoreBackend fresh;
            Reason reason;
            if (fresh.open(reason) != 0)
                return 1;
            for (int i = 0; i < kLoads; ++i) {
                const Pages into(kPagesOfFile);
                upm_load_counts sums{};
                waited_in_vain = 0;
                if (!loads_by(fresh, into, sums))
                    return 2;
                if (waited_in_vain > kMostWaitedMs)
                    return 3;
            }
            return 0;
        };
        ASSERT_EQ(in_child(body, kPatience), 0) << "packet " << packet;
        if (!proxy.has_killed())
            break;
    }
}

// What somebody holds exists, and is read into as pread(2) does: whoever holds it sees the
// file's bytes there, not what was there before.
TEST_F(StoreLoad, PagesThatAPipeHolds) {
    ASSERT_EQ(open(), 0) << text;
    const auto stays = load_without_copies(); // known content, which is mapped at once
    ASSERT_NE(stays, nullptr);
    int ends[2] = {-1, -1};
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    const Pages into(kPagesOfFile);
    constexpr std::size_t kFirst = 700;
    constexpr std::size_t kHeld = 8; // pages; a pipe takes 16
    std::memset(into.page(kFirst), 'p', kHeld * page_size());
    iovec held{.iov_base = into.page(kFirst), .iov_len = kHeld * page_size()};
    ASSERT_EQ(::vmsplice(ends[1], &held, 1, 0), static_cast<ssize_t>(held.iov_len));
    EXPECT_EQ(load(into), static_cast<std::int64_t>(into.size()));
    EXPECT_TRUE(has_pattern(into, 7));
    std::vector<char> seen(held.iov_len);
    ASSERT_EQ(::read(ends[0], seen.data(), seen.size()), static_cast<ssize_t>(seen.size()));
    EXPECT_EQ(std::memcmp(seen.data(), into.page(kFirst), seen.size()), 0);
    ::close(ends[0]);
    ::close(ends[1]);
}

// A ring of io_uring with one fixed buffer, and one request at a time.
class Ring {
  public:
    explicit Ring(const iovec &buffer) {
        io_uring_params params{};
        fd_ = static_cast<int>(::syscall(SYS_io_uring_setup, 1, &params));
        if (fd_ < 0 || (params.features & IORING_FEAT_SINGLE_MMAP) == 0 ||
            ::syscall(SYS_io_uring_register, fd_, IORING_REGISTER_BUFFERS, &buffer, 1) != 0)
            return;
        size_ =
            std::max<std::size_t>(params.sq_off.array + sizeof(unsigned),
                                  params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe));
        rings_ = static_cast<char *>(map(size_, IORING_OFF_SQ_RING));
        entries_ = static_cast<io_uring_sqe *>(map(sizeof(io_uring_sqe), IORING_OFF_SQES));
        params_ = params;
    }
    Ring(const Ring &) = delete;
    Ring &operator=(const Ring &) = delete;
    ~Ring() {
        if (rings_ != nullptr)
            (void)::munmap(rings_, size_);
        if (entries_ != nullptr)
            (void)::munmap(entries_, sizeof(io_uring_sqe));
        ::close(fd_);
    }
    [[nodiscard]] bool works() const { return rings_ != nullptr && entries_ != nullptr; }
    // Reads or writes the whole buffer by the pages that the ring holds. The bytes, or -errno.
    [[nodiscard]] int run(unsigned char op, int file, const iovec &buffer) const {
        entries_[0] = {};
        entries_[0].opcode = op;
        entries_[0].fd = file;
        entries_[0].addr = reinterpret_cast<std::uint64_t>(buffer.iov_base);
        entries_[0].len = static_cast<unsigned>(buffer.iov_len);
        word(params_.sq_off.array) = 0;
        __atomic_fetch_add(&word(params_.sq_off.tail), 1, __ATOMIC_RELEASE);
        if (::syscall(SYS_io_uring_enter, fd_, 1, 1, IORING_ENTER_GETEVENTS, nullptr, 0) != 1)
            return -errno;
        const unsigned head = word(params_.cq_off.head) & word(params_.cq_off.ring_mask);
        const auto *const done = reinterpret_cast<io_uring_cqe *>(rings_ + params_.cq_off.cqes);
        const int result = done[head].res;
        __atomic_fetch_add(&word(params_.cq_off.head), 1, __ATOMIC_RELEASE);
        return result;
    }

  private:
    [[nodiscard]] void *map(std::size_t size, std::uint64_t at) const {
        void *const memory =
            ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, static_cast<off_t>(at));
        return memory != MAP_FAILED ? memory : nullptr;
    }
    [[nodiscard]] unsigned &word(unsigned at) const {
        return *reinterpret_cast<unsigned *>(rings_ + at);
    }

    int fd_ = -1;
    io_uring_params params_{};
    std::size_t size_ = 0;
    char *rings_ = nullptr;
    io_uring_sqe *entries_ = nullptr;
};

TEST_F(StoreLoad, PagesThatARingHolds) {
    ASSERT_EQ(open(), 0) << text;
    const auto stays = load_without_copies();
    ASSERT_NE(stays, nullptr);
    const Pages into(kPagesOfFile);
    const iovec held{.iov_base = into.page(900), .iov_len = 64 * page_size()};
    const Ring ring(held);
    if (!ring.works())
        GTEST_SKIP() << "no io_uring here";
    EXPECT_EQ(load(into), static_cast<std::int64_t>(into.size()));
    EXPECT_TRUE(has_pattern(into, 7));
    const TempDir dir;
    const int copy = ::open((dir.path() + "/copy").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    ASSERT_EQ(ring.run(IORING_OP_WRITE_FIXED, copy, held), static_cast<int>(held.iov_len));
    std::vector<char> written(held.iov_len);
    ASSERT_EQ(::pread(copy, written.data(), written.size(), 0),
              static_cast<ssize_t>(written.size()));
    EXPECT_EQ(std::memcmp(written.data(), held.iov_base, held.iov_len), 0) << "what was loaded";
    // And what the device writes comes to the program.
    std::fill(written.begin(), written.end(), 'd');
    ASSERT_EQ(::pwrite(copy, written.data(), written.size(), 0),
              static_cast<ssize_t>(written.size()));
    ASSERT_EQ(ring.run(IORING_OP_READ_FIXED, copy, held), static_cast<int>(held.iov_len));
    EXPECT_EQ(std::memcmp(written.data(), held.iov_base, held.iov_len), 0) << "what was read";
    ::close(copy);
}

// Whoever watches for pages that are missing is asked for each, and no page comes in another
// way.
TEST_F(StoreLoad, PagesThatSomebodyWatches) {
    ASSERT_EQ(open(), 0) << text;
    const auto stays = load_without_copies();
    ASSERT_NE(stays, nullptr);
    const Pages into(kPagesOfFile);
    const int watcher = static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
    uffdio_api api{.api = UFFD_API, .features = 0, .ioctls = 0};
    uffdio_register part{};
    part.range = {.start = reinterpret_cast<std::uint64_t>(into.page(1000)),
                  .len = 50 * page_size()};
    part.mode = UFFDIO_REGISTER_MODE_MISSING;
    if (watcher < 0 || ::ioctl(watcher, UFFDIO_API, &api) != 0 ||
        ::ioctl(watcher, UFFDIO_REGISTER, &part) != 0) {
        ::close(watcher);
        GTEST_SKIP() << "no userfaultfd here";
    }
    std::atomic<bool> over{false};
    std::atomic<int> asked{0};
    std::thread server([&] {
        while (!over) {
            pollfd event{.fd = watcher, .events = POLLIN, .revents = 0};
            uffd_msg message{};
            if (::poll(&event, 1, 10) <= 0 ||
                ::read(watcher, &message, sizeof(message)) != sizeof(message))
                continue;
            ++asked;
            uffdio_zeropage zero{};
            zero.range = {.start = message.arg.pagefault.address & ~(page_size() - 1),
                          .len = page_size()};
            EXPECT_EQ(::ioctl(watcher, UFFDIO_ZEROPAGE, &zero), 0);
        }
    });
    upm_load_counts sums{};
    EXPECT_EQ(
        backend.load(
            {.fd = file(), .into = reinterpret_cast<std::byte *>(into.data()), .len = into.size()},
            sums),
        static_cast<std::int64_t>(into.size()));
    EXPECT_TRUE(has_pattern(into, 7));
    over = true;
    server.join();
    EXPECT_EQ(asked, 50);
    ::close(watcher);
}

// A frozen container's broker answers nobody. Its clients read plainly, and do not ask
// again with each load.
TEST_F(StoreLoad, StoppedBrokerIsLeftAlone) {
    ASSERT_EQ(open(), 0) << text;
    ASSERT_EQ(::kill(broker.pid(), SIGSTOP), 0);
    std::uint64_t shortest = ~std::uint64_t{0};
    for (int i = 0; i < 5; ++i) {
        const std::uint64_t start = now_ms();
        expect_whole_file();
        EXPECT_EQ(loaded.shared + loaded.made, 0U);
        shortest = std::min(shortest, now_ms() - start);
    }
    EXPECT_LT(shortest, 5'000U) << "a request waits for five seconds, a load must not";
    ASSERT_EQ(::kill(broker.pid(), SIGCONT), 0);
}

// Another connection of this process publishes `count` pages under the hashes that pages
// of the file have from `page` on.
class Publisher {
  public:
    explicit Publisher(const std::string &socket) {
        store::SocketPath path;
        (void)socket.copy(path.text, sizeof(path.text) - 1);
        EXPECT_EQ(connection_.open(path, {}), 0);
    }
    void publish(const Pages &content, std::size_t page, const Pages &bytes) {
        std::vector<std::uint64_t> hashes(bytes.size() / page_size());
        for (std::size_t i = 0; i < hashes.size(); ++i)
            hashes[i] = store::hash_bytes(content.page(page + i), page_size(), connection_.seed());
        std::vector<std::byte> buffer(store::kMaxPacket);
        std::uint32_t segment = 0;
        const int fd = make_segment(bytes.data(), bytes.size());
        EXPECT_EQ(connection_.publish(fd, hashes, segment, buffer), 0);
        ::close(fd);
    }
    Publisher(const Publisher &) = delete;
    Publisher &operator=(const Publisher &) = delete;
    ~Publisher() { connection_.close(); }

  private:
    store::Connection connection_;
};

// Somebody publishes other bytes for the same hashes.
TEST_F(StoreLoad, LyingSegmentsAreNeverMapped) {
    ASSERT_EQ(open(), 0) << text;
    const Pages content(kPagesOfFile);
    fill_pattern(content, 7);
    const Pages other(512);
    fill_pattern(other, 8);
    Publisher liar(broker.socket());
    liar.publish(content, 0, other);
    expect_whole_file();
    EXPECT_GE(loaded.copied, 4U * 64 * page_size()) << "what was compared, and is not equal";
}

// What is found first lies nearer to its segment's beginning than to that of the window.
TEST_F(StoreLoad, SegmentThatBeginsWithinTheSample) {
    ASSERT_EQ(open(), 0) << text;
    const Pages content(kPagesOfFile);
    fill_pattern(content, 7);
    for (const std::size_t page : {1U, 5U, 15U}) {
        Publisher publisher(broker.socket());
        const Pages part(300);
        std::memcpy(part.data(), content.page(page), part.size());
        publisher.publish(content, page, part);
        expect_whole_file();
        expect_whole_file();
    }
}

// Files of one kind often begin alike. Each is shared as a whole, whichever came first.
TEST_F(StoreLoad, FilesThatBeginAlike) {
    ASSERT_EQ(open(), 0) << text;
    const TempDir dir;
    std::vector<std::unique_ptr<Pages>> stay;
    constexpr std::size_t kAlike = 512; // pages
    for (std::uint64_t salt = 20; salt < 23; ++salt) {
        const Pages content(kPagesOfFile);
        fill_pattern(content, salt);
        const Pages beginning(kAlike);
        fill_pattern(beginning, 7);
        std::memcpy(content.data(), beginning.data(), beginning.size());
        dir.write(std::to_string(salt), {content.data(), content.size()});
        const int fd = ::open((dir.path() + "/" + std::to_string(salt)).c_str(), O_RDONLY);
        // The first one has it made, the second one shares all of it.
        bool shared = false;
        for (int i = 0; i < 100 && !shared; ++i) {
            stay.push_back(std::make_unique<Pages>(kPagesOfFile));
            EXPECT_EQ(load_from(fd, *stay.back()), static_cast<std::int64_t>(content.size()));
            EXPECT_EQ(std::memcmp(stay.back()->data(), content.data(), content.size()), 0);
            shared = loaded.shared == content.size();
            if (loaded.copied != 0)
                ::usleep(200'000); // the broker was late
        }
        EXPECT_TRUE(shared) << salt;
        ::close(fd);
    }
}

// They are equal where a sample looks, and differ elsewhere.
TEST_F(StoreLoad, FilesThatAreHardlyAlike) {
    ASSERT_EQ(open(), 0) << text;
    const auto stays = load_without_copies();
    ASSERT_NE(stays, nullptr);
    Pages content(kPagesOfFile);
    fill_pattern(content, 7);
    for (std::size_t page = 100; page < 4000; page += 3)
        if (page % 509 > 10)
            content.page(page)[8] ^= 1;
    const TempDir dir;
    dir.write("other", {content.data(), content.size()});
    const int fd = ::open((dir.path() + "/other").c_str(), O_RDONLY);
    for (int i = 0; i < 4; ++i) {
        const Pages into(kPagesOfFile);
        EXPECT_EQ(load_from(fd, into), static_cast<std::int64_t>(into.size()));
        EXPECT_EQ(std::memcmp(into.data(), content.data(), content.size()), 0);
    }
    ::close(fd);
}

TEST_F(StoreLoad, FileThatEndsMeanwhile) {
    ASSERT_EQ(open(), 0) << text;
    expect_whole_file();
    const auto size = static_cast<off_t>(kPagesOfFile * page_size());
    std::atomic<bool> stop{false};
    std::thread changer([&] {
        while (!stop) {
            EXPECT_EQ(::ftruncate(file(), size / 3 + 100), 0);
            EXPECT_EQ(::ftruncate(file(), size), 0);
        }
    });
    for (int i = 0; i < 20; ++i) {
        const Pages into(kPagesOfFile);
        const std::int64_t got = load(into);
        EXPECT_GE(got, 0);
        // What was there, or the zeros of a file that grew.
        const Pages expected(kPagesOfFile);
        fill_pattern(expected, 7);
        for (std::int64_t at = 0; at < got; ++at) {
            ASSERT_TRUE(into.data()[at] == expected.data()[at] || into.data()[at] == 0) << at;
        }
    }
    stop = true;
    changer.join();
}

TEST_F(StoreLoad, ManyThreadsOnOneDescriptor) {
    ASSERT_EQ(open(), 0) << text;
    std::vector<std::thread> threads;
    std::atomic<int> wrong{0};
    for (int i = 0; i < 6; ++i) {
        threads.emplace_back([&] {
            for (int round = 0; round < 3; ++round) {
                const Pages into(kPagesOfFile);
                upm_load_counts sums{};
                const std::int64_t got =
                    backend.load({.fd = file(),
                                  .into = reinterpret_cast<std::byte *>(into.data()),
                                  .len = into.size(),
                                  .ordinary = true},
                                 sums);
                wrong += got != static_cast<std::int64_t>(into.size()) || !has_pattern(into, 7);
            }
        });
    }
    for (std::thread &thread : threads)
        thread.join();
    EXPECT_EQ(wrong, 0);
}

// A descriptor that is none of a file that can be shared.
TEST_F(StoreLoad, KindsOfFiles) {
    EXPECT_EQ(sharable_size(file()), kPagesOfFile * page_size());
    for (const char *name :
         {"/proc/self/maps", "/sys/kernel/mm/transparent_hugepage/enabled", "/dev/zero", "/"}) {
        const int fd = ::open(name, O_RDONLY | O_CLOEXEC);
        EXPECT_EQ(sharable_size(fd), 0U) << name;
        ::close(fd);
    }
    int ends[2] = {-1, -1};
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    EXPECT_EQ(sharable_size(ends[0]), 0U);
    ::close(ends[0]);
    ::close(ends[1]);
    EXPECT_EQ(sharable_size(-1), 0U);
}

} // namespace

} // namespace upm::test
