// SPDX-License-Identifier: MIT
//
// What the hook does around a call, without a hook: whom it lets through, whom it keeps
// waiting, and what it costs.
#include "cuda-cow/broker/client.hpp"
#include "cuda-cow/core/gate.hpp"
#include "cuda-cow/core/runtime.hpp"
#include "cuda-cow/hook/graphs.hpp"
#include "cuda-cow/hook/guard.hpp"
#include "tests/cuda-cow/support.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <thread>

namespace upm::cuda::test {

namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using hook::Guard;

constexpr std::size_t kBytes = 4 * kUnit;

// Bytes that this process has sent to the broker at `path`, and it has not read.
int unread_by(const std::string &path) {
    int sum = 0;
    for (int fd = 3; fd < 1024; ++fd) {
        sockaddr_un peer = {};
        socklen_t size = sizeof peer;
        int bytes = 0;
        if (::getpeername(fd, reinterpret_cast<sockaddr *>(&peer), &size) == 0 &&
            peer.sun_family == AF_UNIX && path == peer.sun_path &&
            ::ioctl(fd, SIOCOUTQ, &bytes) == 0)
            sum += bytes;
    }
    return sum;
}

// An advise by another thread, which has asked a broker that stands still. Pre: it does.
class HeldAdvise {
  public:
    HeldAdvise(Buffer &buffer, const Broker &broker)
        : thread_([this, &buffer] {
              done_ = buffer.advise();
              over_ = true;
          }) {
        while (!over_ && unread_by(broker.socket()) == 0)
            std::this_thread::sleep_for(1ms);
    }
    ~HeldAdvise() {
        if (thread_.joinable())
            thread_.join();
    }
    HeldAdvise(const HeldAdvise &) = delete;
    HeldAdvise &operator=(const HeldAdvise &) = delete;

    [[nodiscard]] bool over() const { return over_; }
    // Pre: the broker goes on.
    Result<AdviseCounts> result() {
        thread_.join();
        return done_;
    }

