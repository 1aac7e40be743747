// SPDX-License-Identifier: MIT
//
// Calls that are wrong: the errno that the header documents, and nothing changed.
// And calls of programs that were built with another version of the header.
#include "tests/kmod/support/actor.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdint>
#include <cstring>

#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace upm::test {

namespace {

constexpr std::size_t kPages = 8;

int try_ioctl(int fd, unsigned long request, void *argument) {
    return ::ioctl(fd, request, argument) == 0 ? 0 : errno;
}

// A mapping that an advise would merge, and a call that would do it.
class Arguments : public KmodTest {
  protected:
    Arguments() {
        memory_.fill({Content::kDistinct, fresh_seed()});
        call_.domain_fd = -1;
        call_.addr = reinterpret_cast<std::uintptr_t>(memory_.base());
        call_.len = memory_.len();
    }

    void TearDown() override {
        memory_ = Mapping(); // or its pages were left behind
        KmodTest::TearDown();
    }

    int advise() { return try_ioctl(device_.fd(), UPM_IOC_ADVISE, &call_); }

    // The call fails with `error`, and every page keeps its own frame.
    void expect_refused(int error) {
        const Frames before = frames_of(::getpid(), memory_.base(), kPages);
        EXPECT_EQ(advise(), error);
        EXPECT_EQ(frames_of(::getpid(), memory_.base(), kPages), before);
        EXPECT_EQ(statistic("pages_shared"), 0U);
    }

    Mapping memory_{kPages * kPage};
    Device device_;
    upm_ioc_advise call_{};
};

// The others in this file change one thing of a call that works.
TEST_F(Arguments, GoodCallWorks) {
    EXPECT_EQ(advise(), 0);
    EXPECT_EQ(call_.counts.inserted, kPages);
    EXPECT_EQ(call_.counts.next, call_.addr + call_.len);
}

TEST_F(Arguments, UnalignedAddress) {
    call_.addr += 8;
    expect_refused(EINVAL);
}

TEST_F(Arguments, UnalignedLength) {
    call_.len -= 1;
    expect_refused(EINVAL);
}

TEST_F(Arguments, EndOverflows) {
    call_.len = ~std::uint64_t{kPage - 1};
    expect_refused(EINVAL);
}

TEST_F(Arguments, BeyondTheAddressSpace) {
    call_.addr = 0xffff'8000'0000'0000;
    call_.len = kPage;
    expect_refused(EINVAL);
    call_.addr = reinterpret_cast<std::uintptr_t>(memory_.base());
    call_.len = std::uint64_t{1} << 62;
    expect_refused(EINVAL);
}

TEST_F(Arguments, NothingToDo) {
    call_.len = 0;
    EXPECT_EQ(advise(), 0);
    EXPECT_EQ(call_.counts.pages, 0U);
    EXPECT_EQ(call_.counts.next, call_.addr);
}

TEST_F(Arguments, UnknownFlags) {
    for (unsigned bit = 2; bit < 32; bit++) {
        call_.flags = 1U << bit;
        expect_refused(EINVAL);
    }
}

// A dry run of an unmerge has no meaning.
TEST_F(Arguments, ContradictingFlags) {
    call_.flags = UPM_ADVISE_DRY_RUN | UPM_ADVISE_UNMERGE;
    expect_refused(EINVAL);
}

TEST_F(Arguments, ReservedFields) {
    call_.reserved0 = 1;
    expect_refused(EINVAL);
    call_.reserved0 = 0;
    for (auto &field : call_.reserved1) {
        field = 1;
        expect_refused(EINVAL);
        field = 0;
    }
}

// As with madvise(2), but found before the first page is touched.
TEST_F(Arguments, HoleInTheMiddle) {
    ASSERT_EQ(::munmap(memory_.page(4), kPage), 0);
    expect_refused(ENOMEM);
}

TEST_F(Arguments, NothingMapped) {
    const Mapping gone(kPage);
    call_.addr = reinterpret_cast<std::uintptr_t>(gone.base());
    call_.len = kPage;
    ASSERT_EQ(::munmap(gone.base(), kPage), 0);
    expect_refused(ENOMEM);
    // The destructor maps nothing back: munmap of a hole succeeds.
}

TEST_F(Arguments, NoSuchProcess) {
    for (const int pid : {-1, INT_MIN, INT_MAX}) {
        call_.pid = pid;
        expect_refused(ESRCH);
    }
    call_.pid = 2; // kthreadd has no address space
    expect_refused(ESRCH);
    const pid_t zombie = fork_tied();
    if (zombie == 0)
        ::_exit(0);
    siginfo_t info{};
    ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(zombie), &info, WEXITED | WNOWAIT), 0);
    call_.pid = zombie;
    expect_refused(ESRCH);
    wait_for(zombie);
}

