// SPDX-License-Identifier: MIT
//
// Every allocation of a call fails once, and every copy from and to the caller.
// On a kernel with fault injection (tests/vm/run --kernel debug):
// /proc/self/fail-nth makes the n-th of the thread fail, so n = 1, 2, 3 ... visits
// all of them, until a call has fewer.
#include "tests/kmod/support/actor.hpp"

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

TEST_F(Injection, DryRun) {
    fail_each(Kind::kAnonymous, UPM_ADVISE_DRY_RUN, true, 1);
}

// A copy for each page can fail; what failed stays merged.
TEST_F(Injection, Unmerge) {
    fail_each(Kind::kAnonymous, UPM_ADVISE_UNMERGE, true, 5);
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
