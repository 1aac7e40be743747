// SPDX-License-Identifier: MIT
//
// What goes wrong around a program: its bytes stay right, and it is told.
#include "libupm/store/segment.hpp"
#include "tests/libupm/store/fake_broker.hpp"
#include "tests/libupm/store/fixture.hpp"

#include <cerrno>
#include <csignal>
#include <dlfcn.h>
#include <fcntl.h>
#include <functional>
#include <gmock/gmock.h>
#include <string_view>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace {

// Stand in for a file system without room: the test's own functions come before
// those of libc.
int pwrite_error = 0;
int fallocate_error = 0;
std::function<void(int fd)> before_pwrite; // of a segment's pages, which are frozen

} // namespace

std::function<void()> upm::test::while_allocating;

extern "C" ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    using Write = ssize_t (*)(int, const void *, size_t, off_t);
    static const auto real = reinterpret_cast<Write>(::dlsym(RTLD_NEXT, "pwrite"));
    if (pwrite_error != 0) {
        errno = pwrite_error;
        return -1;
    }
    if (before_pwrite)
        before_pwrite(fd);
    return real(fd, data, size, offset);
}

extern "C" int fallocate(int fd, int mode, off_t offset, off_t size) {
    using Allocate = int (*)(int, int, off_t, off_t);
    static const auto real = reinterpret_cast<Allocate>(::dlsym(RTLD_NEXT, "fallocate"));
    if (upm::test::while_allocating)
        upm::test::while_allocating();
    if (fallocate_error != 0) {
        errno = fallocate_error;
        return -1;
    }
    return real(fd, mode, offset, size);
}

namespace upm::test {

namespace {

using store::Op;

class StoreFailure : public StoreTest {
  protected:
    [[nodiscard]] store::SocketPath path() const {
        store::SocketPath path;
        (void)broker.socket().copy(path.text, sizeof(path.text) - 1);
        return path;
    }
};

// At each step of the protocol: no byte changes, and the call reports it.
TEST_F(StoreFailure, BrokerDiesAtEachStep) {
    for (const Op step : {Op::kLookup, Op::kGet, Op::kPublish}) {
        const FakeBroker fake([&](Op op, std::vector<std::byte> &reply, int & /*fd*/, bool &die) {
            die = op == step;
            if (op == Op::kLookup)
                reply = places(8, step == Op::kGet ? 1 : store::kReserved);
        });
        use(fake.socket());
        const Pages pages(8);
        fill_pattern(pages, 1);
        ASSERT_EQ(open(), 0) << text;
        EXPECT_EQ(advise(pages), -ECONNRESET) << static_cast<int>(step);
        EXPECT_TRUE(has_pattern(pages, 1));
        EXPECT_EQ(counts.merged + counts.inserted, 0U);
    }
}

TEST_F(StoreFailure, KilledBrokerIsReplaced) {
    const Pages pages(100);
    fill_pattern(pages, 1);
    ASSERT_EQ(open(), 0) << text;
    ASSERT_EQ(advise(pages), 0);
    (void)broker.stop(SIGKILL);
    broker.start();
    EXPECT_TRUE(has_pattern(pages, 1));
    const Pages more(100);
    fill_pattern(more, 1);
    EXPECT_EQ(advise(more), 0) << "the call finds the new one by itself";
    EXPECT_EQ(counts.inserted, 100U) << "which knows nothing yet";
    EXPECT_TRUE(has_pattern(more, 1));
}

TEST_F(StoreFailure, SigtermEndsItCleanly) {
    const int status = broker.stop(SIGTERM);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    EXPECT_NE(::access(broker.socket().c_str(), F_OK), 0) << "its socket must go";
    broker.start();
    EXPECT_EQ(open(), 0) << text;
}

// A broker that sends what is no sealed memfd, or not as large as it says.
TEST_F(StoreFailure, WrongSegmentsAreNeverMapped) {
    const Pages pages(8);
    fill_pattern(pages, 1);
    const auto size = static_cast<off_t>(pages.size());
    const std::function<int()> makers[] = {
        [&] { // not sealed at all
            const int fd = ::memfd_create("x", MFD_CLOEXEC | MFD_ALLOW_SEALING);
            return ::pwrite(fd, pages.data(), pages.size(), 0) == size ? fd : -1;
        },
        [&] { // its size is sealed, its content is not
            const int fd = ::memfd_create("x", MFD_CLOEXEC | MFD_ALLOW_SEALING);
            const bool good = ::pwrite(fd, pages.data(), pages.size(), 0) == size &&
                              ::fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK) == 0;
            return good ? fd : -1;
        },
        [&] { // its content is sealed, its size is not
            const int fd = ::memfd_create("x", MFD_CLOEXEC | MFD_ALLOW_SEALING);
            const bool good = ::pwrite(fd, pages.data(), pages.size(), 0) == size &&
                              ::fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW) == 0;
            return good ? fd : -1;
        },
        [&] { // a page too short
            return make_segment(pages.data(), pages.size() - page_size());
        },
        [&] { // sealed, but a hole
            const int fd = ::memfd_create("x", MFD_CLOEXEC | MFD_ALLOW_SEALING);
            const bool good =
                ::ftruncate(fd, size) == 0 &&
                ::fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_WRITE) == 0;
            return good ? fd : -1;
        },
        [&] { return ::open("/dev/zero", O_RDWR | O_CLOEXEC); },
        [&] { return -1; },
    };
    for (const auto &make : makers) {
        for (const bool attached : {false, true}) { // to the answer to a look-up
            const FakeBroker fake(
                [&](Op op, std::vector<std::byte> &reply, int &fd, bool & /*die*/) {
                    if (op == Op::kLookup) {
                        reply = places(8, 1, attached ? 8 : 0);
                        fd = attached ? make() : -1;
                        return;
                    }
                    fd = make();
                    reply = bytes(store::GetReply{.reply = {}, .segment = 1, .pages = 8});
                });
            use(fake.socket());
            ASSERT_EQ(open(), 0) << text;
            EXPECT_EQ(advise(pages), -EPROTO) << attached;
            EXPECT_EQ(counts.merged, 0U);
            EXPECT_TRUE(has_pattern(pages, 1));
        }
    }
}