TEST_F(Arguments, NoSuchDomain) {
    Fd other = temporary_file();
    for (const int fd : {-2, INT_MAX, other.get(), device_.fd()}) {
        call_.domain_fd = fd;
        expect_refused(EBADF);
    }
}

TEST_F(Arguments, UnreadableArgument) {
    EXPECT_EQ(try_ioctl(device_.fd(), UPM_IOC_ADVISE, nullptr), EFAULT);
    const Mapping read_only(kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS);
    EXPECT_EQ(try_ioctl(device_.fd(), UPM_IOC_INFO, read_only.base()), EFAULT);
}

TEST_F(Arguments, UnknownCalls) {
    std::array<std::byte, 4096> argument{};
    const unsigned long requests[] = {
        _IOWR(UPM_IOC_MAGIC, 5, upm_ioc_info), _IOWR(UPM_IOC_MAGIC - 1, 1, upm_ioc_advise),
        _IOW(UPM_IOC_MAGIC, 1, upm_ioc_advise), _IO(UPM_IOC_MAGIC, 0)};
    for (const unsigned long request : requests)
        EXPECT_EQ(try_ioctl(device_.fd(), request, argument.data()), ENOTTY) << request;
}

// A system call as a 32-bit program makes it, with its numbers.
int call_32bit(int number, int first, unsigned long second, const void *third) {
    long ret = number;
    asm volatile("int $0x80"
                 : "+a"(ret)
                 : "b"(first), "c"(second), "d"(third)
                 : "memory", "r8", "r9", "r10", "r11");
    return static_cast<int>(ret);
}

// Without such calls in the kernel the instruction is a fault, which the log tells of.
bool has_32bit_calls() {
    return ::access("/proc/sys/abi/vsyscall32", F_OK) == 0;
}

// Structures are the same, pointers are half as long.
TEST_F(Arguments, CallsOf32Bit) {
    if (!has_32bit_calls())
        GTEST_SKIP() << "this kernel has no 32-bit system calls";
    void *const low = ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    ASSERT_NE(low, MAP_FAILED);
    const auto call = [&](unsigned long request) {
        constexpr int kIoctl = 54;
        return call_32bit(kIoctl, device_.fd(), request, low);
    };
    EXPECT_EQ(call(UPM_IOC_INFO), 0);
    EXPECT_EQ(static_cast<upm_ioc_info *>(low)->page_size, kPage);
    std::memcpy(low, &call_, sizeof(call_));
    EXPECT_EQ(call(UPM_IOC_ADVISE), 0);
    EXPECT_EQ(static_cast<upm_ioc_advise *>(low)->counts.inserted, kPages);
    EXPECT_EQ(call(_IO(UPM_IOC_MAGIC, 1)), -ENOTTY);
    must(::munmap(low, kPage), "munmap");
}

