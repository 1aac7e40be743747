// SPDX-License-Identifier: MIT
//
// The kernel, devices and other processes read and write merged memory too, by ways
// that do not fault as a program's own stores do.
#include "tests/kmod/support/actor.hpp"
#include "tests/kmod/support/slow_file.hpp"

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

namespace upm::test {

namespace {

class IoOps : public PairTest {
  protected:
    // The offset that all these write to: in the middle of a page, over its end.
    static constexpr std::size_t kOffset = 6 * kPage - 40;
    static constexpr std::array<std::uint64_t, 10> kWords = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};

    // What somebody else wrote into the memory of the first.
    void note_words() {
        a().call(+[] { std::memcpy(region().model(kOffset), kWords.data(), sizeof(kWords)); });
    }
};
UPM_TEST_ALL_KINDS(IoOps);

// read(2) from a pipe, a file and a socket into merged memory.
TEST_P(IoOps, ReadInto) {
    a().allow_writes();
    a().call(+[] {
        Region &r = region();
        std::array<int, 2> ends{};
        must(::pipe2(ends.data(), O_CLOEXEC), "pipe2");
        ASSERT_EQ(::write(ends[1], kWords.data(), sizeof(kWords)), 80);
        ASSERT_EQ(::read(ends[0], r.base() + kOffset, sizeof(kWords)), 80);
        std::memcpy(r.model(kOffset), kWords.data(), sizeof(kWords));
        ::close(ends[0]);
        ::close(ends[1]);

        const Pattern pattern{Content::kDistinct, fresh_seed()};
        const Fd file = temporary_file(pattern, 3);
        ASSERT_EQ(::pread(file.get(), r.page(10), 3 * kPage, 0), static_cast<ssize_t>(3 * kPage));
        for (std::size_t i = 0; i < 3; i++)
            pattern.fill(i, r.model((10 + i) * kPage));

        must(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), "socketpair");
        ASSERT_EQ(::send(ends[1], kWords.data(), sizeof(kWords), 0), 80);
        ASSERT_EQ(::recv(ends[0], r.page(20), sizeof(kWords), 0), 80);
        std::memcpy(r.model(20 * kPage), kWords.data(), sizeof(kWords));
        ::close(ends[0]);
        ::close(ends[1]);
        r.check();
        const Advice advice = device().advise(r.base(), r.len());
        EXPECT_EQ(advice.done() + advice.skipped(UPM_SKIP_FILE), r.pages());
        EXPECT_EQ(advice.skipped(UPM_SKIP_FILE) != 0, of_file(r.kind()));
    });
    check_both();
}

// write(2) of merged memory, to a file and through a pipe.
TEST_P(IoOps, WriteFrom) {
    a().call(+[] {
        Region &r = region();
        const Fd file = temporary_file();
        ASSERT_EQ(::pwrite(file.get(), r.base(), r.len(), 0), static_cast<ssize_t>(r.len()));
        std::vector<std::byte> got(r.len());
        ASSERT_EQ(::pread(file.get(), got.data(), got.size(), 0), static_cast<ssize_t>(r.len()));
        EXPECT_EQ(std::memcmp(got.data(), r.model(0), got.size()), 0);
        std::array<int, 2> ends{};
        must(::pipe2(ends.data(), O_CLOEXEC), "pipe2");
        ASSERT_EQ(::write(ends[1], r.page(4), 2 * kPage), static_cast<ssize_t>(2 * kPage));
        ASSERT_EQ(::read(ends[0], got.data(), 2 * kPage), static_cast<ssize_t>(2 * kPage));
        EXPECT_EQ(std::memcmp(got.data(), r.model(4 * kPage), 2 * kPage), 0);
        ::close(ends[0]);
        ::close(ends[1]);
    });
    EXPECT_EQ(equal_frames(a().frames(), b().frames()), pages());
    check_both();
}

