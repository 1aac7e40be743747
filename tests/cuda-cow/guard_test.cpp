// SPDX-License-Identifier: MIT
//
// What the hook does around a call, without a hook: whom it lets through, whom it keeps
// waiting, and what it costs.
#include "cuda-cow/core/gate.hpp"
#include "cuda-cow/core/runtime.hpp"
#include "cuda-cow/hook/graphs.hpp"
#include "cuda-cow/hook/guard.hpp"
#include "tests/cuda-cow/support.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <thread>

namespace upm::cuda::test {

namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using hook::Guard;

constexpr std::size_t kBytes = 4 * kUnit;

class GuardTest : public testing::Test {
  protected:
    Buffer shared(unsigned seed) {
        Buffer made = std::move(*Buffer::allocate(runtime, kBytes, {.extent_bytes = kUnit}));
        store(runtime, made.address(), pattern(kBytes, seed));
        EXPECT_TRUE(made.advise()) << last_error();
        return made;
    }
    // A launch without arguments, as the hook sees it, on this device.
    static void launch(abi::Device device) {
        current_device = device;
        const hook::Inspector inspector{.device = [](abi::Device *found) {
            *found = current_device;
            return abi::kSuccess;
        }};
        const Guard guard(inspector, nullptr, nullptr, nullptr, nullptr);
        EXPECT_EQ(guard.status(), abi::kSuccess);
    }

    static inline thread_local abi::Device current_device = 0;
    Broker broker;
    Runtime runtime = open_fake(broker.socket());
};

// While advise waits for a broker that stands still, launches go on.
TEST_F(GuardTest, StoppedBrokerHoldsNoLaunchUp) {
    Buffer one = shared(1);
    ASSERT_TRUE(one.will_write(0, kBytes));
    ASSERT_EQ(::kill(broker.pid(), SIGSTOP), 0);
    std::atomic<bool> over{false};
    std::thread advising([&] {
        EXPECT_EQ(one.advise().error(), ETIMEDOUT) << last_error();
        over = true;
    });
    Clock::duration longest{0};
    unsigned launches = 0;
    for (; !over; ++launches) {
        const auto since = Clock::now();
        launch(0);
        longest = std::max(longest, Clock::now() - since);
        std::this_thread::sleep_for(1ms);
    }
    advising.join();
    ASSERT_EQ(::kill(broker.pid(), SIGCONT), 0);
    EXPECT_GT(launches, 10U);
    EXPECT_LT(longest, 4s) << "the advise took 5 s";
}

// Work of another device has nothing to wait for.
TEST_F(GuardTest, EachDeviceHasAGateOfItsOwn) {
    const Buffer one = shared(1);
    ASSERT_TRUE(gate_of(0).try_lock_for(1s));
    launch(1);
    std::atomic<bool> through{false};
    std::thread here([&] {
        launch(0);
        through = true;
    });
    std::this_thread::sleep_for(100ms);
    EXPECT_FALSE(through);
    gate_of(0).unlock();
    here.join();
    EXPECT_TRUE(through);
}

// A launch that is over makes whoever changes mappings wait for the device once more.
TEST_F(GuardTest, TheGateCountsLaunches) {
    const Buffer one = shared(1);
    const std::uint64_t before = gate_of(0).uses();
    launch(0);
    launch(1);
    EXPECT_EQ(gate_of(0).uses(), before + 1);
}

// Whoever waits for the gate exclusively gives up in time, and lets others through again.
TEST_F(GuardTest, TheGateIsNotWaitedForWithoutEnd) {
    gate_of(0).lock_shared();
    EXPECT_FALSE(gate_of(0).try_lock_for(10ms));
    std::thread([] {
        gate_of(0).lock_shared();
        gate_of(0).unlock_shared();
    }).join();
    gate_of(0).unlock_shared();
    ASSERT_TRUE(gate_of(0).try_lock_for(1s));
    gate_of(0).unlock();
}

// Whoever holds it exclusively is alone, however many come and go; nobody is left waiting,
// and each use is counted.
TEST(GateTest, ExclusiveIsAlone) {
    Gate gate;
    constexpr unsigned kUses = 100000;
    std::atomic<int> sharers{0};
    std::atomic<unsigned> wrong{0};
    std::atomic<bool> stop{false};
    unsigned taken = 0;
    unsigned not_in_time = 0;
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < 3; ++i)
        threads.emplace_back([&] {
            for (unsigned use = 0; use < kUses; ++use) {
                gate.lock_shared();
                ++sharers;
                --sharers;
                gate.unlock_shared();
            }
        });
    std::thread impatient([&] {
        while (!stop)
            if (gate.try_lock_for(0ms)) {
                wrong += sharers == 0 ? 0 : 1;
                gate.unlock();
            }
    });
    for (; taken < 300; ++taken) {
        while (!gate.try_lock_for(2ms))
            ++not_in_time;
        for (unsigned look = 0; look < 20; ++look)
            wrong += sharers == 0 ? 0 : 1;
        gate.unlock();
    }
    for (std::thread &thread : threads)
        thread.join();
    stop = true;
    impatient.join();
    EXPECT_EQ(wrong, 0U) << "of " << taken << ", " << not_in_time << " not in time";
    EXPECT_EQ(gate.uses(), 3U * kUses);
}

// --- what a call touches