TEST_F(Arguments, OtherCalls) {
    upm_ioc_domain domain{};
    domain.flags = 1;
    EXPECT_EQ(try_ioctl(device_.fd(), UPM_IOC_DOMAIN_OPEN, &domain), EINVAL);
    domain.flags = 0;
    domain.reserved[1] = 1;
    EXPECT_EQ(try_ioctl(device_.fd(), UPM_IOC_DOMAIN_OPEN, &domain), EINVAL);

    upm_ioc_stats stats{};
    stats.domain_fd = -1;
    stats.flags = 1;
    EXPECT_EQ(try_ioctl(device_.fd(), UPM_IOC_STATS, &stats), EINVAL);
    stats.flags = 0;
    stats.domain_fd = 10'000;
    EXPECT_EQ(try_ioctl(device_.fd(), UPM_IOC_STATS, &stats), EBADF);
}

// Reserved fields are those of every call.
TEST_F(Arguments, ReservedFieldsOfOtherCalls) {
    upm_ioc_info info{};
    for (__u64 *field : {&info.reserved1[0], &info.reserved1[1]}) {
        *field = 1;
        EXPECT_EQ(try_ioctl(device_.fd(), UPM_IOC_INFO, &info), EINVAL);
        *field = 0;
    }
    info.reserved0 = 1;
    EXPECT_EQ(try_ioctl(device_.fd(), UPM_IOC_INFO, &info), EINVAL);

    upm_ioc_stats stats{};
    stats.domain_fd = -1;
    for (__u64 &field : stats.reserved) {
        field = 1;
        EXPECT_EQ(try_ioctl(device_.fd(), UPM_IOC_STATS, &stats), EINVAL);
        field = 0;
    }
    EXPECT_EQ(try_ioctl(device_.fd(), UPM_IOC_STATS, &stats), 0);
}

TEST_F(Arguments, Info) {
    const upm_ioc_info info = device_.info();
    EXPECT_EQ(info.abi_version, std::uint32_t{UPM_ABI_VERSION});
    EXPECT_EQ(info.page_size, kPage);
    EXPECT_EQ(info.advise_flags, UPM_ADVISE_UNMERGE | UPM_ADVISE_DRY_RUN);
    EXPECT_EQ(info.skip_reasons, std::uint32_t{UPM_SKIP_NR});
    EXPECT_EQ(info.enabled, 1U);
    EXPECT_LT(::strnlen(info.version, sizeof(info.version)), sizeof(info.version));
}

// ---- versions ---------------------------------------------------------------

struct LongAdvise {
    upm_ioc_advise known;
    std::uint64_t unknown[4];
};

// A program of tomorrow: fields that this kernel does not know are zero.
TEST_F(Arguments, NewerStructure) {
    LongAdvise call{.known = call_, .unknown = {}};
    const unsigned long request = _IOWR(UPM_IOC_MAGIC, 1, LongAdvise);
    EXPECT_EQ(try_ioctl(device_.fd(), request, &call), 0);
    EXPECT_EQ(call.known.counts.inserted, kPages);
}

// It asks for something that this kernel cannot do.
TEST_F(Arguments, NewerStructureWithUnknownField) {
    LongAdvise call{.known = call_, .unknown = {0, 0, 0, 1}};
    const unsigned long request = _IOWR(UPM_IOC_MAGIC, 1, LongAdvise);
    EXPECT_EQ(try_ioctl(device_.fd(), request, &call), E2BIG);
    EXPECT_EQ(call.known.counts.pages, 0U);
    EXPECT_EQ(statistic("pages_shared"), 0U);
}

// A program of yesterday has no room for all counts: not a byte behind its
// structure may be written.
TEST_F(Arguments, OlderStructure) {
    struct Short {
        std::array<std::byte, offsetof(upm_ioc_advise, counts) + 16> bytes;
    };
    struct {
        Short call;
        std::array<std::byte, 512> guard;
    } memory{};
    std::memcpy(memory.call.bytes.data(), &call_, sizeof(memory.call.bytes));
    memory.guard.fill(std::byte{0xa5});
    const unsigned long request = _IOWR(UPM_IOC_MAGIC, 1, Short);
    EXPECT_EQ(try_ioctl(device_.fd(), request, &memory.call), 0);
    std::uint64_t pages = 0;
    std::memcpy(&pages, &memory.call.bytes[offsetof(upm_ioc_advise, counts)], sizeof(pages));
    EXPECT_EQ(pages, kPages);
    for (const std::byte byte : memory.guard)
        ASSERT_EQ(byte, std::byte{0xa5});
}