// Pages lent to a pipe keep the bytes of that moment when the program writes on.
TEST_P(IoOps, VmspliceOfMergedPages) {
    a().call(+[] {
        Region &r = region();
        std::array<int, 2> ends{};
        must(::pipe2(ends.data(), O_CLOEXEC), "pipe2");
        const iovec part{.iov_base = r.page(3), .iov_len = 2 * kPage};
        ASSERT_EQ(::vmsplice(ends[1], &part, 1, 0), static_cast<ssize_t>(2 * kPage));
        std::vector<std::byte> before(r.model(3 * kPage), r.model(5 * kPage));
        r.allow_writes();
        r.write(3, 1234);
        r.write(4, 1234);
        std::vector<std::byte> got(2 * kPage);
        ASSERT_EQ(::read(ends[0], got.data(), got.size()), static_cast<ssize_t>(got.size()));
        EXPECT_EQ(got, before);
        ::close(ends[0]);
        ::close(ends[1]);
    });
    check_both();
}

// Pages that are in a pipe when the advise comes are pinned: left, and counted.
TEST_P(IoOps, VmspliceThenAdvise) {
    if (of_file(kind()))
        GTEST_SKIP() << "private copies in a file mapping stay private";
    a().allow_writes();
    a().call(+[] {
        Region &r = region();
        for (std::size_t i = 0; i < r.pages(); i++)
            r.write(i, i + 5);
        std::array<int, 2> ends{};
        must(::pipe2(ends.data(), O_CLOEXEC), "pipe2");
        const iovec part{.iov_base = r.page(3), .iov_len = 2 * kPage};
        ASSERT_EQ(::vmsplice(ends[1], &part, 1, 0), static_cast<ssize_t>(2 * kPage));
        const Advice advice = device().advise(r.base(), r.len());
        EXPECT_EQ(advice.error, 0);
        EXPECT_GE(advice.skipped(UPM_SKIP_BUSY), 2U);
        r.check();
        std::vector<std::byte> got(2 * kPage);
        ASSERT_EQ(::read(ends[0], got.data(), got.size()), static_cast<ssize_t>(got.size()));
        EXPECT_EQ(std::memcmp(got.data(), r.page(3), got.size()), 0);
        ::close(ends[0]);
        ::close(ends[1]);
        EXPECT_EQ(device().advise(r.base(), r.len()).done(), r.pages());
    });
    check_both();
}

// process_vm_writev(2) by another process: only that process's page changes.
TEST_P(IoOps, ProcessVmWritev) {
    a().allow_writes();
    std::array<std::uint64_t, 10> words = kWords;
    const iovec local{.iov_base = words.data(), .iov_len = sizeof(words)};
    const iovec remote{.iov_base = a().base() + kOffset, .iov_len = sizeof(words)};
    ASSERT_EQ(::process_vm_writev(a().pid(), &local, 1, &remote, 1, 0), 80);
    note_words();
    check_both();
}

TEST_P(IoOps, ProcessVmReadv) {
    std::vector<std::byte> got(len());
    const iovec local{.iov_base = got.data(), .iov_len = got.size()};
    const iovec remote{.iov_base = a().base(), .iov_len = got.size()};
    ASSERT_EQ(::process_vm_readv(a().pid(), &local, 1, &remote, 1, 0),
              static_cast<ssize_t>(got.size()));
    std::vector<std::byte> other(len());
    const iovec local_b{.iov_base = other.data(), .iov_len = other.size()};
    const iovec remote_b{.iov_base = b().base(), .iov_len = other.size()};
    ASSERT_EQ(::process_vm_readv(b().pid(), &local_b, 1, &remote_b, 1, 0),
              static_cast<ssize_t>(other.size()));
    EXPECT_EQ(got, other);
    EXPECT_EQ(equal_frames(a().frames(), b().frames()), pages());
    check_both();
}

// /proc/PID/mem writes even where the mapping is read-only, for debuggers at least.
TEST_P(IoOps, ProcMemWrite) {
    const std::string path = "/proc/" + std::to_string(a().pid()) + "/mem";
    const Fd memory(must(::open(path.c_str(), O_RDWR | O_CLOEXEC), path.c_str()));
    const auto offset = reinterpret_cast<std::intptr_t>(a().base() + kOffset);
    ASSERT_EQ(::ptrace(PTRACE_ATTACH, a().pid(), nullptr, nullptr), 0);
    ASSERT_EQ(::waitpid(a().pid(), nullptr, __WALL), a().pid());
    EXPECT_EQ(::pwrite(memory.get(), kWords.data(), sizeof(kWords), offset), 80);
    ASSERT_EQ(::ptrace(PTRACE_DETACH, a().pid(), nullptr, nullptr), 0);
    note_words();
    check_both();
}

