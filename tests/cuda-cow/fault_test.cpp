// SPDX-License-Identifier: MIT
//
// No failing driver call leaves a hole or loses a byte.
#include "cuda-cow/core/runtime.hpp"
#include "cuda-cow/measure/probes.hpp"
#include "tests/cuda-cow/buffer_fixture.hpp"

#include <cerrno>
#include <memory>
#include <unistd.h>
#include <utility>

namespace upm::cuda::test {

namespace {

// Should even the way back fail, will_write finds the way out.
TEST_F(BufferTest, MemoryThatCouldNotBeThawedIsNotForgotten) {
    Buffer one = filled(1);
    // The first one freezes what cannot be exported then.
    configure("fail=cuMemSetAccess:2:999 fail=cuMemExportToShareableHandle:1:999");
    EXPECT_EQ(one.advise(0, kUnit).error(), EIO);
    EXPECT_NE(describe(one.address()).find("since one that failed"), std::string::npos);
    EXPECT_EQ(*one.will_write(0, kBytes), 0U) << "nothing to copy";
    store(runtime, one.address(), pattern(kBytes, 2));
    EXPECT_EQ(load(runtime, one.address(), kBytes), pattern(kBytes, 2));
    EXPECT_EQ(describe(one.address()), "buffer+0x0 (private)");
}

// What could not be replaced is as it was before: private, and writable at once.
TEST_F(BufferTest, WhatCouldNotBeMergedIsWritable) {
    Buffer known = filled(1);
    Buffer one = filled(1);
    ASSERT_TRUE(known.advise());
    configure("fail=cuMemSetAccess:3:2"); // before come read-only and the comparison
    EXPECT_EQ(one.advise().error(), ENOMEM);
    EXPECT_EQ(one.stats().rolled_back, 1U);
    EXPECT_EQ(one.stats().shared, 0U);
    store(runtime, one.address(), pattern(kBytes, 2));
    EXPECT_EQ(load(runtime, one.address(), kBytes), pattern(kBytes, 2));
    EXPECT_EQ(load(runtime, known.address(), kBytes), pattern(kBytes, 1));
}

// What a kernel stores just after extents were compared, launched with no word to the hook.
class StoresAfterwards : public Hasher {
  public:
    StoresAfterwards(const DriverApi &api, std::unique_ptr<Hasher> real, abi::DevicePtr to)
        : api_(api), real_(std::move(real)), to_(to) {}
    int tag(const std::vector<Piece> &pieces, const kernels::Keys &keys, std::vector<Tag> &tags,
            const Meanwhile &meanwhile) override {
        return real_->tag(pieces, keys, tags, meanwhile);
    }
    int compare(const std::vector<Piece> &pieces, const std::vector<abi::DevicePtr> &others,
                std::vector<bool> &different, const Meanwhile &meanwhile) override {
        const int error = real_->compare(pieces, others, different, meanwhile);
        const measure::Probes probes(api_);
        launched = probes.store(to_) == abi::kSuccess;
        stored = api_.ctx_synchronize();
        return error;
    }
    [[nodiscard]] const char *name() const noexcept override { return real_->name(); }

    bool launched = false;
    abi::Status stored = abi::kSuccess;