// An answer to another request, such as one that came too late, is none to this one.
TEST_F(StoreFailure, AnswersToOtherRequests) {
    const FakeBroker fake([&](Op op, std::vector<std::byte> &reply, int & /*fd*/, bool & /*die*/) {
        reply = op == Op::kLookup ? places(8, store::kReserved) : bytes(store::ReplyHeader{});
    });
    use(fake.socket());
    const Pages pages(8);
    fill_pattern(pages, 1);
    ASSERT_EQ(open(), 0) << text;
    fake.other_numbers = true;
    EXPECT_EQ(advise(pages), -EPROTO);
    EXPECT_TRUE(has_pattern(pages, 1));
}

// What a call has open for a moment is no other program's.
TEST_F(StoreFailure, ProgramsThatAreStartedMeanwhileGetNothing) {
    const Pages pages(20);
    fill_pattern(pages, 1);
    ASSERT_EQ(open(), 0) << text;
    int looks = 0;
    before_pwrite = [&](int /*fd*/) {
        ++looks;
        for (int fd = STDERR_FILENO + 1; fd < 1024; ++fd) {
            char name[256] = {};
            const std::string path = "/proc/self/fd/" + std::to_string(fd);
            if (::readlink(path.c_str(), name, sizeof(name) - 1) < 0)
                continue;
            const std::string_view what(name);
            const bool ours = what.find("upm-store") != std::string_view::npos ||
                              what.find("userfaultfd") != std::string_view::npos ||
                              what.starts_with("socket:") || what.starts_with("/proc/");
            if (ours && ::fcntl(fd, F_GETFD) != FD_CLOEXEC)
                ADD_FAILURE() << what;
        }
    };
    const int ret = advise(pages);
    before_pwrite = nullptr;
    EXPECT_EQ(ret, 0);
    EXPECT_GT(looks, 0);
}

// A child that is forked when pages are next written into a segment, behind the back of
// whoever wants to know of forks, and lives as long as this.
class StayingChild {
  public:
    StayingChild() {
        before_pwrite = [this](int /*fd*/) {
            pid_t &pid = pid_; // this function object ends here
            before_pwrite = nullptr;
            pid = static_cast<pid_t>(::syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, 0));
            while (pid == 0)
                (void)::pause();
        };
    }
    ~StayingChild() {
        before_pwrite = nullptr;
        if (!lives())
            return;
        (void)::kill(pid_, SIGKILL);
        (void)::waitpid(pid_, nullptr, 0);
    }
    StayingChild(const StayingChild &) = delete;
    StayingChild &operator=(const StayingChild &) = delete;

    [[nodiscard]] bool lives() const { return pid_ > 0; }

  private:
    pid_t pid_ = -1;
};