// A breakpoint set by a debugger in merged (and executable) memory.
TEST_P(IoOps, PtracePoke) {
    std::byte *at = a().base() + kOffset;
    ASSERT_EQ(::ptrace(PTRACE_ATTACH, a().pid(), nullptr, nullptr), 0);
    ASSERT_EQ(::waitpid(a().pid(), nullptr, __WALL), a().pid());
    for (std::size_t i = 0; i < kWords.size(); i++)
        EXPECT_EQ(::ptrace(PTRACE_POKEDATA, a().pid(), at + 8 * i, kWords[i]), 0);
    ASSERT_EQ(::ptrace(PTRACE_DETACH, a().pid(), nullptr, nullptr), 0);
    note_words();
    check_both();
}

// ---- pins ------------------------------------------------------------------------

// A ring with registered buffers: what RDMA and io_uring do to memory, a pin that
// lasts. Just enough of io_uring to make one.
class Ring {
  public:
    Ring() {
        io_uring_params params{};
        fd_ = Fd(static_cast<int>(::syscall(SYS_io_uring_setup, 4, &params)));
        if (!fd_)
            return;
        const std::size_t len =
            std::max<std::size_t>(params.sq_off.array + params.sq_entries * sizeof(unsigned),
                                  params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe));
        ring_ = Mapping(len, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), IORING_OFF_SQ_RING);
        entries_ = Mapping(params.sq_entries * sizeof(io_uring_sqe), PROT_READ | PROT_WRITE,
                           MAP_SHARED, fd_.get(), IORING_OFF_SQES);
        params_ = params;
    }
    [[nodiscard]] explicit operator bool() const { return static_cast<bool>(fd_); }

    int pin(const std::byte *base, std::size_t len) {
        const iovec part{.iov_base = const_cast<std::byte *>(base), .iov_len = len};
        return static_cast<int>(
            ::syscall(SYS_io_uring_register, fd_.get(), IORING_REGISTER_BUFFERS, &part, 1));
    }
    int unpin() {
        return static_cast<int>(
            ::syscall(SYS_io_uring_register, fd_.get(), IORING_UNREGISTER_BUFFERS, nullptr, 0));
    }
    // Reads into, or writes from, the pinned pages; returns the result.
    int transfer(unsigned char opcode, int file, const std::byte *base, unsigned len) {
        io_uring_sqe entry{};
        entry.opcode = opcode;
        entry.fd = file;
        entry.addr = reinterpret_cast<std::uintptr_t>(base);
        entry.len = len;
        entry.buf_index = 0;
        std::memcpy(entries_.base(), &entry, sizeof(entry));
        word(params_.sq_off.array) = 0;
        std::atomic_ref(word(params_.sq_off.tail)).fetch_add(1);
        if (::syscall(SYS_io_uring_enter, fd_.get(), 1, 1, IORING_ENTER_GETEVENTS, nullptr, 0) != 1)
            return -errno;
        unsigned &head = word(params_.cq_off.head);
        io_uring_cqe result{};
        std::memcpy(&result,
                    ring_.base() + params_.cq_off.cqes +
                        (head & word(params_.cq_off.ring_mask)) * sizeof(result),
                    sizeof(result));
        std::atomic_ref(head).fetch_add(1);
        return result.res;
    }

  private:
    unsigned &word(unsigned offset) { return *reinterpret_cast<unsigned *>(ring_.base() + offset); }

    Fd fd_;
    io_uring_params params_{};
    Mapping ring_;
    Mapping entries_;
};