  private:
    const DriverApi &api_;
    const std::unique_ptr<Hasher> real_;
    const abi::DevicePtr to_;
};

// Without the hook nothing keeps a launch out. Such a store is an error, or it is kept.
TEST_F(BufferTest, NoStoreIsLostBetweenComparingAndReplacing) {
    GTEST_FLAG_SET(death_test_style, "threadsafe"); // the error loses the context
    constexpr std::size_t kAt = kUnit + 4096;
    Buffer known = filled(1);
    Buffer one = filled(1);
    ASSERT_NE(pattern(kBytes, 1)[kAt], 1) << "what the kernel stores";
    ASSERT_TRUE(known.advise());
    const auto store_and_look = [&] {
        RuntimeImpl &gpu = *runtime.shared();
        auto made =
            std::make_unique<StoresAfterwards>(gpu.api, std::move(gpu.hasher), one.address() + kAt);
        const StoresAfterwards &seen = *made;
        gpu.hasher = std::move(made);
        (void)one.advise();
        broker.kill(); // it has the test's stderr, whose end is waited for
        return seen.launched && (seen.stored == abi::kIllegalAddress ||
                                 (seen.stored == abi::kSuccess &&
                                  load(runtime, one.address() + kAt, 1).front() == 1));
    };
    EXPECT_EXIT(::_exit(store_and_look() ? 0 : 1), testing::ExitedWithCode(0), "");
}

// A driver that does not unmap several mappings at once costs time, not bytes.
TEST_F(BufferTest, UnmapsOneByOneIfItMust) {
    Buffer one = filled(1);
    ASSERT_TRUE(one.advise());
    // That of the window, and, after its extents one by one, that of the extents.
    configure("fail=cuMemUnmap:1:1 fail=cuMemUnmap:" + std::to_string(kExtents + 1) + ":1");
    EXPECT_EQ(*one.will_write(0, kBytes), kBytes) << last_error();
    EXPECT_EQ(one.stats().rolled_back, 0U);
    EXPECT_EQ(load(runtime, one.address(), kBytes), pattern(kBytes, 1));
}

// Every driver call of an operation fails once, one after the other. Never a hole:
// the bytes can be read, and after a second try they can be written.
class EveryCallFails : public BufferTest, public testing::WithParamInterface<const char *> {
  protected:
    // Both have pattern(kBytes, call). `end`: there are fewer calls than that, and none failed.
    void advise_with_fault(unsigned call, const Buffer &known, Buffer &one, bool &end) {
        configure("reset=1 task_us=0 fail=" + std::string(GetParam()) + ":" + std::to_string(call) +
                  ":2");
        const std::size_t before = fake_stats().calls;
        const Result<AdviseCounts> done = one.advise();
        const std::size_t calls = fake_stats().calls - before;
        configure("reset=1 task_us=0");
        ASSERT_EQ(load(runtime, one.address(), kBytes), pattern(kBytes, call));
        ASSERT_TRUE(one.advise()) << last_error();
        ASSERT_EQ(one.stats().shared, kExtents);
        ASSERT_TRUE(one.will_write(0, kBytes)) << last_error();
        store(runtime, one.address(), pattern(kBytes, call + 1));
        ASSERT_EQ(load(runtime, known.address(), kBytes), pattern(kBytes, call));
        end = done && calls < call;
    }
};

TEST_P(EveryCallFails, WillWrite) {
    for (unsigned call = 1; call < 200; ++call) {
        SCOPED_TRACE(call);
        Buffer one = filled(call);
        ASSERT_TRUE(one.advise()) << last_error();
        configure("reset=1 task_us=0 fail=" + std::string(GetParam()) + ":" + std::to_string(call) +
                  ":2");
        const std::size_t before = fake_stats().calls;
        const Result<std::uint64_t> small = one.will_write(0, 2 * kUnit); // to spares
        const Result<std::uint64_t> done = one.will_write(0, kBytes);
        const std::size_t calls = fake_stats().calls - before;
        configure("reset=1 task_us=0");
        ASSERT_EQ(load(runtime, one.address(), kBytes), pattern(kBytes, call));
        ASSERT_TRUE(one.will_write(0, kBytes)) << last_error();
        store(runtime, one.address(), pattern(kBytes, call + 1));
        ASSERT_EQ(load(runtime, one.address(), kBytes), pattern(kBytes, call + 1));
        if (small && done && calls < call)
            return; // the last call was reached
    }
    FAIL() << "no end of calls";
}

TEST_P(EveryCallFails, Advise) {
    for (unsigned call = 1; call < 200; ++call) {
        SCOPED_TRACE(call);
        // Two extents are known before, two are new.
        Buffer known = filled(call);
        ASSERT_TRUE(known.advise(0, 2 * kUnit)) << last_error();
        Buffer one = filled(call);
        bool end = false;
        ASSERT_NO_FATAL_FAILURE(advise_with_fault(call, known, one, end));
        if (end)
            return;
    }
    FAIL() << "no end of calls";
}

// What another process published, offered to a new broker.
TEST_P(EveryCallFails, OfferAgain) {
    for (unsigned call = 1; call < 200; ++call) {
        SCOPED_TRACE(call);
        Buffer known = filled(call);
        ASSERT_TRUE(known.advise()) << last_error();
        Buffer one = std::move(*Buffer::attach(runtime, *known.manifest()));
        broker.kill();
        broker.start();
        bool end = false;
        ASSERT_NO_FATAL_FAILURE(advise_with_fault(call, known, one, end));
        if (end)
            return;
    }
    FAIL() << "no end of calls";
}

INSTANTIATE_TEST_SUITE_P(Fault, EveryCallFails, testing::Values("*"),
                         [](const auto &) { return std::string("AnyCall"); });

} // namespace

} // namespace upm::cuda::test