// A child that lives on holds copies of all descriptors, those that froze memory included.
TEST_F(StoreFailure, ChildThatIsForkedDuringACallAndStays) {
    const Pages pages(20);
    fill_pattern(pages, 1);
    ASSERT_EQ(open(), 0) << text;
    StayingChild child;
    EXPECT_EQ(advise(pages), 0);
    ASSERT_TRUE(child.lives());
    EXPECT_EQ(counts.inserted, 20U);
    fill_pattern(pages, 2);
    EXPECT_EQ(advise(pages), 0);
    EXPECT_EQ(counts.skipped[UPM_SKIPPED_UFFD], 0U);
    EXPECT_EQ(unmerge(pages), 0);
    EXPECT_TRUE(has_pattern(pages, 2));
    fill_pattern(pages, 3);
    EXPECT_TRUE(has_pattern(pages, 3));
}

// Nor does it keep what is mapped for writing into huge pages: that could not be sealed.
TEST_F(StoreFailure, ChildThatIsForkedWhileHugePagesAreWritten) {
    constexpr std::size_t kHugeRuns = 3;
    const Pages pages(kHugeRuns * kHugePage / page_size());
    fill_pattern(pages, 1);
    ASSERT_EQ(open(), 0) << text;
    StayingChild child;
    EXPECT_EQ(advise(pages), 0);
    ASSERT_TRUE(child.lives());
    EXPECT_EQ(counts.skipped[UPM_SKIPPED_BUSY], 0U);
    EXPECT_EQ(counts.inserted, pages.size() / page_size());
    EXPECT_TRUE(has_pattern(pages, 1));
}