// Pinned pages stay where the device knows them: the program must see what it writes.
TEST_P(IoOps, RegisteredBuffer) {
    if (!Ring())
        GTEST_SKIP() << "no io_uring";
    if (clean_file(kind()) || kind() == Kind::kFileDirty)
        GTEST_SKIP() << "io_uring registers no file mappings";
    a().allow_writes();
    a().call(+[] {
        Region &r = region();
        Ring ring;
        // Pinning for writing makes the merged pages private first.
        ASSERT_EQ(ring.pin(r.page(8), 4 * kPage), 0) << std::strerror(errno);
        r.check();
        const Frames pinned = frames_of(0, r.page(8), 4);
        const Advice advice = device().advise(r.base(), r.len());
        EXPECT_EQ(advice.error, 0);
        EXPECT_EQ(advice.skipped(UPM_SKIP_BUSY), 4U);
        EXPECT_EQ(frames_of(0, r.page(8), 4), pinned);
        const Pattern pattern{Content::kDistinct, fresh_seed()};
        const Fd file = temporary_file(pattern, 4);
        EXPECT_EQ(ring.transfer(IORING_OP_READ_FIXED, file.get(), r.page(8), 4 * kPage),
                  static_cast<int>(4 * kPage));
        for (std::size_t i = 0; i < 4; i++)
            pattern.fill(i, r.model((8 + i) * kPage));
        r.check();
        // And the device sees what the program writes.
        r.write(9, 4321);
        EXPECT_EQ(ring.transfer(IORING_OP_WRITE_FIXED, file.get(), r.page(8), 4 * kPage),
                  static_cast<int>(4 * kPage));
        std::array<std::byte, kPage> got{};
        ASSERT_EQ(::pread(file.get(), got.data(), kPage, kPage), static_cast<ssize_t>(kPage));
        EXPECT_EQ(std::memcmp(got.data(), r.model(9 * kPage), kPage), 0);
        ASSERT_EQ(ring.unpin(), 0);
        EXPECT_TRUE(
            eventually([&] { return device().advise(r.base(), r.len()).done() == r.pages(); }));
    });
    check_both();
}

// ---- reads in flight ----------------------------------------------------------------

class InFlight : public KmodTest {};

// A direct read has begun and its data is not there yet. The advise comes, and then
// the data: it must land in the program's memory, and not in a page it has no more.
TEST_F(InFlight, DirectReadKeepsItsData) {
    if (!SlowFile::available())
        GTEST_SKIP() << "no FUSE";
    Process child;
    child.call(+[] {
        constexpr std::size_t kPages = 40;
        constexpr std::size_t kFirst = 10;
        constexpr std::size_t kRead = 16;
        const Pattern content{Content::kDistinct, fresh_seed()};
        std::vector<std::byte> bytes(kRead * kPage);
        for (std::size_t i = 0; i < kRead; i++)
            content.fill(i, bytes.data() + i * kPage);
        SlowFile slow(bytes);
        const Fd file(must(::open(slow.path().c_str(), O_RDONLY | O_CLOEXEC), "open"));

        Region region(Kind::kAnonymous, {Content::kDistinct, fresh_seed()}, kPages);
        ssize_t got = 0;
        std::thread reader([&] { got = ::read(file.get(), region.page(kFirst), kRead * kPage); });
        EXPECT_TRUE(eventually([&] { return slow.reading(); }));
        const Device upm;
        for (int round = 0; round < 3; round++) {
            const Advice advice = upm.advise(region.base(), region.len());
            EXPECT_EQ(advice.error, 0);
            EXPECT_EQ(advice.skipped(UPM_SKIP_BUSY), kRead);
            EXPECT_EQ(advice.done(), kPages - kRead);
            region.check();
        }
        slow.release();
        reader.join();
        EXPECT_EQ(got, static_cast<ssize_t>(kRead * kPage));
        std::memcpy(region.model(kFirst * kPage), bytes.data(), bytes.size());
        region.check();
        EXPECT_EQ(upm.advise(region.base(), region.len()).done(), kPages);
        region.check();
    });
}

// Direct reads of a disk, one after the other, while the buffer is advised all the
// time: at whatever moment the pin comes, no data is lost.
TEST_F(InFlight, DirectReadsRaceWithAdvise) {
    if (disk().empty())
        GTEST_SKIP() << "no disk";
    Process child;
    child.call(+[] {
        constexpr std::size_t kPages = 64;
        constexpr std::size_t kFiles = 2;
        std::array<Fd, kFiles> files;
        std::array<std::vector<std::byte>, kFiles> wanted;
        for (std::size_t i = 0; i < kFiles; i++) {
            const Pattern pattern{Content::kMixed, fresh_seed()};
            const Fd file = temporary_file(pattern, kPages);
            const std::string path = "/proc/self/fd/" + std::to_string(file.get());
            files[i] = Fd(must(::open(path.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC), "O_DIRECT"));
            wanted[i].resize(kPages * kPage);
            for (std::size_t page = 0; page < kPages; page++)
                pattern.fill(page, wanted[i].data() + page * kPage);
        }
        const Mapping buffer(kPages * kPage);
        const Device upm;
        std::atomic<bool> stop{false};
        std::thread advisor([&] {
            while (!stop)
                EXPECT_EQ(upm.advise(buffer.base(), buffer.len()).error, 0);
        });
        const double end = now() + test_seconds(4);
        for (std::size_t i = 0; now() < end; i++) {
            const std::size_t which = i % kFiles;
            ASSERT_EQ(::pread(files[which].get(), buffer.base(), buffer.len(), 0),
                      static_cast<ssize_t>(buffer.len()));
            ASSERT_EQ(std::memcmp(buffer.base(), wanted[which].data(), buffer.len()), 0)
                << "read " << i;
        }
        stop = true;
        advisor.join();
    });
}

