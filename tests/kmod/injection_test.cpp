// SPDX-License-Identifier: MIT
//
// Every allocation of a call fails once, and every copy from and to the caller, and every
// mapping of shared pages in the place of frozen ones, which in truth cannot fail.
// On a kernel with fault injection (tests/vm/run --kernel debug):
// /proc/self/fail-nth makes the n-th of the thread fail, so n = 1, 2, 3 ... visits
// all of them, until a call has fewer.
#include "tests/kmod/support/actor.hpp"
#include "tests/kmod/support/source.hpp"

#include <cerrno>
#include <cstdlib>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace upm::test {

namespace {

constexpr std::size_t kPages = 16;
constexpr int kMany = 2000; // more allocations than any call makes

class Injection : public KmodTest {
  protected:
    void SetUp() override {
        if (!exists("/proc/self/fail-nth"))
            GTEST_SKIP() << "no fault injection in this kernel (run with --kernel debug)";
        // All allocations count, also those that may sleep, and single pages.
        for (const std::string kind : {"failslab", "fail_page_alloc", "fail_usercopy"}) {
            const std::string folder = "/sys/kernel/debug/" + kind + "/";
            write_file(folder + "ignore-gfp-wait", "N");
            write_file(folder + "verbose", "0");
        }
        write_file("/sys/kernel/debug/fail_page_alloc/min-order", "0");
        write_file("/sys/kernel/debug/fail_page_alloc/ignore-gfp-highmem", "N");
        KmodTest::SetUp();
    }
};

// Arms the n-th allocation of this thread for the time of a call; afterwards
// hit() tells whether the call came as far.
class FailNth {
  public:
    explicit FailNth(int n) : fd_(must(::open("/proc/thread-self/fail-nth", O_RDWR), "fail-nth")) {
        const std::string text = std::to_string(n);
        must(::write(fd_.get(), text.data(), text.size()), "fail-nth");
    }
    // Reading and writing the file copies to and from us too, and so may be what fails:
    // then the call was past before the n-th came.
    bool hit() {
        char text[16]{};
        if (::pread(fd_.get(), text, sizeof(text) - 1, 0) < 0)
            return false;
        while (::write(fd_.get(), "0", 1) < 0)
            must(errno == EFAULT ? 0 : -1, "fail-nth");
        return std::atoi(text) == 0;
    }