  private:
    std::atomic<bool> over_{false};
    Result<AdviseCounts> done_{AdviseCounts{}, 0};
    std::thread thread_; // the last, as it uses the others
};

class GuardTest : public testing::Test {
  protected:
    Buffer shared(unsigned seed) {
        Buffer made = filled(runtime, seed);
        EXPECT_TRUE(made.advise()) << last_error();
        return made;
    }
    static Buffer filled(const Runtime &where, unsigned seed) {
        Buffer made = std::move(*Buffer::allocate(where, kBytes, {.extent_bytes = kUnit}));
        store(where, made.address(), pattern(kBytes, seed));
        return made;
    }
    // Of a runtime that waits long for the broker's answers.
    [[nodiscard]] Runtime patient_runtime() const {
        return *Runtime::open(
            {.driver = fake_driver(), .socket = broker.socket(), .timeout_ms = 60000});
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

// While advise waits for a broker that stands still, nothing else does: neither launches,
// nor writes to this buffer and to others, nor what is freed. No time is measured: the
// advise is not over until the broker goes on.
TEST_F(GuardTest, StoppedBrokerHoldsNoWriteAndNoLaunchUp) {
    const Runtime patient = patient_runtime();
    Buffer advised = filled(patient, 1);
    Buffer other = filled(patient, 2);
    auto freed = std::make_unique<Buffer>(filled(patient, 3));
    ASSERT_TRUE(other.advise()) << last_error();
    ASSERT_TRUE(freed->advise()) << last_error();
    ASSERT_EQ(::kill(broker.pid(), SIGSTOP), 0);
    HeldAdvise advising(advised, broker);
    launch(0);
    EXPECT_EQ(*other.will_write(0, kUnit), kUnit) << "a lease is given back";
    EXPECT_EQ(*other.will_write(kUnit, kUnit), kUnit);
    EXPECT_EQ(*advised.will_write(0, kUnit), 0U) << "it was still private";
    store(patient, advised.address(), pattern(kUnit, 9));
    freed.reset();
    launch(0);
    EXPECT_FALSE(advising.over()) << "one of them waited for the broker";
    ASSERT_EQ(::kill(broker.pid(), SIGCONT), 0);
    const Result<AdviseCounts> done = advising.result();
    ASSERT_TRUE(done) << last_error();
    EXPECT_EQ(done->published, 3U);
    EXPECT_EQ(done->refused, 1U) << "written meanwhile";
    EXPECT_EQ(load(patient, advised.address(), kUnit), pattern(kUnit, 9));
    broker::Client watch({.socket = broker.socket()});
    broker::Counters counters;
    ASSERT_EQ(watch.counters(counters), 0);
    EXPECT_EQ(counters.extents, 5U) << "of 12: 3 and 2; what was given back is forgotten";
    EXPECT_EQ(counters.reservations, 0U);
}

// An advise looks at memory that may be written all the while, by launches that the hook lets
// through: what changed meanwhile is neither merged nor published.
TEST_F(GuardTest, WhatIsWrittenBetweenHashingAndSharingStaysPrivate) {
    const Runtime patient = patient_runtime();
    Buffer known = filled(patient, 1);
    Buffer advised = filled(patient, 1);
    ASSERT_EQ(known.advise(0, 2 * kUnit)->published, 2U) << last_error();
    ASSERT_EQ(::kill(broker.pid(), SIGSTOP), 0);
    HeldAdvise advising(advised, broker);
    store(patient, advised.address(), pattern(kUnit, 8));
    store(patient, advised.address() + 2 * kUnit, pattern(kUnit, 9));
    EXPECT_EQ(*advised.will_write(3 * kUnit, kUnit), 0U) << "private, and so it stays";
    EXPECT_FALSE(advising.over());
    ASSERT_EQ(::kill(broker.pid(), SIGCONT), 0);
    const Result<AdviseCounts> done = advising.result();
    ASSERT_TRUE(done) << last_error();
    EXPECT_EQ(done->merged, 1U);
    EXPECT_EQ(done->different, 1U);
    EXPECT_EQ(done->published, 0U);
    EXPECT_EQ(done->refused, 2U);
    std::vector<unsigned char> wanted = pattern(kBytes, 1);
    const std::vector<unsigned char> eight = pattern(kUnit, 8);
    const std::vector<unsigned char> nine = pattern(kUnit, 9);
    std::copy(eight.begin(), eight.end(), wanted.begin());
    std::copy(nine.begin(), nine.end(), wanted.begin() + 2 * kUnit);
    EXPECT_EQ(load(patient, advised.address(), kBytes), wanted);
    store(patient, advised.address(), eight);
    store(patient, advised.address() + 2 * kUnit, nine);
    store(patient, advised.address() + 3 * kUnit, nine);
    EXPECT_EQ(known.advise()->published, 2U) << "nobody was told of what is written";
    EXPECT_EQ(load(patient, known.address(), kBytes), pattern(kBytes, 1));
}

// What is on its way to the broker may be seen by others: a write meanwhile copies it.
TEST_F(GuardTest, WriteDuringPublicationCopies) {
    const Runtime patient = patient_runtime();
    Buffer one = filled(patient, 1);
    Buffer two = filled(patient, 1);
    broker::Client watch({.socket = broker.socket()});
    broker::Counters counters;
    configure("latency_us=20000"); // time to stop the broker between asking and publishing
    std::atomic<bool> over{false};
    std::thread advising([&] {
        EXPECT_TRUE(one.advise()) << last_error();
        over = true;
    });
    while (!over && counters.reservations == 0 && watch.counters(counters) == 0) {
    }
    EXPECT_EQ(::kill(broker.pid(), SIGSTOP), 0);
    while (!over && unread_by(broker.socket()) == 0)
        std::this_thread::sleep_for(1ms);
    configure("latency_us=0");
    const bool written = !over; // on a very slow machine it may have been published by now
    if (written) {
        EXPECT_EQ(*one.will_write(0, kUnit), kUnit) << "copied, not made writable";
        store(patient, one.address(), pattern(kUnit, 9));
        EXPECT_FALSE(over) << "the write waited for the broker";
    }
    ASSERT_EQ(::kill(broker.pid(), SIGCONT), 0);
    advising.join();
    const Result<AdviseCounts> done = two.advise();
    ASSERT_TRUE(done) << last_error();
    EXPECT_EQ(done->merged + done->published, kBytes / kUnit);
    EXPECT_EQ(load(patient, two.address(), kBytes), pattern(kBytes, 1));
    EXPECT_EQ(load(patient, one.address(), kUnit), pattern(kUnit, written ? 9 : 1));
    ASSERT_EQ(watch.counters(counters), 0);
    EXPECT_EQ(counters.leases, 2 * kBytes / kUnit - (written ? 1 : 0)) << "none of what it wrote";
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

// Nothing was frozen, since it was known: and still it is not writable any more.
TEST_F(GuardTest, GraphsFindWhatWasMergedSince) {
    const Buffer known = shared(1);
    Buffer one = shared(1);
    PlayedGraph::start = one.address();
    PlayedGraph::nodes = 2;
    hook::note_graph(PlayedGraph::inspector(), exec(3), nullptr);
    for (unsigned round = 0; round < 3; ++round) {
        { const Guard guard(hook::Inspector{}, exec(3), nullptr); }
        EXPECT_EQ(one.stats().shared, 3U) << round;
        EXPECT_EQ(one.advise()->merged, 1U);
    }
    hook::forget_graph(exec(3));
}

} // namespace

} // namespace upm::cuda::test
