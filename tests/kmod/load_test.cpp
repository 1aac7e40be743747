// SPDX-License-Identifier: MIT
//
// UPM_IOC_LOAD is pread(2) to the program, and pages come to share where nothing was.
#include "tests/kmod/support/actor.hpp"
#include "tests/kmod/support/source.hpp"
#include "tests/kmod/support/uffd.hpp"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <tuple>

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace upm::test {

namespace {

constexpr std::size_t kPages = 300; // several windows, the last one not full
constexpr std::size_t kTail = 1234;
constexpr int kReadWrite = PROT_READ | PROT_WRITE;
constexpr int kAnonymous = MAP_PRIVATE | MAP_ANONYMOUS;

class Loads : public KmodTest {
  protected:
    // Loads into `into`, and expects all of it to be read.
    Loaded load(std::byte *into, std::size_t offset, std::size_t len) {
        const Loaded loaded = upm_.load(source_.fd(), offset, into, len);
        EXPECT_EQ(loaded.error, 0);
        EXPECT_EQ(loaded.done, len);
        EXPECT_TRUE(source_.equal(into, offset, loaded.done));
        return loaded;
    }

    Device upm_;
    Source source_{{Content::kDistinct, fresh_seed()}, kPages, kTail};
};

// ---- that it is pread(2) ------------------------------------------------------

// Where the destination begins within a page, where in the file, and how many bytes.
using Place = std::tuple<std::size_t, std::size_t, std::size_t>;

class LoadsLike : public KmodTest, public testing::WithParamInterface<Place> {};

TEST_P(LoadsLike, Pread) {
    const auto [head, offset, len] = GetParam();
    const Device upm;
    const Source source({Content::kMixed, fresh_seed()}, kPages, kTail);
    ASSERT_EQ(::lseek(source.fd(), 77, SEEK_SET), 77);
    const Mapping plain((kPages + 4) * kPage);
    const Mapping loaded((kPages + 4) * kPage);
    std::byte *into = loaded.base() + kPage + head;
    const ssize_t expected =
        ::pread(source.fd(), plain.base() + kPage + head, len, static_cast<off_t>(offset));
    ASSERT_GE(expected, 0);
    const Loaded done = upm.load(source.fd(), offset, into, len);
    EXPECT_EQ(done.error, 0);
    EXPECT_EQ(done.done, static_cast<std::size_t>(expected));
    // What lies around it was zero and is.
    EXPECT_EQ(std::memcmp(plain.base(), loaded.base(), plain.len()), 0);
    EXPECT_EQ(::lseek(source.fd(), 0, SEEK_CUR), 77);
    // Only head and tail are private.
    EXPECT_LE(done.copied, 2 * kPage);
    EXPECT_EQ(done.counts.pages, done.shared());
    // The memory is the program's own.
    std::memset(loaded.base(), 7, loaded.len());
    std::byte first{};
    EXPECT_EQ(::pread(source.fd(), &first, 1, 0), 1);
    EXPECT_EQ(first, *source.at(0));
}

INSTANTIATE_TEST_SUITE_P(Places, LoadsLike,
                         testing::Combine(testing::Values(0, 5, 3984, 4095),
                                          testing::Values(0, 1344, 7 * kPage, kPages *kPage - 9,
                                                          kPages *kPage + kTail, UINT32_MAX),
                                          testing::Values(0, 1, 200, kPage, 64 * kPage,
                                                          kPages *kPage)));

TEST_F(Loads, FileThatChanges) {
    const Mapping before(kPages * kPage);
    const Mapping after(kPages * kPage);
    EXPECT_EQ(load(before.base(), 0, before.len()).counts.inserted, kPages);
    const std::vector<std::byte> old(source_.at(0), source_.at(before.len()));
    for (std::size_t page = 0; page < kPages; page += 10)
        source_.change(page * kPage + page);
    const Loaded loaded = load(after.base(), 0, after.len());
    EXPECT_EQ(loaded.counts.inserted, kPages / 10);
    EXPECT_EQ(loaded.counts.merged, kPages - kPages / 10);
    EXPECT_EQ(std::memcmp(before.base(), old.data(), old.size()), 0);
}

// ---- that it shares -------------------------------------------------------------

// The same file at the same place: the same frames, and a write stays where it is made.
TEST_F(Loads, FramesAreEqual) {
    constexpr std::size_t kHead = 3984;
    const auto run = +[](int fd, std::size_t len) {
        auto *memory = new Mapping(len + 2 * kPage);
        const Loaded loaded = Device().load(fd, 1344, memory->base() + kHead, len);
        EXPECT_EQ(loaded.done, len);
        EXPECT_EQ(loaded.copied, kPage - kHead + (len + kHead) % kPage);
        return memory;
    };
    const std::size_t len = kPages * kPage - 1344;
    Process a;
    Process b;
    Mapping *at_a = a.call(run, source_.fd(), len);
    Mapping *at_b = b.call(run, source_.fd(), len);
    const std::size_t whole = (len - (kPage - kHead)) / kPage;
    const auto base = [](Mapping *m) { return m->base(); };
    const auto frames = [&](Process &p, Mapping *m) {
        return frames_of(p.pid(), p.call(+base, m), kPages);
    };
    EXPECT_EQ(equal_frames(frames(a, at_a), frames(b, at_b)), whole);
    a.call(
        +[](Mapping *m) { std::memset(m->page(3), 9, kPage); }, at_a);
    EXPECT_EQ(equal_frames(frames(a, at_a), frames(b, at_b)), whole - 1);
    const auto check = +[](Mapping *m, int fd, std::size_t n, std::size_t changed) {
        std::vector<std::byte> wanted(n);
        EXPECT_EQ(::pread(fd, wanted.data(), n, 1344), static_cast<ssize_t>(n));
        if (changed != 0)
            std::memset(wanted.data() + changed * kPage - kHead, 9, kPage);
        EXPECT_EQ(std::memcmp(m->base() + kHead, wanted.data(), n), 0);
    };
    a.call(check, at_a, source_.fd(), len, std::size_t{3});
    b.call(check, at_b, source_.fd(), len, std::size_t{0});
}

// What an advise has made is found by a load, and the other way round.
TEST_F(Loads, SharesWithAdvise) {
    const Mapping plain(kPages * kPage);
    ASSERT_EQ(::pread(source_.fd(), plain.base(), plain.len(), 0),
              static_cast<ssize_t>(plain.len()));
    EXPECT_EQ(upm_.advise(plain.base(), plain.len()).counts.inserted, kPages);
    const Mapping loaded(kPages * kPage);
    EXPECT_EQ(load(loaded.base(), 0, loaded.len()).counts.merged, kPages);
    EXPECT_EQ(equal_frames(frames_of(0, plain.base(), kPages), frames_of(0, loaded.base(), kPages)),
              kPages);
    EXPECT_EQ(upm_.advise(loaded.base(), loaded.len()).counts.already, kPages);
    EXPECT_EQ(upm_.unmerge(loaded.base(), loaded.len()).counts.unmerged, kPages);
    EXPECT_TRUE(source_.equal(loaded.base(), 0, loaded.len()));
}

// Pages of zeros stay empty, and read as the file has them.
TEST_F(Loads, Zeros) {
    const Source zeros({Content::kZeros, 0}, kPages);
    const Mapping memory(kPages * kPage);
    const Loaded loaded = upm_.load(zeros.fd(), 0, memory.base(), memory.len());
    EXPECT_EQ(loaded.counts.zero, kPages);
    EXPECT_EQ(present_frames(frames_of(0, memory.base(), kPages)), 0U);
    EXPECT_TRUE(zeros.equal(memory.base(), 0, memory.len()));
}

// In a named domain, apart from the default one.
TEST_F(Loads, InADomain) {
    const Fd domain = upm_.domain(fresh_key());
    const Mapping here(kPages * kPage);
    const Mapping there(kPages * kPage);
    EXPECT_EQ(load(here.base(), 0, here.len()).counts.inserted, kPages);
    const Loaded loaded = upm_.load(source_.fd(), 0, there.base(), there.len(), domain.get());
    EXPECT_EQ(loaded.counts.inserted, kPages);
    EXPECT_EQ(common_frames(frames_of(0, here.base(), kPages), frames_of(0, there.base(), kPages)),
              0U);
}

// The counters of the module.
TEST_F(Loads, Statistics) {
    EXPECT_EQ(write_file(kSysfs + "stats_reset", "1"), 0);
    const Mapping memory(kPages * kPage);
    load(memory.base() + 5, 0, memory.len() - kPage);
    EXPECT_EQ(statistic("loads"), 1U);
    EXPECT_EQ(statistic("bytes_loaded"), memory.len() - kPage);
    EXPECT_EQ(statistic("bytes_copied"), kPage);
    EXPECT_EQ(statistic("pages_inserted"), kPages - 2);
    EXPECT_EQ(statistic("calls"), 0U);
    EXPECT_GT(statistic("lock_ns"), 0U);
}

// ---- what is left as it is -------------------------------------------------------

// Something is there already: written to, or read, which maps the kernel's zero page.
TEST_F(Loads, PresentPages) {
    const Mapping memory(kPages * kPage);
    std::memset(memory.page(10), 7, 2 * kPage);
    static_cast<void>(*static_cast<volatile std::byte *>(memory.page(200)));
    const Loaded loaded = load(memory.base(), 55, memory.len());
    EXPECT_EQ(loaded.counts.skipped[UPM_SKIP_PRESENT], 3U);
    EXPECT_EQ(loaded.copied, 3 * kPage);
    // And what was loaded is there, too.
    EXPECT_EQ(load(memory.base(), 55, memory.len()).counts.skipped[UPM_SKIP_PRESENT], kPages);
    must(::madvise(memory.base(), memory.len(), MADV_DONTNEED), "MADV_DONTNEED");
    EXPECT_EQ(load(memory.base(), 55, memory.len()).counts.merged, kPages - 3);
}

// Mappings whose pages never share get the bytes all the same.
TEST_F(Loads, OtherMappings) {
    const Mapping shared(kPages * kPage, kReadWrite, MAP_SHARED | MAP_ANONYMOUS);
    EXPECT_EQ(load(shared.base(), 9, shared.len()).counts.skipped[UPM_SKIP_SHARED], kPages);

    const Fd other = temporary_file({Content::kDistinct, fresh_seed()}, kPages);
    const Mapping file(kPages * kPage, kReadWrite, MAP_PRIVATE, other.get());
    EXPECT_EQ(load(file.base(), 9, file.len()).counts.skipped[UPM_SKIP_FILE], kPages);

    const Mapping secret(kPages * kPage);
    must(::madvise(secret.page(100), 50 * kPage, MADV_DONTDUMP), "MADV_DONTDUMP");
    const Loaded loaded = load(secret.base(), 9, secret.len());
    EXPECT_EQ(loaded.counts.skipped[UPM_SKIP_SECRET], 50U);
    EXPECT_EQ(loaded.shared(), kPages - 50);
}

TEST_F(Loads, WatchedMapping) {
    const Uffd uffd(0);
    if (!uffd)
        GTEST_SKIP() << "no userfaultfd";
    const Mapping memory(kPages * kPage);
    std::memset(memory.base(), 1, memory.len()); // or the load would wait for us
    ASSERT_EQ(uffd.watch(memory.base(), memory.len(), UFFDIO_REGISTER_MODE_MISSING), 0);
    EXPECT_EQ(load(memory.base(), 9, memory.len()).counts.skipped[UPM_SKIP_UFFD], kPages);
}

// Rights of a protection key are those of the thread.
TEST_F(Loads, ProtectionKey) {
    const int key = ::pkey_alloc(0, PKEY_DISABLE_WRITE);
    if (key < 0)
        GTEST_SKIP() << "no protection keys";
    const Mapping memory(kPages * kPage);
    must(::pkey_mprotect(memory.base(), memory.len(), kReadWrite, key), "pkey_mprotect");
    EXPECT_EQ(upm_.load(source_.fd(), 0, memory.base(), memory.len()).error, EFAULT);
    must(::pkey_set(key, 0), "pkey_set");
    EXPECT_EQ(load(memory.base(), 0, memory.len()).counts.skipped[UPM_SKIP_SPECIAL], kPages);
    ::pkey_free(key);
}

// As pread(2): up to where it cannot be written to, and then the error.
TEST_F(Loads, ReadOnlyDestination) {
    const Mapping memory(kPages * kPage);
    must(::mprotect(memory.page(200), 100 * kPage, PROT_READ), "mprotect");
    Loaded loaded = upm_.load(source_.fd(), 0, memory.base(), memory.len());
    EXPECT_EQ(loaded.error, 0);
    EXPECT_EQ(loaded.done, 200 * kPage);
    EXPECT_TRUE(source_.equal(memory.base(), 0, 200 * kPage));
    loaded = upm_.load(source_.fd(), 0, memory.page(200), kPage);
    EXPECT_EQ(loaded.error, EFAULT);
}

TEST_F(Loads, HoleInTheDestination) {
    const Mapping memory(kPages * kPage);
    must(::munmap(memory.page(100), kPage), "munmap");
    const Loaded loaded = upm_.load(source_.fd(), 0, memory.base() + 7, memory.len() - 7);
    EXPECT_EQ(loaded.error, 0);
    EXPECT_EQ(loaded.done, 100 * kPage - 7);
    EXPECT_TRUE(source_.equal(memory.base() + 7, 0, loaded.done));
}

// At the limit new content is copied.
TEST_F(Loads, Limit) {
    const Knob knob("domain_max_pages", 100);
    const Mapping memory(kPages * kPage);
    const Loaded loaded = load(memory.base(), 0, memory.len());
    EXPECT_EQ(loaded.counts.inserted, 100U);
    EXPECT_EQ(loaded.counts.skipped[UPM_SKIP_LIMIT], kPages - 100);
}

// ---- calls that are wrong ---------------------------------------------------------

class LoadArguments : public Loads {
  protected:
    LoadArguments() {
        call_.fd = source_.fd();
        call_.domain_fd = -1;
        call_.addr = reinterpret_cast<std::uintptr_t>(memory_.base());
        call_.len = memory_.len();
    }
    void TearDown() override {
        memory_ = Mapping();
        Loads::TearDown();
    }
    int run() { return ::ioctl(upm_.fd(), UPM_IOC_LOAD, &call_) == 0 ? 0 : errno; }
    void expect_refused(int error) {
        EXPECT_EQ(run(), error);
        EXPECT_EQ(usage_of(0, memory_.base(), memory_.len()).rss, 0U);
    }

    Mapping memory_{8 * kPage};
    upm_ioc_load call_{};
};

TEST_F(LoadArguments, FlagsAndReservedFields) {
    for (unsigned bit = 0; bit < 32; bit++) {
        call_.flags = 1U << bit;
        expect_refused(EINVAL);
    }
    call_.flags = 0;
    call_.reserved0 = 1;
    expect_refused(EINVAL);
    call_.reserved0 = 0;
    for (auto &field : call_.reserved1) {
        field = 1;
        expect_refused(EINVAL);
        field = 0;
    }
    EXPECT_EQ(run(), 0);
    EXPECT_EQ(call_.counts.inserted, 8U);
}

TEST_F(LoadArguments, Descriptors) {
    int ends[2];
    must(::pipe2(ends, O_CLOEXEC), "pipe2");
    const Fd reads(ends[0]);
    const Fd writes(ends[1]);
    const std::string path = "/proc/self/fd/" + std::to_string(source_.fd());
    const Fd write_only(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    const Fd just_path(::open(path.c_str(), O_PATH | O_CLOEXEC));
    const Fd direct(::open(path.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC));
    const Fd folder(::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    const Fd no_size(::open("/proc/self/maps", O_RDONLY | O_CLOEXEC));
    const struct {
        int fd;
        int error;
    } cases[] = {
        {-1, EBADF},
        {INT_MAX, EBADF},
        {write_only.get(), EBADF},
        {just_path.get(), EBADF},
        {writes.get(), EBADF},
        {reads.get(), EOPNOTSUPP},
        {folder.get(), EOPNOTSUPP},
        {no_size.get(), EOPNOTSUPP},
        {upm_.fd(), EOPNOTSUPP},
        {direct.get(), direct ? EOPNOTSUPP : EBADF},
    };
    for (const auto &c : cases) {
        call_.fd = c.fd;
        expect_refused(c.error);
    }
    call_.fd = source_.fd();
    for (const int fd : {-2, INT_MAX, source_.fd()}) {
        call_.domain_fd = fd;
        expect_refused(EBADF);
    }
}

TEST_F(LoadArguments, Ranges) {
    call_.offset = ~std::uint64_t{4};
    expect_refused(EINVAL);
    call_.offset = INT64_MAX - kPage;
    expect_refused(EINVAL);
    call_.offset = 0;
    const std::uint64_t good = call_.addr;
    for (const std::uint64_t addr :
         {std::uint64_t{0xffff'8000'0000'0000}, std::uint64_t{kPage}, ~std::uint64_t{kPage}}) {
        call_.addr = addr;
        expect_refused(EFAULT);
    }
    call_.addr = good;
    call_.len = std::uint64_t{1} << 62;
    expect_refused(EFAULT);
}

TEST_F(LoadArguments, Disabled) {
    const Knob knob("enabled", 0);
    expect_refused(EOPNOTSUPP);
}

// A program of yesterday knows no counts, one of tomorrow a field behind them.
TEST_F(LoadArguments, OtherSizes) {
    struct Short {
        std::array<std::byte, offsetof(upm_ioc_load, counts)> bytes;
    };
    struct {
        Short call;
        std::array<std::byte, 512> guard;
    } memory{};
    std::memcpy(memory.call.bytes.data(), &call_, sizeof(memory.call));
    memory.guard.fill(std::byte{0xa5});
    EXPECT_EQ(::ioctl(upm_.fd(), _IOWR(UPM_IOC_MAGIC, 4, Short), &memory.call), 0);
    std::uint64_t done = 0;
    std::memcpy(&done, &memory.call.bytes[offsetof(upm_ioc_load, done)], sizeof(done));
    EXPECT_EQ(done, memory_.len());
    EXPECT_TRUE(std::all_of(memory.guard.begin(), memory.guard.end(),
                            [](std::byte b) { return b == std::byte{0xa5}; }));

    struct {
        upm_ioc_load known;
        std::uint64_t unknown;
    } longer{.known = call_, .unknown = 1};
    const unsigned long request = _IOWR(UPM_IOC_MAGIC, 4, decltype(longer));
    EXPECT_EQ(::ioctl(upm_.fd(), request, &longer), -1);
    EXPECT_EQ(errno, E2BIG);
    longer.unknown = 0;
    EXPECT_EQ(::ioctl(upm_.fd(), request, &longer), 0);
    EXPECT_EQ(longer.known.done, memory_.len());
}

} // namespace

} // namespace upm::test
