// SPDX-License-Identifier: MIT
//
// Buffers in one process: what changes, and what stays.
#include "cuda-cow/core/spares.hpp"
#include "tests/cuda-cow/buffer_fixture.hpp"

#include <atomic>
#include <cerrno>
#include <fcntl.h>
#include <memory>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace upm::cuda::test {

namespace {

TEST_F(BufferTest, AdviseKeepsTheBytesAndTheAddress) {
    Buffer one = filled(1);
    const Address before = one.address();
    const Result<AdviseCounts> done = one.advise();
    ASSERT_TRUE(done) << last_error();
    EXPECT_EQ(done->published, kExtents);
    EXPECT_EQ(done->bytes, kBytes);
    EXPECT_EQ(one.address(), before);
    EXPECT_EQ(load(runtime, before, kBytes), pattern(kBytes, 1));
    EXPECT_EQ(one.advise()->already, kExtents) << "advising again does no harm";
}

TEST_F(BufferTest, EqualBuffersShareMemory) {
    Buffer one = filled(1);
    Buffer two = filled(1);
    ASSERT_TRUE(one.advise());
    const std::size_t before = fake_stats().bytes;
    const Result<AdviseCounts> done = two.advise();
    ASSERT_TRUE(done) << last_error();
    EXPECT_EQ(done->merged, kExtents);
    EXPECT_EQ(fake_stats().bytes, before - kBytes);
    EXPECT_EQ(load(runtime, two.address(), kBytes), pattern(kBytes, 1));
}

TEST_F(BufferTest, WriteCopiesTheTouchedExtentsOnly) {
    Buffer one = filled(1);
    Buffer two = filled(1);
    ASSERT_TRUE(one.advise());
    ASSERT_TRUE(two.advise());
    const Result<Address> at = two.write_ptr(kUnit - 8, 16);
    ASSERT_TRUE(at) << last_error();
    EXPECT_EQ(*at, two.address() + kUnit - 8);
    store(runtime, *at, std::vector<unsigned char>(16, 0xab));
    std::vector<unsigned char> wanted = pattern(kBytes, 1);
    EXPECT_EQ(load(runtime, one.address(), kBytes), wanted);
    std::fill_n(wanted.begin() + kUnit - 8, 16, 0xab);
    EXPECT_EQ(load(runtime, two.address(), kBytes), wanted);
    EXPECT_EQ(two.stats().copies, 2U);
    EXPECT_EQ(two.stats().shared, kExtents - 2);
}

TEST_F(BufferTest, WritingWhatIsPrivateCostsNothing) {
    Buffer one = filled(1);
    const std::size_t calls = fake_stats().calls;
    EXPECT_EQ(*one.will_write(0, kBytes), 0U);
    EXPECT_EQ(fake_stats().calls, calls);
}

// The sole holder copies too: others may have had the memory, and it is known.
TEST_F(BufferTest, WrittenExtentIsNotFoundAnyMore) {
    Buffer one = filled(1);
    ASSERT_TRUE(one.advise());
    ASSERT_TRUE(one.will_write(0, kBytes));
    store(runtime, one.address(), pattern(kBytes, 2));
    Buffer two = filled(1);
    EXPECT_EQ(two.advise()->published, kExtents);
    EXPECT_EQ(load(runtime, two.address(), kBytes), pattern(kBytes, 1));
}

TEST_F(BufferTest, TheEndOfTheLastExtentDoesNotSpoilSharing) {
    const std::size_t odd = kBytes - 1000;
    Buffer one = make(odd);
    Buffer two = make(odd);
    for (const Buffer *buffer : {&one, &two}) {
        std::vector<unsigned char> bytes = pattern(kBytes, 1);
        bytes.resize(odd);
        store(runtime, buffer->address(), bytes);
    }
    EXPECT_EQ(one.advise()->published, kExtents);
    EXPECT_EQ(two.advise()->merged, kExtents);
}

// What no tensor fills holds on a GPU whatever was there: it is equal all the same.
TEST_F(BufferTest, WhatIsNeverWrittenDoesNotSpoilSharing) {
    Buffer one = make();
    Buffer two = make();
    for (const Buffer *buffer : {&one, &two})
        store(runtime, buffer->address(), pattern(kUnit + 24, 1));
    EXPECT_EQ(one.advise()->published, 3U) << "four are equal, and cleared";
    EXPECT_EQ(two.advise()->merged, kExtents);
}

TEST_F(BufferTest, AdvisesWholeExtentsOnly) {
    Buffer one = filled(1);
    EXPECT_EQ(one.advise(1, 3 * kUnit - 2)->extents, 1U);
    EXPECT_EQ(one.stats().shared, 1U);
    EXPECT_EQ(one.advise(kBytes - kUnit)->published, 1U);
}

TEST_F(BufferTest, RejectsBadRanges) {
    Buffer one = filled(1);
    EXPECT_EQ(one.advise(kBytes + 1).error(), EINVAL);
    EXPECT_EQ(one.advise(1, kBytes).error(), EINVAL);
    EXPECT_EQ(one.will_write(kBytes, 1).error(), EINVAL);
    EXPECT_EQ(one.will_write(8, SIZE_MAX).error(), EINVAL);
    EXPECT_EQ(Buffer::allocate(runtime, 0).error(), EINVAL);
    EXPECT_EQ(Buffer::allocate(runtime, 1, {.extent_bytes = 4096}).error(), EINVAL);
    EXPECT_NE(std::string(last_error()).find("granularity"), std::string::npos);
}

TEST_F(BufferTest, AttachSharesWithoutLoading) {
    Buffer one = filled(1);
    ASSERT_TRUE(one.advise());
    const Result<Manifest> manifest = one.manifest();
    ASSERT_TRUE(manifest);
    const Result<Manifest> parsed = Manifest::parse(manifest->serialize());
    ASSERT_TRUE(parsed);
    const std::size_t before = fake_stats().bytes;
    Result<Buffer> two = Buffer::attach(runtime, *parsed);
    ASSERT_TRUE(two) << last_error();
    EXPECT_EQ(fake_stats().bytes, before);
    EXPECT_EQ(load(runtime, two->address(), kBytes), pattern(kBytes, 1));
    ASSERT_TRUE(two->will_write(0, 1));
    EXPECT_EQ(two->stats().copies, 1U);
}

TEST_F(BufferTest, AttachNeedsEveryExtent) {
    Manifest manifest{.bytes = kUnit, .extents = {{kUnit, {1, 2}}}};
    EXPECT_EQ(Buffer::attach(runtime, manifest).error(), ENOENT);
    manifest.extents[0].bytes = 4096;
    EXPECT_EQ(Buffer::attach(runtime, manifest).error(), EINVAL);
    EXPECT_EQ(Manifest::parse("upm-cuda-manifest 1 65536 1\n65536 xyz\n").error(), EINVAL);
    EXPECT_EQ(Manifest::parse("").error(), EINVAL);
    Buffer private_one = filled(1);
    EXPECT_EQ(private_one.manifest().error(), EAGAIN);
    EXPECT_EQ(private_one.advise()->published, kExtents) << "nothing stays promised";
}

TEST_F(BufferTest, FreesEverything) {
    const upm_fake_stats at_first = fake_stats();
    {
        const Runtime other = open_fake(broker.socket());
        Result<Buffer> one = Buffer::allocate(other, kBytes, {.extent_bytes = kUnit});
        ASSERT_TRUE(one);
        ASSERT_TRUE(one->advise()) << last_error();
        const upm_fake_stats before = fake_stats();
        {
            Buffer two = std::move(*Buffer::attach(other, *one->manifest()));
            ASSERT_TRUE(two.will_write(0, kUnit)) << "to a spare";
            ASSERT_TRUE(two.advise()) << "which is made up for";
            ASSERT_TRUE(two.will_write(0, kBytes));
        }
        expect_same(fake_stats(), before);
    }
    expect_same(fake_stats(), at_first);
}

// What is made beforehand is little, and goes when there is no other memory.
TEST_F(BufferTest, SparesAreFewAndGivenUp) {
    Buffer one = filled(1);
    const upm_fake_stats before = fake_stats();
    ASSERT_TRUE(one.advise());
    EXPECT_EQ(fake_stats().bytes, before.bytes + Spares::kCount * kUnit);
    configure("memory=" + std::to_string(fake_stats().bytes));
    Buffer two = make(2 * kUnit);
    EXPECT_EQ(fake_stats().bytes, before.bytes + 2 * kUnit);
    configure("memory=0");
    Buffer large = make(4 * kUnit, 4 * kUnit);
    const std::size_t without = fake_stats().bytes;
    ASSERT_TRUE(large.advise());
    EXPECT_EQ(fake_stats().bytes, without) << "for extents of the smallest size only";
}

// A write that finds a spare makes, reserves and opens nothing.
TEST_F(BufferTest, FirstWriteTakesASpare) {
    Buffer one = filled(1);
    ASSERT_TRUE(one.advise());
    for (std::size_t i = 0; i < kExtents; ++i) {
        const upm_fake_stats before = fake_stats();
        ASSERT_EQ(*one.will_write(i * kUnit, 1), kUnit);
        const bool spare = i < Spares::kCount;
        EXPECT_EQ(fake_stats().bytes, before.bytes + (spare ? 0 : kUnit) - kUnit) << i;
        store(runtime, one.address() + i * kUnit, {7});
    }
    std::vector<unsigned char> wanted = pattern(kBytes, 1);
    for (std::size_t i = 0; i < kExtents; ++i)
        wanted[i * kUnit] = 7;
    EXPECT_EQ(load(runtime, one.address(), kBytes), wanted);
}

TEST_F(BufferTest, FreesEverythingOfWhatWasShared) {
    Buffer warm = filled(3);
    ASSERT_TRUE(warm.advise());
    const upm_fake_stats before = fake_stats();
    {
        Buffer one = filled(1);
        Buffer two = filled(1);
        ASSERT_TRUE(one.advise());
        ASSERT_TRUE(two.advise());
        ASSERT_TRUE(two.will_write(0, kBytes));
    }
    expect_same(fake_stats(), before);
}

// Whatever runs is done before memory is taken away under it: with work that starts
// late, a forgotten wait is an error 700.
TEST_F(BufferTest, WaitsForTheDevice) {
    configure("task_us=5000");
    Buffer one = make();
    Buffer two = make();
    const DriverApi api = *load_driver(UPM_FAKE_DRIVER);
    abi::Context context = nullptr;
    ASSERT_EQ(api.primary_retain(&context, 0), abi::kSuccess);
    ASSERT_EQ(api.ctx_set(context), abi::kSuccess);
    abi::Stream stream = nullptr;
    ASSERT_EQ(api.stream_create(&stream, abi::kStreamNonBlocking), abi::kSuccess);
    for (Buffer *buffer : {&one, &two})
        ASSERT_EQ(api.memset_d8_async(buffer->address(), 5, kBytes, stream), abi::kSuccess);
    ASSERT_TRUE(one.advise()) << last_error();
    EXPECT_EQ(two.advise()->merged + two.advise()->already, 2 * kExtents);
    Buffer target = make();
    // Many, so that they last longer than will_write's own copies; and slow calls, so that
    // nothing is mapped for long enough to be read meanwhile.
    for (unsigned i = 0; i < 60; ++i)
        ASSERT_EQ(api.memcpy_dtod_async(target.address(), one.address(), kBytes, stream),
                  abi::kSuccess);
    configure("latency_us=2000");
    ASSERT_TRUE(one.will_write(0, kBytes)) << last_error();
    EXPECT_EQ(api.ctx_synchronize(), abi::kSuccess);
    EXPECT_EQ(load(runtime, target.address(), kBytes), std::vector<unsigned char>(kBytes, 5));
    configure("task_us=0 latency_us=0");
}

TEST_F(BufferTest, NoBrokerIsAnErrorAndNothingElse) {
    broker.kill();
    Buffer one = filled(1);
    EXPECT_EQ(one.advise().error(), ECONNREFUSED);
    EXPECT_NE(std::string(last_error()).find("upm-cudad"), std::string::npos);
    store(runtime, one.address(), pattern(kBytes, 2));
    EXPECT_EQ(load(runtime, one.address(), kBytes), pattern(kBytes, 2)) << "still writable";
}

TEST_F(BufferTest, SharedMemoryOutlivesTheBroker) {
    Buffer one = filled(1);
    ASSERT_TRUE(one.advise());
    broker.kill();
    EXPECT_EQ(load(runtime, one.address(), kBytes), pattern(kBytes, 1));
    ASSERT_TRUE(one.will_write(0, kBytes)) << last_error();
    broker.start();
    EXPECT_EQ(one.advise()->published, kExtents) << "connects anew by itself";
}

// The next broker hears of what the last one knew, and is told by advise.
TEST_F(BufferTest, WhatALostBrokerKnewIsOfferedAgain) {
    Buffer one = filled(1);
    Buffer two = filled(1);
    ASSERT_TRUE(one.advise());
    ASSERT_EQ(two.advise()->merged, kExtents);
    const std::size_t before = fake_stats().bytes;
    broker.kill();
    broker.start();
    EXPECT_EQ(one.advise()->published, kExtents) << "shared all the time, and known again";
    EXPECT_EQ(two.advise()->merged, kExtents);
    EXPECT_EQ(two.advise()->already, kExtents);
    EXPECT_EQ(fake_stats().bytes, before);
    Buffer three = filled(1);
    EXPECT_EQ(three.advise()->merged, kExtents) << "newcomers find it";
    EXPECT_TRUE(Buffer::attach(runtime, *one.manifest())) << last_error();
    for (const Buffer *buffer : {&one, &two, &three})
        EXPECT_EQ(load(runtime, buffer->address(), kBytes), pattern(kBytes, 1));
}

// By whoever comes first. Memory that came from another process cannot be exported: it is
// copied once, and all who had it are together again when they have advised.
TEST_F(BufferTest, WhoeverImportedOffersACopyToTheNextBroker) {
    Buffer one = filled(1);
    ASSERT_TRUE(one.advise());
    Buffer two = std::move(*Buffer::attach(runtime, *one.manifest()));
    Buffer three = filled(1);
    ASSERT_EQ(three.advise()->merged, kExtents);
    const std::size_t before = fake_stats().bytes;
    broker.kill();
    broker.start();
    const Result<AdviseCounts> done = two.advise();
    ASSERT_TRUE(done) << last_error();
    EXPECT_EQ(done->published, kExtents);
    EXPECT_EQ(done->bytes, kBytes) << "all of it is shared";
    EXPECT_EQ(two.stats().copies, 0U) << "that was no write";
    EXPECT_EQ(fake_stats().bytes, before + kBytes) << "until the others have advised";
    EXPECT_EQ(three.advise()->merged, kExtents);
    EXPECT_EQ(one.advise()->merged, kExtents);
    EXPECT_EQ(fake_stats().bytes, before);
    broker.kill();
    broker.start();
    EXPECT_EQ(three.advise()->published, kExtents) << "who merged has imported, too";
    EXPECT_EQ(two.advise()->merged, kExtents);
    EXPECT_EQ(one.advise()->merged, kExtents);
    EXPECT_EQ(fake_stats().bytes, before);
    for (Buffer *buffer : {&one, &two, &three}) {
        EXPECT_EQ(load(runtime, buffer->address(), kBytes), pattern(kBytes, 1));
        EXPECT_EQ(buffer->advise()->already, kExtents);
        ASSERT_EQ(*buffer->will_write(0, 1), kUnit);
        store(runtime, buffer->address(), {9});
    }
    EXPECT_EQ(load(runtime, one.address(), kUnit), load(runtime, three.address(), kUnit));
}

// Without memory for the copies nothing is lost: what is shared stays so, and the next
// broker hears of it from whoever can export it.
TEST_F(BufferTest, WithoutMemoryForACopyItStaysShared) {
    Buffer one = filled(1);
    Buffer two = filled(1);
    ASSERT_TRUE(one.advise());
    ASSERT_EQ(two.advise()->merged, kExtents);
    broker.kill();
    broker.start();
    configure("memory=" + std::to_string(fake_stats().bytes));
    const Result<AdviseCounts> done = two.advise();
    ASSERT_TRUE(done) << last_error();
    EXPECT_EQ(done->refused, kExtents);
    EXPECT_EQ(done->bytes, kBytes);
    EXPECT_EQ(one.advise()->published, kExtents);
    EXPECT_EQ(two.advise()->merged, kExtents);
    configure("memory=0");
    for (const Buffer *buffer : {&one, &two})
        EXPECT_EQ(load(runtime, buffer->address(), kBytes), pattern(kBytes, 1));
}

// Runs of neighbours are remapped together: few calls, and all or nothing.
TEST_F(BufferTest, NeighboursCostOneUnmapAndOneSetAccess) {
    Buffer one = filled(1);
    Buffer two = filled(1);
    ASSERT_TRUE(one.advise());
    const std::size_t calls = fake_stats().calls;
    ASSERT_EQ(two.advise()->merged, kExtents);
    const std::size_t all = fake_stats().calls - calls;
    // For each extent: import, two mappings, release. The rest is for all of them.
    EXPECT_LE(all, 4 * kExtents + 20);
}

// A tag is never enough: somebody of the domain wrote to what was shared.
TEST_F(BufferTest, EqualTagsWithOtherBytesAreNotMerged) {
    Buffer one = filled(1);
    ASSERT_TRUE(one.advise());
    const DriverApi &api = runtime.shared()->api;
    const Manifest manifest = *one.manifest();
    std::vector<broker::Found> found;
    ASSERT_EQ(runtime.shared()->broker->find(
                  {{kUnit, manifest.extents[2].tag.low, manifest.extents[2].tag.high}}, found),
              0);
    ASSERT_GE(found.at(0).fd, 0);
    abi::Handle handle = 0;
    {
        const CurrentContext current(*runtime.shared());
        ASSERT_EQ(api.mem_import(&handle, reinterpret_cast<void *>(std::intptr_t{found.at(0).fd}),
                                 abi::kHandlePosixFd),
                  abi::kSuccess);
        Window window(*runtime.shared());
        ASSERT_EQ(window.open({handle}, {kUnit}, abi::kAccessReadWrite), 0);
        ASSERT_EQ(api.memset_d8(window.pieces()[0].address + kUnit - 1, 0x5e, 1), abi::kSuccess);
        ASSERT_EQ(api.ctx_synchronize(), abi::kSuccess);
    }
    ::close(found.at(0).fd);
    EXPECT_EQ(api.mem_release(handle), abi::kSuccess);
    Buffer two = filled(1);
    const Result<AdviseCounts> done = two.advise();
    ASSERT_TRUE(done) << last_error();
    EXPECT_EQ(done->merged, kExtents - 1);
    EXPECT_EQ(done->different, 1U);
    EXPECT_EQ(load(runtime, two.address(), kBytes), pattern(kBytes, 1));
    store(runtime, two.address() + 2 * kUnit, std::vector<unsigned char>(kUnit, 1));
}

// A member publishes under a tag what is no memory of the device, or of another size: that
// extent is refused, and nothing else of the advise suffers.
TEST_F(BufferTest, WhatCannotBeUsedIsRefusedAlone) {
    Manifest manifest;
    {
        Buffer known = filled(1);
        ASSERT_TRUE(known.advise());
        manifest = *known.manifest();
    }
    const RuntimeImpl &gpu = *runtime.shared();
    abi::Handle large = 0;
    ASSERT_EQ(gpu.create(2 * kUnit, large), 0);
    int other_size = -1;
    ASSERT_EQ(gpu.api.mem_export(&other_size, large, abi::kHandlePosixFd, 0), abi::kSuccess);
    const int fds[] = {::open("/dev/null", O_RDWR | O_CLOEXEC), other_size};
    for (std::size_t i = 0; i < 2; ++i) {
        const Tag tag = manifest.extents[i].tag;
        std::vector<broker::Found> found;
        bool taken = false;
        ASSERT_EQ(gpu.broker->find({{kUnit, tag.low, tag.high}}, found), 0);
        ASSERT_EQ(found.at(0).state, broker::State::kReserved);
        ASSERT_EQ(gpu.broker->publish({found[0].lease}, {fds[i]}, taken), 0);
        ::close(fds[i]);
    }
    for (unsigned round = 0; round < 2; ++round) {
        Buffer one = filled(1);
        const Result<AdviseCounts> done = one.advise();
        ASSERT_TRUE(done) << last_error();
        EXPECT_EQ(done->refused, 2U);
        EXPECT_EQ(done->published + done->merged, kExtents - 2);
        EXPECT_EQ(load(runtime, one.address(), kBytes), pattern(kBytes, 1));
        store(runtime, one.address(), pattern(2 * kUnit, 2));
    }
    EXPECT_EQ(gpu.api.mem_release(large), abi::kSuccess);
}

// CUDA does not survive a fork; the child's end must not cost the parent anything.
TEST_F(BufferTest, ChildOfAForkIsRefusedAndHarmless) {
    auto one = std::make_unique<Buffer>(filled(1));
    ASSERT_TRUE(one->advise());
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        const bool refused = one->advise().error() == ENODEV &&
                             one->will_write(0, 1).error() == ENODEV &&
                             std::string(last_error()).find("fork") != std::string::npos &&
                             Buffer::allocate(runtime, kUnit).error() == ENODEV;
        one.reset();
        runtime = Runtime();
        ::_exit(refused ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    EXPECT_EQ(one->advise()->already, kExtents) << "its leases are still its own";
    Buffer two = filled(1);
    EXPECT_EQ(two.advise()->merged, kExtents);
}

TEST_F(BufferTest, TwoRuntimesOfOneProcess) {
    Runtime other = open_fake(broker.socket());
    Buffer one = filled(1);
    ASSERT_TRUE(one.advise());
    {
        Result<Buffer> two = Buffer::allocate(other, kBytes, {.extent_bytes = kUnit});
        ASSERT_TRUE(two);
        store(other, two->address(), pattern(kBytes, 1));
        EXPECT_EQ(two->advise()->merged, kExtents);
        EXPECT_EQ(*will_write(two->address(), 1), kUnit) << "found by its address";
        EXPECT_EQ(one.stats().shared, kExtents);
    }
    other = Runtime();
    EXPECT_EQ(load(runtime, one.address(), kBytes), pattern(kBytes, 1));
    EXPECT_EQ(one.advise()->already, kExtents);
}

// Threads that write, advise and free buffers of one content, all at once.
TEST_F(BufferTest, ManyThreads) {
    configure("task_us=0");
    std::vector<std::thread> threads;
    std::atomic<unsigned> wrong{0};
    for (unsigned thread = 0; thread < 4; ++thread)
        threads.emplace_back([&, thread] {
            for (unsigned round = 0; round < 12; ++round) {
                Buffer mine = filled(round % 2);
                if (const Result<AdviseCounts> done = mine.advise(); !done) {
                    ADD_FAILURE() << done.error() << " " << last_error();
                    ++wrong;
                }
                std::vector<unsigned char> wanted = pattern(kBytes, round % 2);
                const std::size_t at = (thread + round) % kExtents * kUnit;
                if (const Result<Address> to = mine.write_ptr(at, 16); !to) {
                    ADD_FAILURE() << to.error() << " " << last_error();
                    ++wrong;
                }
                store(runtime, mine.address() + at, std::vector<unsigned char>(16, 0xab));
                std::fill_n(wanted.begin() + static_cast<std::ptrdiff_t>(at), 16, 0xab);
                wrong += load(runtime, mine.address(), kBytes) == wanted ? 0 : 1;
            }
        });
    for (std::thread &thread : threads)
        thread.join();
    EXPECT_EQ(wrong, 0U);
}

// A mapping budget that is used up: nothing changes, and there is an error.
TEST_F(BufferTest, MappingLimit) {
    Buffer one = filled(1);
    ASSERT_TRUE(one.advise());
    configure("mappings=" + std::to_string(fake_stats().mappings));
    EXPECT_EQ(one.will_write(0, kBytes).error(), ENOMEM);
    EXPECT_EQ(load(runtime, one.address(), kBytes), pattern(kBytes, 1));
    configure("mappings=0");
    EXPECT_EQ(*one.will_write(0, kBytes), kBytes);
}

TEST_F(BufferTest, MemoryLimit) {
    Buffer one = filled(1);
    ASSERT_TRUE(one.advise());
    configure("memory=" + std::to_string(fake_stats().bytes + kUnit));
    EXPECT_EQ(one.will_write(0, kBytes).error(), ENOMEM) << "five fit, with the spares; six do not";
    EXPECT_EQ(one.stats().shared, kExtents) << "all or nothing";
    EXPECT_EQ(*one.will_write(0, kUnit), kUnit);
    EXPECT_EQ(load(runtime, one.address(), kBytes), pattern(kBytes, 1));
}

// Before anything is set aside for its extents, of which there would be 2^47.
TEST_F(BufferTest, NoDeviceHasThatMuch) {
    for (const std::size_t bytes : {SIZE_MAX / 2, SIZE_MAX - kUnit, std::size_t{1} << 50}) {
        EXPECT_EQ(Buffer::allocate(runtime, bytes, {.extent_bytes = kUnit}).error(), ENOMEM);
        EXPECT_STRNE(last_error(), "");
    }
    for (const std::size_t bytes : {SIZE_MAX, std::size_t{0}})
        EXPECT_EQ(Buffer::allocate(runtime, bytes, {.extent_bytes = kUnit}).error(), EINVAL);
    for (const std::size_t extent : {kUnit + 1, kUnit / 2, SIZE_MAX})
        EXPECT_EQ(Buffer::allocate(runtime, kBytes, {.extent_bytes = extent}).error(), EINVAL);
}

TEST_F(BufferTest, EmptyBufferSaysSo) {
    Buffer one = filled(1);
    const Buffer two = std::move(one);
    // NOLINTBEGIN(bugprone-use-after-move): that is the question
    EXPECT_EQ(one.advise().error(), EINVAL);
    EXPECT_EQ(one.will_write(0, 1).error(), EINVAL);
    EXPECT_EQ(one.write_ptr(0, 1).error(), EINVAL);
    EXPECT_EQ(one.manifest().error(), EINVAL);
    EXPECT_EQ(one.stats().extents, 0U);
    // NOLINTEND(bugprone-use-after-move)
    EXPECT_EQ(two.stats().extents, kExtents);
}

// A range that begins in memory of others, as one that goes over a whole arena.
TEST_F(BufferTest, WillWriteBeginsAnywhere) {
    configure("reset=1");
    Buffer one = filled(1);
    Buffer two = filled(2);
    ASSERT_TRUE(one.advise());
    ASSERT_TRUE(two.advise());
    const Address first = std::min(one.address(), two.address());
    EXPECT_EQ(*will_write(first - 4096, 4096), 0U);
    EXPECT_EQ(*will_write(first - 4096, 4097), kUnit);
    EXPECT_EQ(*will_write(0, SIZE_MAX), 2 * kBytes - kUnit);
    EXPECT_EQ(one.stats().shared + two.stats().shared, 0U);
}

// Each of them is final: advise must not go on with the next extent as if one was bad.
TEST(Driver, KnowsAllErrorsThatLoseTheContext) {
    for (const abi::Status status :
         {abi::kEccUncorrectable, abi::kIllegalAddress, abi::kLaunchTimeout,
          abi::kContextIsDestroyed, abi::kAssert, abi::kHardwareStackError,
          abi::kIllegalInstruction, abi::kMisalignedAddress, abi::kInvalidAddressSpace,
          abi::kInvalidPc, abi::kLaunchFailed})
        EXPECT_EQ(error_of(status), EFAULT) << status;
    EXPECT_EQ(error_of(abi::kUnknown), EIO);
}

TEST_F(BufferTest, DescribesAddresses) {
    Buffer one = filled(1);
    EXPECT_EQ(describe(one.address() + 16), "buffer+0x10 (private)");
    ASSERT_TRUE(one.advise());
    EXPECT_EQ(describe(one.address()), "buffer+0x0 (shared, read-only)");
    EXPECT_EQ(describe(1), "");
    EXPECT_EQ(*will_write(one.address() + kUnit, 1), kUnit);
    EXPECT_EQ(*will_write(1, 100), 0U);
}

} // namespace

} // namespace upm::cuda::test