// Shorter than any version of the structure: refused, and neither the structure nor a
// byte behind it is written.
TEST_F(Arguments, TooShortStructure) {
    const struct {
        unsigned number;
        std::size_t least;
    } calls[] = {
        {0, sizeof(upm_ioc_info)},           {1, offsetof(upm_ioc_advise, counts)},
        {2, sizeof(upm_ioc_domain)},         {3, sizeof(upm_ioc_stats)},
        {4, offsetof(upm_ioc_load, counts)},
    };
    for (const auto &call : calls) {
        for (const std::size_t size : {std::size_t{0}, std::size_t{4}, call.least - 1}) {
            std::array<std::byte, 512> memory{};
            std::fill(memory.begin() + static_cast<std::ptrdiff_t>(size), memory.end(),
                      std::byte{0xa5});
            const auto before = memory;
            const unsigned long request =
                _IOC(_IOC_READ | _IOC_WRITE, UPM_IOC_MAGIC, call.number, size);
            EXPECT_EQ(try_ioctl(device_.fd(), request, memory.data()), EINVAL)
                << "call " << call.number << ", " << size << " bytes";
            EXPECT_EQ(memory, before) << "call " << call.number << ", " << size << " bytes";
        }
    }
    // The shortest that is taken.
    const unsigned long request =
        _IOC(_IOC_READ | _IOC_WRITE, UPM_IOC_MAGIC, 1, offsetof(upm_ioc_advise, counts));
    EXPECT_EQ(try_ioctl(device_.fd(), request, &call_), 0);
    EXPECT_EQ(call_.counts.pages, 0U);
    EXPECT_EQ(statistic("pages_shared"), kPages);
}

// ---- a signal ----------------------------------------------------------------

// A fatal signal ends a long advise at the next batch, not at its end: of a range
// with many batches, only some are done when the process is gone.
TEST_F(Arguments, FatalSignalEndsALongAdvise) {
    constexpr std::size_t kMany = 16'384;
    const Knob knob("batch_pages", 4);
    Actor actor(Kind::kAnonymous, {Content::kDistinct, fresh_seed()}, kMany);
    const std::uint64_t before = statistic("batches");
    actor.start_advise();
    ASSERT_TRUE(eventually([&] { return statistic("batches") > before + 4; }));
    actor.process().kill(); // waits until it is gone
    EXPECT_LT(statistic("batches"), before + kMany / 4);
}

// A call on another process ends at the next batch when that process does: else it
// would keep the memory of the dead.
TEST_F(Arguments, EndOfTheTargetEndsAnAgentsCall) {
    constexpr std::size_t kMany = 16'384;
    const Knob knob("batch_pages", 4);
    for (const std::uint32_t flags : {0U, std::uint32_t{UPM_ADVISE_DRY_RUN}}) {
        Actor target(Kind::kAnonymous, {Content::kDistinct, fresh_seed()}, kMany);
        Process agent;
        const std::uint64_t before = statistic("batches");
        agent.start(
            +[](std::byte *base, std::size_t len, pid_t pid, std::uint32_t how) {
                return Device().advise(base, len, {.flags = how, .pid = pid});
            },
            target.base(), target.len(), target.pid(), flags);
        if (flags == 0) {
            ASSERT_TRUE(eventually([&] { return statistic("batches") > before + 4; }));
        }
        target.process().kill();
        const auto advice = agent.finish<Advice>();
        EXPECT_EQ(advice.error, ESRCH);
        EXPECT_LT(advice.counts.pages, kMany);
    }
}

} // namespace

} // namespace upm::test
