// SPDX-License-Identifier: MIT
//
// What the program does to its memory and mappings while a call works on them, at the worst
// moment: just before or after a batch is frozen. The test's own function comes before libc's
// ioctl.
#include "tests/libupm/store/fixture.hpp"

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <dlfcn.h>
#include <functional>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>

namespace {

std::function<void()> before_freeze; // once
std::function<void()> after_freeze;  // once
std::function<void()> before_look;   // once; at the mappings, just before one is replaced
unsigned thaws_to_interrupt = 0;
bool before_6_4 = false; // the kernel freezes only pages that are there

} // namespace

extern "C" int ioctl(int fd, unsigned long request, ...) noexcept {
    using Control = int (*)(int, unsigned long, void *);
    static const auto real = reinterpret_cast<Control>(::dlsym(RTLD_NEXT, "ioctl"));
    va_list args;
    va_start(args, request);
    void *const argument = va_arg(args, void *);
    va_end(args);
    if (_IOC_TYPE(request) == 'f' && _IOC_NR(request) == 17 && before_look) // PROCMAP_QUERY
        std::exchange(before_look, nullptr)();
    if (before_6_4 && request == UFFDIO_API && static_cast<uffdio_api *>(argument)->features != 0) {
        errno = EINVAL; // it does not know them
        return -1;
    }
    const bool protects = request == UFFDIO_WRITEPROTECT;
    const bool freeze = protects && (static_cast<const uffdio_writeprotect *>(argument)->mode &
                                     UFFDIO_WRITEPROTECT_MODE_WP) != 0;
    if (protects && !freeze && thaws_to_interrupt != 0) {
        --thaws_to_interrupt;
        errno = EAGAIN;
        return -1;
    }
    if (freeze && before_freeze)
        std::exchange(before_freeze, nullptr)();
    const int ret = real(fd, request, argument);
    if (freeze && after_freeze)
        std::exchange(after_freeze, nullptr)();
    return ret;
}

namespace upm::test {

namespace {

constexpr std::size_t kCount = 700; // in more than one batch

class StoreMeanwhile : public StoreTest {
  protected:
    void SetUp() override {
        StoreTest::SetUp();
        ASSERT_EQ(open(), 0) << text;
        if (text.find("mprotect") != std::string::npos)
            GTEST_SKIP() << "freezes without userfaultfd";
    }
    void TearDown() override {
        before_freeze = nullptr;
        after_freeze = nullptr;
        before_look = nullptr;
        thaws_to_interrupt = 0;
        before_6_4 = false;
    }

    // Some pages become read-only just after the first batch is frozen.
    void protect_meanwhile(std::size_t first, std::size_t count) {
        after_freeze = [this, first, count] {
            done = ::mprotect(pages.page(first), count * page_size(), PROT_READ) == 0;
        };
    }
    [[nodiscard]] std::string protection(std::size_t index) const {
        return vm_flags(pages.page(index)).substr(0, 8);
    }

    // Memory with that pattern comes to share all of it, in so far as it is not new.
    void expect_shared(std::uint64_t salt, std::uint64_t inserted) {
        const Pages others(kCount);
        fill_pattern(others, salt);
        EXPECT_EQ(advise(others), 0);
        EXPECT_EQ(counts.inserted, inserted);
        EXPECT_EQ(counts.merged, kCount - inserted);
        EXPECT_TRUE(has_pattern(others, salt));
    }