// A copy may begin in memory of others and end in a buffer.
TEST_F(GuardTest, AccessThatBeginsBeforeABuffer) {
    const Buffer one = shared(1);
    {
        const hook::Accesses accesses{
            .few = {hook::Access{one.address() - 4096, 4096 + kUnit, true}}, .many = {}};
        const Guard guard(hook::Inspector{}, accesses, nullptr);
        EXPECT_EQ(guard.status(), abi::kSuccess);
    }
    EXPECT_EQ(one.stats().shared, 3U);
    {
        const hook::Accesses accesses{.few = {hook::Access{one.address() - 4096, 4096, true}},
                                      .many = {}};
        const Guard guard(hook::Inspector{}, accesses, nullptr);
    }
    EXPECT_EQ(one.stats().shared, 3U);
}

// A buffer whose last owner is a launch is freed after it: freeing waits for the gate that
// the launch holds.
TEST_F(GuardTest, LaunchFreesNothingUnderItsGate) {
    (void)::setenv("UPM_CUDA_LEARN", "1", 1);
    static std::unique_ptr<Buffer> mine;
    mine = std::make_unique<Buffer>(
        std::move(*Buffer::allocate(runtime, kBytes, {.extent_bytes = kUnit})));
    static unsigned asked = 0;
    asked = 0;
    const hook::Inspector inspector{
        .name =
            [](const char **name, abi::Function) {
                *name = "learned";
                return abi::kSuccess;
            },
        .param =
            [](abi::Function, std::size_t index, std::size_t *offset, std::size_t *size) {
                *offset = 0;
                *size = 8;
                return index == 0 ? abi::kSuccess : abi::kInvalidValue;
            },
        .capturing =
            [](abi::Stream, int *status) {
                ++asked;
                mine.reset(); // what another thread may do at any time
                *status = abi::kCaptureActive;
                return abi::kSuccess;
            },
    };
    Address pointer = mine->address();
    void *parameters[] = {&pointer};
    const std::size_t before = fake_stats().bytes;
    {
        auto *const function = reinterpret_cast<abi::Function>(&pointer);
        const Guard guard(inspector, function, parameters, nullptr, nullptr);
        if (asked == 0)
            GTEST_SKIP() << "another test looked at UPM_CUDA_LEARN before";
        EXPECT_EQ(fake_stats().bytes, before);
    }
    EXPECT_EQ(fake_stats().bytes, before - kBytes);
}

// --- graphs

// A graph of memsets, 16 bytes each, all over a buffer: the handles are numbers.
struct PlayedGraph {
    static inline std::size_t nodes = 0;
    static inline Address start = 0;

    static hook::GraphInspector inspector() {
        hook::GraphInspector made;
        made.nodes = [](abi::Graph, abi::GraphNode *to, std::size_t *count) {
            for (std::size_t i = 0; to != nullptr && i < nodes; ++i)
                to[i] =
                    reinterpret_cast<abi::GraphNode>(i + 1); // NOLINT(performance-no-int-to-ptr)
            *count = nodes;
            return abi::kSuccess;
        };
        made.type = [](abi::GraphNode, int *type) {
            *type = abi::kNodeMemset;
            return abi::kSuccess;
        };
        made.set = [](abi::GraphNode node, abi::MemsetNodeParams *params) {
            const std::size_t index = reinterpret_cast<std::uintptr_t>(node) - 1;
            *params = {.to = start + index * 64 % (2 * kUnit),
                       .pitch = 0,
                       .value = 0,
                       .element_bytes = 1,
                       .width = 16,
                       .height = 1};
            return abi::kSuccess;
        };
        return made;
    }
};

abi::GraphExec exec(std::uintptr_t number) {
    return reinterpret_cast<abi::GraphExec>(number); // NOLINT(performance-no-int-to-ptr)
}

// The least of many, so that a busy machine does not count.
std::chrono::nanoseconds launch_cost(abi::GraphExec graph) {
    auto least = std::chrono::nanoseconds::max();
    for (unsigned i = 0; i < 2000; ++i) {
        const auto since = Clock::now();
        const Guard guard(hook::Inspector{}, graph, nullptr);
        least = std::min<std::chrono::nanoseconds>(least, Clock::now() - since);
    }
    return least;
}

TEST_F(GuardTest, GraphLaunchesCostTheSameWithManyNodes) {
    Buffer one = shared(1);
    PlayedGraph::start = one.address();
    const auto inspector = PlayedGraph::inspector();
    std::chrono::nanoseconds costs[2];
    for (unsigned i = 0; i < 2; ++i) {
        PlayedGraph::nodes = i == 0 ? 2 : 2000;
        hook::note_graph(inspector, exec(1 + i), nullptr);
        { const Guard first(hook::Inspector{}, exec(1 + i), nullptr); }
        costs[i] = launch_cost(exec(1 + i));
    }
    EXPECT_EQ(one.stats().shared, 2U) << "what its nodes write is private, and no more";
    EXPECT_LT(costs[1], 5 * costs[0] + 1us);
    ASSERT_TRUE(one.advise());
    { const Guard again(hook::Inspector{}, exec(2), nullptr); }
    EXPECT_EQ(one.stats().shared, 2U) << "what was shared since is found";
    for (unsigned i = 0; i < 2; ++i)
        hook::forget_graph(exec(1 + i));
}

} // namespace

} // namespace upm::cuda::test