// What somebody else has mapped for writing cannot be sealed: it stays private, and the call
// is none the worse.
TEST_F(StoreFailure, ASegmentThatCannotBeSealed) {
    const Pages pages(20);
    fill_pattern(pages, 1);
    ASSERT_EQ(open(), 0) << text;
    void *other = MAP_FAILED;
    before_pwrite = [&](int fd) {
        before_pwrite = nullptr;
        other = ::mmap(nullptr, page_size(), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    };
    EXPECT_EQ(advise(pages), 0);
    before_pwrite = nullptr;
    ASSERT_NE(other, MAP_FAILED);
    EXPECT_EQ(counts.skipped[UPM_SKIPPED_BUSY], 20U);
    EXPECT_TRUE(has_pattern(pages, 1));
    (void)::munmap(other, page_size());
    EXPECT_EQ(advise(pages), 0);
    EXPECT_EQ(counts.inserted, 20U);
}

TEST_F(StoreFailure, NonsenseFromTheBroker) {
    for (const std::size_t size : {std::size_t{1}, sizeof(store::ReplyHeader), std::size_t{5000}}) {
        const FakeBroker fake([&](Op /*op*/, std::vector<std::byte> &reply, int & /*fd*/,
                                  bool & /*die*/) { reply.assign(size, std::byte{0x5a}); });
        use(fake.socket());
        const Pages pages(8);
        fill_pattern(pages, 1);
        ASSERT_EQ(open(), 0) << text;
        EXPECT_EQ(advise(pages), -EPROTO) << size;
        EXPECT_TRUE(has_pattern(pages, 1));
    }
}

// Claims the hashes of our pages for other content.
TEST_F(StoreFailure, LyingPublisher) {
    const Pages pages(8);
    fill_pattern(pages, 1);
    const Pages other(8);
    fill_pattern(other, 2);
    const FakeBroker fake([&](Op op, std::vector<std::byte> &reply, int &fd, bool & /*die*/) {
        if (op == Op::kLookup) {
            reply = places(8, 1);
            return;
        }
        fd = make_segment(other.data(), other.size());
        reply = bytes(store::GetReply{.reply = {}, .segment = 1, .pages = 8});
    });
    use(fake.socket());
    ASSERT_EQ(open(), 0) << text;
    EXPECT_EQ(advise(pages), 0);
    EXPECT_EQ(counts.skipped[UPM_SKIPPED_COLLISION], 8U);
    EXPECT_TRUE(has_pattern(pages, 1));
}

// What real clients may not do to the real broker.
TEST_F(StoreFailure, BrokerRefusesBadSegments) {
    store::Connection client;
    ASSERT_EQ(client.open(path(), {}), 0);
    std::vector<std::byte> buffer(store::kMaxPacket);
    const std::uint64_t hashes[2] = {1, 2};
    std::uint32_t segment = 0;
    const Pages pages(2);
    pages.fill('x');
    const int good = make_segment(pages.data(), pages.size());
    ASSERT_GE(good, 0);
    const int open_one = ::memfd_create("x", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    ASSERT_EQ(::ftruncate(open_one, static_cast<off_t>(pages.size())), 0);
    EXPECT_EQ(client.publish(open_one, hashes, segment, buffer), -EPERM);
    EXPECT_EQ(client.publish(good, {hashes, 1}, segment, buffer), -EINVAL) << "truncated";
    const int file = ::open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    EXPECT_EQ(client.publish(file, hashes, segment, buffer), -EINVAL) << "no memfd";
    (void)::close(file);
    EXPECT_EQ(client.publish(-1, hashes, segment, buffer), -EMFILE) << "none came along";
    EXPECT_EQ(client.publish(good, hashes, segment, buffer), 0);
    store::Place found[2];
    EXPECT_EQ(client.lookup(hashes, false, found, buffer), 0);
    EXPECT_EQ(found[1].segment, segment);
    (void)::close(good);
    (void)::close(open_one);
}

TEST_F(StoreFailure, GarbageAndOversizedPackets) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    (void)broker.socket().copy(address.sun_path, sizeof(address.sun_path) - 1);
    for (const std::size_t size : {std::size_t{1}, std::size_t{16}, std::size_t{40},
                                   store::kMaxPacket, store::kMaxPacket + 1000}) {
        const int fd = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        ASSERT_EQ(::connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof(address)), 0);
        const std::vector<char> garbage(size, 'g');
        ASSERT_EQ(::send(fd, garbage.data(), size, MSG_NOSIGNAL), static_cast<ssize_t>(size));
        char byte = 0;
        EXPECT_EQ(::recv(fd, &byte, 1, 0), 0) << "it must hang up: " << size;
        (void)::close(fd);
    }
    EXPECT_EQ(open(), 0) << "and serve others: " << text;
}