// ---- futexes ------------------------------------------------------------------------

long futex(std::uint32_t *word, int operation, std::uint32_t value, const timespec *timeout) {
    return ::syscall(SYS_futex, word, operation, value, timeout, nullptr, 0);
}

// Does the thread of this process sleep where a signal could wake it?
bool sleeps(pid_t thread) {
    const std::string stat = read_file("/proc/self/task/" + std::to_string(thread) + "/stat");
    return stat.at(stat.rfind(')') + 2) == 'S';
}

// A thread that sleeps on a word is found by who wakes it, though the page of the
// word was merged, written to (a copy) and merged again in between.
TEST_F(InFlight, FutexOnMergedPage) {
    for (const int flag : {0, FUTEX_PRIVATE_FLAG}) {
        Region region(Kind::kAnonymous, {Content::kDistinct, fresh_seed()}, 4);
        const Device upm;
        auto *word = reinterpret_cast<std::uint32_t *>(region.page(2) + 64);
        *word = 7;
        ASSERT_EQ(upm.advise(region.base(), region.len()).counts.inserted, 4U);
        std::atomic<pid_t> thread{0};
        std::atomic<bool> woken{false};
        std::thread sleeper([&] {
            const timespec patience{.tv_sec = kPatienceMs / 1000, .tv_nsec = 0};
            thread = ::gettid();
            while (std::atomic_ref(*word).load() == 7)
                futex(word, FUTEX_WAIT | flag, 7, &patience);
            woken = true;
        });
        EXPECT_TRUE(eventually([&] { return thread != 0 && sleeps(thread); }));
        EXPECT_EQ(upm.advise(region.base(), region.len()).done(), 4U);
        region.page(2)[0] ^= std::byte{1};
        EXPECT_EQ(upm.advise(region.base(), region.len()).done(), 4U);
        std::atomic_ref(*word).store(8);
        EXPECT_EQ(upm.advise(region.base(), region.len()).done(), 4U);
        EXPECT_EQ(futex(word, FUTEX_WAKE | flag, 1, nullptr), 1);
        EXPECT_TRUE(eventually([&] { return woken.load(); }));
        futex(word, FUTEX_WAKE | flag, 1, nullptr); // should the first have failed
        sleeper.join();
    }
}

// ---- core dumps -----------------------------------------------------------------------

// The core of a crashed process holds the bytes of its merged pages.
TEST_F(InFlight, CoreDump) {
    const Knob pattern_knob("/proc/sys/kernel/core_pattern", "/tmp/upm-core");
    const Pattern pattern{Content::kDistinct, fresh_seed()};
    Actor actor(Kind::kAnonymous, pattern, 16, [] {
        const rlimit limit{.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};
        must(::setrlimit(RLIMIT_CORE, &limit), "setrlimit");
    });
    ASSERT_EQ(actor.advise().counts.inserted, 16U);
    actor.process().start(+[] { ::abort(); });
    const int status = actor.process().wait();
    if (!WCOREDUMP(status))
        GTEST_SKIP() << "this kernel dumps no core";
    const std::string core = read_file("/tmp/upm-core");
    ::unlink("/tmp/upm-core");
    for (std::size_t i = 0; i < 16; i++) {
        std::string page(kPage, '\0');
        pattern.fill(i, reinterpret_cast<std::byte *>(page.data()));
        EXPECT_NE(core.find(page), std::string::npos) << "page " << i;
    }
}

} // namespace

} // namespace upm::test