    Pages pages{kCount};
    bool done = false;
};

constexpr const char *kReadOnly = "rd mr mw";
constexpr const char *kWritable = "rd wr mr";

TEST_F(StoreMeanwhile, ProtectedWhileItIsInserted) {
    fill_pattern(pages, 1);
    protect_meanwhile(0, kCount);
    EXPECT_EQ(advise(pages), 0);
    ASSERT_TRUE(done);
    EXPECT_EQ(protection(0), kReadOnly);
    EXPECT_EQ(protection(kCount - 1), kReadOnly);
    EXPECT_TRUE(has_pattern(pages, 1));
}

TEST_F(StoreMeanwhile, ProtectedWhileItIsMerged) {
    insert_elsewhere(kCount, 2);
    fill_pattern(pages, 2);
    protect_meanwhile(0, kCount);
    EXPECT_EQ(advise(pages), 0);
    ASSERT_TRUE(done);
    EXPECT_EQ(protection(0), kReadOnly);
    EXPECT_EQ(protection(kCount - 1), kReadOnly);
    EXPECT_TRUE(has_pattern(pages, 2));
    // It is merged by the next call, which knows the new protection.
    EXPECT_EQ(advise(pages), 0);
    EXPECT_EQ(counts.merged + counts.already, kCount);
    EXPECT_EQ(protection(5), kReadOnly);
}

TEST_F(StoreMeanwhile, PartIsProtectedWhileItIsMerged) {
    insert_elsewhere(kCount, 3);
    fill_pattern(pages, 3);
    protect_meanwhile(10, 20);
    EXPECT_EQ(advise(pages), 0);
    ASSERT_TRUE(done);
    EXPECT_EQ(protection(9), kWritable);
    EXPECT_EQ(protection(10), kReadOnly);
    EXPECT_EQ(protection(29), kReadOnly);
    EXPECT_EQ(protection(30), kWritable);
    EXPECT_TRUE(has_pattern(pages, 3));
}

// Zeros in a mapping of a segment are replaced by fresh memory.
TEST_F(StoreMeanwhile, ProtectedWhileZerosAreDropped) {
    fill_pattern(pages, 4);
    ASSERT_EQ(advise(pages), 0);
    std::memset(pages.data(), 0, pages.size());
    protect_meanwhile(0, kCount);
    EXPECT_EQ(advise(pages), 0);
    ASSERT_TRUE(done);
    for (std::size_t i = 0; i < kCount; i += 50)
        EXPECT_EQ(protection(i), kReadOnly) << "page " << i;
    const Pages zeros(kCount);
    EXPECT_EQ(std::memcmp(pages.data(), zeros.data(), zeros.size()), 0);
}

TEST_F(StoreMeanwhile, ProtectedWhileItIsUnmerged) {
    fill_pattern(pages, 5);
    ASSERT_EQ(advise(pages), 0);
    protect_meanwhile(0, kCount);
    EXPECT_EQ(unmerge(pages), 0);
    ASSERT_TRUE(done);
    EXPECT_EQ(protection(0), kReadOnly);
    EXPECT_EQ(protection(kCount - 1), kReadOnly);
    EXPECT_TRUE(has_pattern(pages, 5));
}

// What was written to after it was hashed is published as what it is, and nobody is kept
// from publishing what it was.
TEST_F(StoreMeanwhile, WrittenToBeforeItIsInserted) {
    constexpr std::size_t kWritten[] = {3, 600}; // in two batches
    fill_pattern(pages, 6);
    before_freeze = [&] {
        for (const std::size_t index : kWritten)
            std::memset(pages.page(index), 'w', page_size());
        done = true;
    };
    EXPECT_EQ(advise(pages), 0);
    ASSERT_TRUE(done);
    EXPECT_EQ(counts.inserted, kCount);
    expect_shared(6, std::size(kWritten));
    expect_shared(6, 0);
    const Pages same(1);
    same.fill('w');
    EXPECT_EQ(advise(same), 0);
    EXPECT_EQ(counts.merged, 1U);
}

// The kernel may want a thaw to be asked for again. Until then whoever writes there waits.
TEST_F(StoreMeanwhile, AThawThatIsInterrupted) {
    insert_elsewhere(kCount, 7);
    fill_pattern(pages, 7);
    std::atomic<bool> written{false};
    std::thread writer;
    before_freeze = [&] {
        pages.page(3)[0] ^= 1; // so nothing takes its place
        thaws_to_interrupt = 3;
        before_freeze = [&] { // of the next batch
            writer = std::thread([&] {
                pages.page(3)[0] ^= 1;
                written = true;
            });
            for (int i = 0; i < 20'000 && !written; ++i)
                (void)::usleep(1'000);
            done = written;
        };
    };
    EXPECT_EQ(advise(pages), 0);
    ASSERT_TRUE(writer.joinable());
    writer.join();
    EXPECT_EQ(thaws_to_interrupt, 0U);
    EXPECT_TRUE(done) << "the writer waited for the end of the call";
    EXPECT_TRUE(has_pattern(pages, 7));
}

// Such a kernel does not freeze what was not there, so it may be written to at any moment.
TEST_F(StoreMeanwhile, APageThatIsNotFrozenIsLeftAlone) {
    insert_elsewhere(kCount, 9);
    before_6_4 = true;
    fill_pattern(pages, 9);
    const Pages copy(1);
    std::memcpy(copy.data(), pages.page(5), page_size());
    before_freeze = [&] { (void)::madvise(pages.page(5), page_size(), MADV_DONTNEED); };
    after_freeze = [&] {
        std::memcpy(pages.page(5), copy.data(), page_size()); // equal once more
        before_look = [&] {
            pages.page(5)[0] ^= 1;
            done = true;
        };
    };
    EXPECT_EQ(advise(pages), 0);
    if (!done)
        GTEST_SKIP() << "no PROCMAP_QUERY, at which the page could be written to";
    pages.page(5)[0] ^= 1;
    EXPECT_TRUE(has_pattern(pages, 9)) << "a write was lost";
    EXPECT_GE(counts.merged, kCount - 1);
}

// Of equal pages one is copied, for all of them.
TEST_F(StoreMeanwhile, OneOfManyIsWrittenToBeforeItIsInserted) {
    pages.fill('m');
    before_freeze = [&] {
        pages.page(0)[0] = 'w';
        done = true;
    };
    EXPECT_EQ(advise(pages), 0);
    ASSERT_TRUE(done);
    EXPECT_EQ(counts.inserted, 1U);
    EXPECT_EQ(counts.skipped[UPM_SKIPPED_BUSY], kCount - 1);
    EXPECT_EQ(advise(pages), 0);
    EXPECT_EQ(counts.already, 1U);
    EXPECT_EQ(counts.inserted, 1U);
    EXPECT_EQ(counts.merged, kCount - 2);
    EXPECT_EQ(pages.page(0)[0], 'w');
    EXPECT_EQ(pages.page(1)[0], 'm');
}

} // namespace

} // namespace upm::test