TEST_F(StoreFailure, ReservationEndsWithItsHolder) {
    std::vector<std::byte> buffer(store::kMaxPacket);
    const std::uint64_t hashes[1] = {42};
    store::Place place[1];
    store::Connection holder;
    ASSERT_EQ(holder.open(path(), {}), 0);
    ASSERT_EQ(holder.lookup(hashes, true, place, buffer), 0);
    ASSERT_EQ(place[0].segment, store::kReserved);
    std::thread death([&] {
        (void)::usleep(50'000);
        holder.close();
    });
    store::Connection heir;
    EXPECT_EQ(heir.open(path(), {}), 0);
    store::Place inherited[1];
    std::vector<std::byte> other(store::kMaxPacket);
    EXPECT_EQ(heir.lookup(hashes, true, inherited, other), 0) << "waits, and gets it";
    EXPECT_EQ(inherited[0].segment, store::kReserved);
    death.join();
    heir.close();
}

// Somebody else's socket in our place learns nothing: no packet is sent to it.
TEST_F(StoreFailure, SquattedSocket) {
    if (::geteuid() != 0)
        GTEST_SKIP() << "needs root, to be another user";
    const TempDir dir;
    ASSERT_EQ(::chmod(dir.path().c_str(), 0777), 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const std::string squatted = dir.path() + "/s";
    (void)squatted.copy(address.sun_path, sizeof(address.sun_path) - 1);
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    const pid_t child = ::fork();
    if (child == 0) {
        ::alarm(20);
        const int fd = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        if (::setuid(65534) != 0 ||
            ::bind(fd, reinterpret_cast<sockaddr *>(&address), sizeof(address)) != 0 ||
            ::listen(fd, 1) != 0 || ::write(ends[1], "l", 1) != 1)
            ::_exit(2);
        const int client = ::accept(fd, nullptr, nullptr);
        char byte = 0;
        ::_exit(::recv(client, &byte, 1, 0) == 0 ? 0 : 1);
    }
    char word = 0;
    ASSERT_EQ(::read(ends[0], &word, 1), 1);
    use(squatted);
    EXPECT_EQ(open(), -EACCES);
    EXPECT_THAT(text, testing::HasSubstr("another user"));
    int status = -1;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    (void)::close(ends[0]);
    (void)::close(ends[1]);
}

TEST_F(StoreFailure, NoRoomForASegment) {
    const Pages pages(20);
    fill_pattern(pages, 1);
    ASSERT_EQ(open(), 0) << text;
    for (const int error : {ENOSPC, ENOMEM, EFAULT}) {
        (error == EFAULT ? pwrite_error : fallocate_error) = error;
        EXPECT_EQ(advise(pages), -error);
        pwrite_error = fallocate_error = 0;
        EXPECT_EQ(counts.skipped[UPM_SKIPPED_NOMEM], 20U);
        EXPECT_TRUE(has_pattern(pages, 1));
    }
    EXPECT_EQ(advise(pages), 0);
    EXPECT_EQ(counts.inserted, 20U);
}

// Others would wait for it until its time is over.
TEST_F(StoreFailure, WhatThereIsNoRoomForIsGivenFree) {
    int released = 0;
    const FakeBroker *asked = nullptr;
    const FakeBroker fake([&](Op op, std::vector<std::byte> &reply, int & /*fd*/, bool & /*die*/) {
        released += op == Op::kRelease ? 1 : 0;
        reply = op == Op::kLookup ? places(asked->named(), store::kReserved)
                                  : bytes(store::ReplyHeader{});
    });
    asked = &fake;
    use(fake.socket());
    const Pages pages(20);
    fill_pattern(pages, 1);
    ASSERT_EQ(open(), 0) << text;
    fallocate_error = ENOSPC;
    EXPECT_EQ(advise(pages), -ENOSPC);
    fallocate_error = 0;
    EXPECT_EQ(released, 1);
    EXPECT_TRUE(has_pattern(pages, 1));
}

TEST_F(StoreFailure, NoDescriptorLeft) {
    const Pages pages(20);
    fill_pattern(pages, 1);
    ASSERT_EQ(open(), 0) << text;
    EXPECT_EQ(in_child([&] {
                  if (advise(pages) != 0) // opens the child's own connection
                      return 1;
                  fill_pattern(pages, 2);
                  rlimit none{.rlim_cur = 3, .rlim_max = 3};
                  if (::setrlimit(RLIMIT_NOFILE, &none) != 0)
                      return 2;
                  return advise(pages) == -EMFILE && has_pattern(pages, 2) ? 0 : 3;
              }),
              0);
}

// Else the kernel would send SIGXFSZ, which ends a program.
TEST_F(StoreFailure, FileSizeLimit) {
    const Pages pages(20);
    ASSERT_EQ(open(), 0) << text;
    EXPECT_EQ(in_child([&] {
                  fill_pattern(pages, 1);
                  rlimit small{.rlim_cur = 4096, .rlim_max = 4096};
                  if (::setrlimit(RLIMIT_FSIZE, &small) != 0)
                      return 1;
                  return advise(pages) == -EFBIG && has_pattern(pages, 1) ? 0 : 2;
              }),
              0);
}

TEST_F(StoreFailure, QuotaIsALimit) {
    (void)broker.stop(SIGTERM);
    const BrokerProcess small({"--quota", "1"});
    use(small.socket());
    const Pages pages(1000);
    fill_pattern(pages, 1);
    ASSERT_EQ(open(), 0) << text;
    EXPECT_EQ(advise(pages), 0);
    EXPECT_EQ(counts.inserted, 1048576 / page_size());
    EXPECT_EQ(counts.skipped[UPM_SKIPPED_LIMIT], 1000 - 1048576 / page_size());
    EXPECT_TRUE(has_pattern(pages, 1));
}

// No machine that runs tests has less than a hundredth of its memory free.
TEST_F(StoreFailure, NothingNewWhileMemoryIsPlenty) {
    (void)broker.stop(SIGTERM);
    const BrokerProcess waiting({"--start-below-free", "1"});
    use(waiting.socket());
    const Pages pages(16);
    fill_pattern(pages, 1);
    ASSERT_EQ(open(), 0) << text;
    EXPECT_EQ(advise(pages), 0);
    EXPECT_EQ(counts.inserted, 0U);
    EXPECT_EQ(counts.skipped[UPM_SKIPPED_LIMIT], 16U);
    EXPECT_TRUE(has_pattern(pages, 1));
    EXPECT_THROW(const BrokerProcess wrong({"--start-below-free", "0"}), std::runtime_error);
    EXPECT_THROW(const BrokerProcess wrong({"--start-below-free", "101"}), std::runtime_error);
}

TEST_F(StoreFailure, AnotherUserGetsNothing) {
    if (::geteuid() != 0)
        GTEST_SKIP() << "needs root, to be another user";
    (void)broker.stop(SIGTERM);
    const BrokerProcess open_to_all({"--mode", "0666"});
    ASSERT_EQ(::chmod(open_to_all.folder().path().c_str(), 0755), 0);
    use(open_to_all.socket());
    store::SocketPath path;
    (void)open_to_all.socket().copy(path.text, sizeof(path.text) - 1);
    std::vector<std::byte> buffer(store::kMaxPacket);
    const std::uint64_t hashes[1] = {99};
    std::uint32_t segment = 0;
    const Pages page(1);
    page.fill('x');
    const int fd = make_segment(page.data(), page.size());
    store::Connection mine;
    ASSERT_EQ(mine.open(path, {}), 0);
    ASSERT_EQ(mine.publish(fd, hashes, segment, buffer), 0);
    (void)::close(fd);
    const auto ask = [&](const store::DomainKey &domain) {
        store::Connection client;
        store::Place place[1];
        int got = -1;
        std::uint32_t pages = 0;
        if (client.open(path, domain) != 0 || client.lookup(hashes, false, place, buffer) != 0)
            return 1;
        if (place[0].segment != store::kUnknown || client.seed() == mine.seed())
            return 2;
        return client.get(segment, got, pages) == -ENOENT && got < 0 ? 0 : 3;
    };
    EXPECT_EQ(in_child([&] { return ::setuid(65534) == 0 ? ask({}) : 9; }), 0);
    EXPECT_EQ(ask({.named = true, .key = {1, 2, 3}}), 0) << "another domain of the same user";
}

// One inserts, the others wait for it: not 64 copies of one model.
TEST_F(StoreFailure, SixtyFourAtOncePublishOneCopy) {
    constexpr int kClients = 64;
    constexpr std::size_t kPages = 256;
    int go[2];
    int done[2];
    ASSERT_EQ(::pipe2(go, O_CLOEXEC), 0);
    ASSERT_EQ(::pipe2(done, O_CLOEXEC), 0);
    std::vector<pid_t> children;
    for (int i = 0; i < kClients; ++i) {
        const pid_t child = ::fork();
        if (child == 0) {
            ::alarm(100);
            const Pages pages(kPages);
            fill_pattern(pages, 1);
            char word = 0;
            (void)!::read(go[0], &word, 1); // until all may start
            word = open() == 0 && advise(pages) == 0 && has_pattern(pages, 1) &&
                           counts.merged + counts.inserted == kPages
                       ? 'g'
                       : 'b';
            (void)!::write(done[1], &word, 1);
            for (;;)
                ::pause(); // what nobody maps would go
        }
        children.push_back(child);
    }
    const std::string start(kClients, 's');
    ASSERT_EQ(::write(go[1], start.data(), start.size()), kClients);
    for (int i = 0; i < kClients; ++i) {
        char word = 0;
        ASSERT_EQ(::read(done[0], &word, 1), 1);
        EXPECT_EQ(word, 'g');
    }
    ASSERT_EQ(open(), 0) << text;
    struct upm_stats stats {};
    ASSERT_EQ(backend.stats(-1, stats), 0);
    EXPECT_EQ(stats.pages_shared + stats.pages_unused, kPages);
    for (const pid_t child : children) {
        (void)::kill(child, SIGKILL);
        ASSERT_EQ(::waitpid(child, nullptr, 0), child);
    }
    for (const int fd : {go[0], go[1], done[0], done[1]})
        (void)::close(fd);
}

} // namespace

} // namespace upm::test