  private:
    Fd fd_;
};

struct Round {
    Advice advice;
    bool hit = false;
};

// In a child: its memory anew, and one call in which allocation `n` fails.
Round call_failing(Kind kind, std::uint64_t seed, int n, std::uint32_t flags) {
    const Region memory(kind, {Content::kMixed, seed}, kPages);
    const Device device;
    if (flags == UPM_ADVISE_UNMERGE) {
        EXPECT_EQ(device.advise(memory.base(), memory.len()).error, 0);
    }
    Round round;
    {
        FailNth fail(n);
        round.advice = device.advise(memory.base(), memory.len(), {.flags = flags});
        round.hit = fail.hit();
    }
    memory.check();
    // What the failure left undone can be done now.
    if (flags == 0) {
        const Advice again = device.advise(memory.base(), memory.len());
        EXPECT_EQ(again.error, 0);
        EXPECT_EQ(again.done() + again.skipped(UPM_SKIP_NOT_PRESENT), kPages);
        memory.check();
    }
    return round;
}

// All n for a call; at least `least` allocations must have been there to fail.
void fail_each(Kind kind, std::uint32_t flags, bool known, int least) {
    Process child;
    const std::uint64_t seed = fresh_seed();
    Actor keeper(kind, {Content::kMixed, seed}, kPages);
    if (known)
        keeper.advise();
    int n = 1;
    for (; n < kMany; n++) {
        // New content every time, unless the keeper has it.
        const std::uint64_t content = known ? seed : fresh_seed();
        const Round round = child.call(&call_failing, kind, content, n, flags);
        const int error = round.advice.error;
        EXPECT_TRUE(error == 0 || error == ENOMEM || error == EFAULT)
            << "allocation " << n << ": errno " << error;
        if (!round.hit)
            break;
        if (testing::Test::HasFailure())
            FAIL() << "at allocation " << n;
    }
    EXPECT_LT(n, kMany);
    EXPECT_GT(n, least) << "nothing was there to fail: does the injection work?";
    keeper.check();
}

// kvzalloc of the batch, and two allocations (page, entry) for each new page.
TEST_F(Injection, InsertAnonymous) {
    fail_each(Kind::kAnonymous, 0, false, 10);
}

TEST_F(Injection, InsertFile) {
    fail_each(Kind::kFileClean, 0, false, 10);
}

TEST_F(Injection, MergeKnown) {
    fail_each(Kind::kAnonymous, 0, true, 2);
}

TEST_F(Injection, MergeKnownReadOnly) {
    fail_each(Kind::kReadOnly, 0, true, 2);
}

TEST_F(Injection, DryRun) {
    fail_each(Kind::kAnonymous, UPM_ADVISE_DRY_RUN, true, 1);
}

// A copy for each page can fail; what failed stays merged.
TEST_F(Injection, Unmerge) {
    fail_each(Kind::kAnonymous, UPM_ADVISE_UNMERGE, true, 5);
}

// In a child: a load of `source` into fresh memory, in which allocation `n` fails. What
// it says was read is there, and the rest can be read after it.
bool load_failing(const Source *source, int n) {
    const Mapping memory((kPages + 1) * kPage);
    const Device device;
    Loaded loaded;
    bool hit = false;
    {
        FailNth fail(n);
        loaded = device.load(source->fd(), 0, memory.base(), source->size());
        hit = fail.hit();
    }
    EXPECT_TRUE(loaded.error == 0 || loaded.error == ENOMEM || loaded.error == EFAULT)
        << loaded.error;
    EXPECT_TRUE(source->equal(memory.base(), 0, loaded.done));
    const Loaded rest = device.load(source->fd(), loaded.done, memory.base() + loaded.done,
                                    source->size() - loaded.done);
    EXPECT_EQ(rest.error, 0);
    EXPECT_EQ(loaded.done + rest.done, source->size());
    EXPECT_TRUE(source->equal(memory.base(), 0, source->size()));
    return hit;
}

void fail_each_load(bool known, int least) {
    const Pattern pattern{Content::kMixed, fresh_seed()};
    const Source keep(pattern, kPages, 1234);
    const Mapping keeper((kPages + 1) * kPage);
    const Device device;
    if (known) {
        EXPECT_EQ(device.load(keep.fd(), 0, keeper.base(), keep.size()).done, keep.size());
    }
    int n = 1;
    for (; n < kMany; n++) {
        const Source fresh({Content::kMixed, fresh_seed()}, kPages, 1234);
        Process child;
        const bool hit = child.call(&load_failing, known ? &keep : &fresh, n);
        if (!hit)
            break;
        if (testing::Test::HasFailure())
            FAIL() << "at allocation " << n;
    }
    EXPECT_LT(n, kMany);
    EXPECT_GT(n, least) << "nothing was there to fail: does the injection work?";
    if (known) {
        EXPECT_TRUE(keep.equal(keeper.base(), 0, keep.size()));
    }
}

// The load itself, a bounce page for each page, and a spare one with its entry.
TEST_F(Injection, LoadOfNewContent) {
    fail_each_load(false, 2 * static_cast<int>(kPages));
}

TEST_F(Injection, LoadOfKnownContent) {
    fail_each_load(true, static_cast<int>(kPages));
}

// The brake and the sweep by hand: an error or success, and the next one does it all.
TEST_F(Injection, Brake) {
    const Knob enabled("enabled", 1);
    Actor actor(Kind::kAnonymous, {Content::kDistinct, fresh_seed()}, kPages);
    int n = 1;
    for (; n < kMany; n++) {
        ASSERT_EQ(write_file(kSysfs + "enabled", "1"), 0);
        EXPECT_EQ(actor.advise().done(), kPages);
        bool hit = false;
        for (const char *name : {"unmerge", "sweep"}) {
            const Fd file(must(::open((kSysfs + name).c_str(), O_WRONLY), name));
            FailNth fail(n);
            const int error = ::write(file.get(), "1", 1) == 1 ? 0 : errno;
            hit = fail.hit() || hit;
            EXPECT_TRUE(error == 0 || error == ENOMEM || error == EFAULT) << name << ": " << error;
        }
        actor.check();
        if (!hit)
            break;
    }
    EXPECT_LT(n, kMany);
    EXPECT_GT(n, 2) << "nothing was there to fail: does the injection work?";
    EXPECT_EQ(write_file(kSysfs + "unmerge", "1"), 0);
    actor.check();
}

// Opening the device and a domain: an error or success, never half a domain.
TEST_F(Injection, OpenDomain) {
    int n = 1;
    for (; n < kMany; n++) {
        const std::string key = fresh_key();
        const Device device;
        FailNth fail(n);
        const Fd domain = device.domain(key);
        const int error = errno;
        const bool hit = fail.hit();
        if (!domain) {
            EXPECT_TRUE(error == ENOMEM || error == ENFILE || error == EFAULT)
                << "allocation " << n << ": " << error;
        }
        if (!hit) {
            EXPECT_TRUE(domain);
            break;
        }
    }
    EXPECT_LT(n, kMany);
    EXPECT_GT(n, 3);
}

} // namespace

} // namespace upm::test
