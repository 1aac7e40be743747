// SPDX-License-Identifier: MIT
//
// How often the mappings of a process are counted, which takes as long as it has many.
#include "libupm/base/descriptor_table.hpp"
#include "libupm/base/system.hpp"
#include "libupm/mm/aligned_range.hpp"
#include "libupm/store/run_budget.hpp"
#include "libupm/store/segment.hpp"

#include <cstddef>
#include <cstdint>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>

namespace upm::store {
namespace {

constexpr std::uint32_t kMany = RunBudget::kFree + 52;
constexpr std::uint32_t kNext = kMany + kMany / 2 + RunBudget::kFree / 2; // are counted anew

// So many mappings of a segment, of a page each.
class Mappings {
  public:
    explicit Mappings(std::uint32_t count) {
        const int fd = ::memfd_create(kSegmentName, MFD_CLOEXEC);
        EXPECT_EQ(::ftruncate(fd, static_cast<off_t>(page_size())), 0);
        EXPECT_TRUE(range_.reserve(count * page_size()));
        for (std::uint32_t i = 0; i < count; ++i) // all of the same page: none join
            EXPECT_NE(::mmap(range_.data() + i * page_size(), page_size(), PROT_READ,
                             MAP_PRIVATE | MAP_FIXED, fd, 0),
                      MAP_FAILED);
        ::close(fd);
    }
    void reset() { range_.reset(); }

  private:
    AlignedRange range_;
};

void use(RunBudget &budget, std::uint32_t count) {
    for (std::uint32_t i = 0; i < count; ++i)
        EXPECT_TRUE(budget.afford(RunBudget::kMinRun));
}

class StoreRunBudget : public testing::Test {
  protected:
    StoreRunBudget() : mappings_(kMany) {
        budget_.find_limit();
        use(budget_, kMany);
        budget_.recount();
        EXPECT_FALSE(budget_.plenty()) << "they are all there";
        mappings_.reset();
    }

    Mappings mappings_;
    RunBudget budget_;
};

TEST_F(StoreRunBudget, CountsWhenThereAreHalfAsManyAgain) {
    use(budget_, kNext - 1 - kMany);
    budget_.recount();
    EXPECT_FALSE(budget_.plenty()) << "so soon, it is not worth it";
    use(budget_, 1);
    budget_.recount();
    EXPECT_TRUE(budget_.plenty());
}

TEST_F(StoreRunBudget, LeavesItToTheThreadThatNobodyWaitsFor) {
    budget_.leave_to_own_thread();
    use(budget_, kNext);
    budget_.recount();
    EXPECT_FALSE(budget_.plenty());
    std::thread([&] {
        ASSERT_TRUE(take_own_table());
        budget_.recount();
    }).join();
    EXPECT_TRUE(budget_.plenty());
}

} // namespace
} // namespace upm::store
