// SPDX-License-Identifier: MIT
//
// What this folder relies on from a CUDA driver, on both: the fake, and the real
// one where there is a GPU (cuda-cow/measure runs them there). The suite's name
// says which: Driver/Conformance.…/real, …/fake. What each expects was measured on a GPU
// (docs/cuda-cow.md says on which), and the fake does likewise. All of them can run in one
// process: what loses the context does it in another one.
#include "cuda-cow/measure/probes.hpp"
#include "tests/cuda-cow/support.hpp"

#include <cstring>
#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

namespace upm::cuda::test {

namespace {

enum class Which : std::uint8_t { kFake, kReal };

class Conformance : public testing::TestWithParam<Which> {
  protected:
    void SetUp() override {
        const bool fake = GetParam() == Which::kFake;
        Result<DriverApi> loaded = load_driver(fake ? fake_driver() : "libcuda.so.1");
        if (!loaded && !fake)
            GTEST_SKIP() << "no GPU driver here: " << last_error();
        ASSERT_TRUE(loaded) << last_error();
        api = *loaded;
        // Both have one soname: without a driver here the loader takes the fake for it.
        if (!fake && api.fake())
            GTEST_SKIP() << "no GPU driver here, and the fake is loaded";
        ASSERT_EQ(api.fake(), fake);
        if (fake)
            configure("granularity=0"); // other tests of this process want a smaller one
        if (api.device_get(&device, 0) != abi::kSuccess)
            GTEST_SKIP() << "no CUDA device";
        ASSERT_EQ(api.primary_retain(&context, device), abi::kSuccess);
        ASSERT_EQ(api.ctx_set(context), abi::kSuccess);
        prop.type = abi::kAllocationPinned;
        prop.requested_handle_types = abi::kHandlePosixFd;
        prop.location = {abi::kLocationDevice, device};
        ASSERT_EQ(api.granularity(&unit, &prop, abi::kGranularityMinimum), abi::kSuccess);
    }

    void TearDown() override {
        if (api.fake())
            configure("reset=1");
    }

    // Runs `lose`, which returns true if it saw what it should, in a process of its own,
    // with a context of its own.
    template <class Lose>
    static void in_a_child(Lose &&lose) {
        GTEST_FLAG_SET(death_test_style, "threadsafe");
        EXPECT_EXIT(::_exit(lose() && !HasFailure() ? 0 : 1), testing::ExitedWithCode(0), "");
    }

    abi::Handle create(std::size_t units = 1) {
        abi::Handle handle = 0;
        EXPECT_EQ(api.mem_create(&handle, units * unit, &prop, 0), abi::kSuccess);
        return handle;
    }
    abi::DevicePtr reserve(std::size_t units = 1) {
        abi::DevicePtr address = 0;
        EXPECT_EQ(api.mem_reserve(&address, units * unit, 0, 0, 0), abi::kSuccess);
        return address;
    }
    abi::Status access(abi::DevicePtr at, std::size_t units, int flags) {
        const abi::MemAccessDesc wanted{{abi::kLocationDevice, device}, flags};
        return api.mem_set_access(at, units * unit, &wanted, 1);
    }
    abi::DevicePtr mapped(abi::Handle handle, int flags) {
        const abi::DevicePtr at = reserve();
        EXPECT_EQ(api.mem_map(at, unit, 0, handle, 0), abi::kSuccess);
        EXPECT_EQ(access(at, 1, flags), abi::kSuccess);
        return at;
    }
    int exported(abi::Handle handle) {
        int fd = -1;
        EXPECT_EQ(api.mem_export(&fd, handle, abi::kHandlePosixFd, 0), abi::kSuccess);
        return fd;
    }
    // Closes the descriptor, as an importer does.
    abi::Handle imported(int fd) {
        abi::Handle handle = 0;
        EXPECT_EQ(api.mem_import(&handle, reinterpret_cast<void *>(std::intptr_t{fd}),
                                 abi::kHandlePosixFd),
                  abi::kSuccess);
        ::close(fd);
        return handle;
    }
    unsigned char first_byte(abi::DevicePtr at) {
        unsigned char byte = 0;
        EXPECT_EQ(api.memcpy_dtoh(&byte, at, 1), abi::kSuccess);
        return byte;
    }

    DriverApi api;
    abi::Device device = 0;
    abi::Context context = nullptr;
    abi::MemAllocationProp prop = {};
    std::size_t unit = 0;
};

TEST_P(Conformance, GranularityIsTwoMebibytes) {
    EXPECT_EQ(unit, 2U << 20) << "not wrong, but extent sizes were chosen for this";
}

TEST_P(Conformance, SizesMustBeWholeUnits) {
    abi::Handle handle = 0;
    EXPECT_EQ(api.mem_create(&handle, unit / 2, &prop, 0), abi::kInvalidValue);
    EXPECT_EQ(api.mem_create(&handle, unit + 4096, &prop, 0), abi::kInvalidValue);
    EXPECT_EQ(api.mem_create(&handle, 0, &prop, 0), abi::kInvalidValue);
}

// One handle is one unit of mapping.
TEST_P(Conformance, OffsetMustBeZero) {
    const abi::Handle handle = create(2);
    const abi::DevicePtr at = reserve(2);
    EXPECT_NE(api.mem_map(at, unit, unit, handle, 0), abi::kSuccess);
}

TEST_P(Conformance, UnmapTakesWholeMappingsOnly) {
    const abi::Handle handle = create(2);
    const abi::DevicePtr at = reserve(2);
    ASSERT_EQ(api.mem_map(at, 2 * unit, 0, handle, 0), abi::kSuccess);
    EXPECT_EQ(api.mem_unmap(at, unit), abi::kInvalidValue);
    EXPECT_EQ(api.mem_unmap(at + unit, unit), abi::kInvalidValue);
    EXPECT_EQ(api.mem_unmap(at, 2 * unit), abi::kSuccess);
    EXPECT_EQ(api.mem_unreserve(at, 2 * unit), abi::kSuccess);
    EXPECT_EQ(api.mem_release(handle), abi::kSuccess);
}

// As NVIDIA's samples do; without it each extent costs a call.
TEST_P(Conformance, UnmapSpansManyWholeMappings) {
    const abi::DevicePtr at = reserve(3);
    for (unsigned i = 0; i < 3; ++i)
        ASSERT_EQ(api.mem_map(at + i * unit, unit, 0, create(), 0), abi::kSuccess);
    EXPECT_EQ(api.mem_unmap(at, 3 * unit), abi::kSuccess);
    EXPECT_EQ(api.mem_map(at + unit, unit, 0, create(), 0), abi::kSuccess);
}

TEST_P(Conformance, AddressesAreTakenOnce) {
    const abi::DevicePtr at = reserve();
    ASSERT_EQ(api.mem_map(at, unit, 0, create(), 0), abi::kSuccess);
    EXPECT_NE(api.mem_map(at, unit, 0, create(), 0), abi::kSuccess);
}

TEST_P(Conformance, SetAccessSpansManyMappings) {
    const abi::DevicePtr at = reserve(3);
    for (unsigned i = 0; i < 3; ++i)
        ASSERT_EQ(api.mem_map(at + i * unit, unit, 0, create(), 0), abi::kSuccess);
    ASSERT_EQ(access(at, 3, abi::kAccessReadWrite), abi::kSuccess);
    EXPECT_EQ(api.memset_d8(at, 7, 3 * unit), abi::kSuccess);
    EXPECT_EQ(first_byte(at + 3 * unit - 1), 7);
}

TEST_P(Conformance, AccessCanBeAsked) {
    const abi::DevicePtr at = mapped(create(), abi::kAccessRead);
    const abi::MemLocation location{abi::kLocationDevice, device};
    unsigned long long flags = 0;
    EXPECT_EQ(api.mem_get_access(&flags, &location, at), abi::kSuccess);
    EXPECT_EQ(flags, static_cast<unsigned>(abi::kAccessRead));
    EXPECT_EQ(access(at, 1, abi::kAccessReadWrite), abi::kSuccess);
    EXPECT_EQ(api.mem_get_access(&flags, &location, at), abi::kSuccess);
    EXPECT_EQ(flags, static_cast<unsigned>(abi::kAccessReadWrite));
}

TEST_P(Conformance, MemoryKeepsItsBytesWhenMappedElsewhere) {
    const abi::Handle handle = create();
    const abi::DevicePtr at = mapped(handle, abi::kAccessReadWrite);
    ASSERT_EQ(api.memset_d8(at, 0x5a, unit), abi::kSuccess);
    ASSERT_EQ(api.ctx_synchronize(), abi::kSuccess);
    ASSERT_EQ(api.mem_unmap(at, unit), abi::kSuccess);
    EXPECT_EQ(first_byte(mapped(handle, abi::kAccessRead)), 0x5a);
}

TEST_P(Conformance, TwoMappingsShowOneMemory) {
    const abi::Handle handle = create();
    const abi::DevicePtr one = mapped(handle, abi::kAccessReadWrite);
    const abi::DevicePtr other = mapped(handle, abi::kAccessRead);
    ASSERT_EQ(api.memset_d8(one, 3, unit), abi::kSuccess);
    ASSERT_EQ(api.ctx_synchronize(), abi::kSuccess);
    EXPECT_EQ(first_byte(other), 3);
}

TEST_P(Conformance, MappingOutlivesItsHandle) {
    const abi::Handle handle = create();
    const abi::DevicePtr at = mapped(handle, abi::kAccessReadWrite);
    ASSERT_EQ(api.memset_d8(at, 9, unit), abi::kSuccess);
    ASSERT_EQ(api.mem_release(handle), abi::kSuccess);
    EXPECT_EQ(first_byte(at), 9);
    abi::Handle again = 0;
    EXPECT_EQ(api.mem_retain(&again, reinterpret_cast<void *>(at)), abi::kSuccess);
    EXPECT_EQ(api.mem_release(again), abi::kSuccess);
}

TEST_P(Conformance, ExportedMemoryOutlivesHandleAndMapping) {
    const abi::Handle handle = create();
    const abi::DevicePtr at = mapped(handle, abi::kAccessReadWrite);
    ASSERT_EQ(api.memset_d8(at, 0x77, unit), abi::kSuccess);
    ASSERT_EQ(api.ctx_synchronize(), abi::kSuccess);
    const int fd = exported(handle);
    ASSERT_EQ(api.mem_unmap(at, unit), abi::kSuccess);
    ASSERT_EQ(api.mem_release(handle), abi::kSuccess);
    EXPECT_EQ(first_byte(mapped(imported(fd), abi::kAccessRead)), 0x77);
}

// So advise has to copy what it offers to a new broker, if it came from another process.
TEST_P(Conformance, ImportedMemoryCannotBeExportedAgain) {
    const abi::Handle handle = imported(exported(create()));
    int fd = -1;
    EXPECT_EQ(api.mem_export(&fd, handle, abi::kHandlePosixFd, 0), abi::kInvalidValue);
    EXPECT_EQ(fd, -1);
}

// Read-only protects against mistakes only: whoever has the descriptor may write.
TEST_P(Conformance, ImporterCanMapWritable) {
    const abi::DevicePtr at = mapped(imported(exported(create())), abi::kAccessReadWrite);
    EXPECT_EQ(api.memset_d8(at, 1, unit), abi::kSuccess);
    EXPECT_EQ(api.ctx_synchronize(), abi::kSuccess);
}

TEST_P(Conformance, MemoryWithoutHandleTypeCannotBeExported) {
    abi::MemAllocationProp closed = prop;
    closed.requested_handle_types = 0;
    abi::Handle handle = 0;
    ASSERT_EQ(api.mem_create(&handle, unit, &closed, 0), abi::kSuccess);
    int fd = -1;
    EXPECT_NE(api.mem_export(&fd, handle, abi::kHandlePosixFd, 0), abi::kSuccess);
}

// What the driver itself writes is refused by the call, and that is all that happens.
TEST_P(Conformance, CopiesIntoReadOnlyMemoryAreRefused) {
    const abi::Handle handle = create();
    const abi::DevicePtr writable = mapped(handle, abi::kAccessReadWrite);
    const abi::DevicePtr read_only = mapped(handle, abi::kAccessRead);
    const abi::DevicePtr from = mapped(create(), abi::kAccessReadWrite);
    ASSERT_EQ(api.memset_d8(writable, 0x5a, unit), abi::kSuccess);
    ASSERT_EQ(api.memset_d8(from, 1, unit), abi::kSuccess);
    const unsigned char byte = 1;
    EXPECT_EQ(api.memset_d8(read_only, 1, 16), abi::kInvalidValue);
    EXPECT_EQ(api.memset_d8_async(read_only, 1, 16, nullptr), abi::kInvalidValue);
    EXPECT_EQ(api.memcpy_htod(read_only, &byte, 1), abi::kInvalidValue);
    EXPECT_EQ(api.memcpy_htod_async(read_only, &byte, 1, nullptr), abi::kInvalidValue);
    EXPECT_EQ(api.memcpy_dtod(read_only, from, 16), abi::kInvalidValue);
    EXPECT_EQ(api.memcpy_dtod_async(read_only, from, 16, nullptr), abi::kInvalidValue);
    EXPECT_EQ(api.ctx_synchronize(), abi::kSuccess) << "the context is as good as before";
    EXPECT_EQ(first_byte(read_only), 0x5a);
    EXPECT_EQ(api.memset_d8(writable, 2, unit), abi::kSuccess);
    EXPECT_EQ(first_byte(read_only), 2);
}

TEST_P(Conformance, CopiesNeedAccess) {
    const abi::DevicePtr at = reserve();
    unsigned char byte = 0;
    ASSERT_EQ(api.mem_map(at, unit, 0, create(), 0), abi::kSuccess);
    EXPECT_EQ(api.memcpy_dtoh(&byte, at, 1), abi::kInvalidValue);
    EXPECT_EQ(api.ctx_synchronize(), abi::kSuccess);
}

// What a kernel may not do is an error that stays, whatever is called next.
TEST_P(Conformance, KernelStoreToReadOnlyMemoryIsSticky) {
    in_a_child([&] {
        const measure::Probes probes(api);
        const abi::DevicePtr elsewhere = mapped(create(), abi::kAccessReadWrite);
        const abi::DevicePtr at = mapped(create(), abi::kAccessRead);
        return probes.load(at) == abi::kSuccess && api.ctx_synchronize() == abi::kSuccess &&
               probes.store(at) == abi::kSuccess && api.ctx_synchronize() == abi::kIllegalAddress &&
               api.ctx_synchronize() == abi::kIllegalAddress &&
               api.memset_d8(elsewhere, 1, unit) == abi::kIllegalAddress;
    });
}

TEST_P(Conformance, KernelsNeedAccess) {
    in_a_child([&] {
        const measure::Probes probes(api);
        const abi::DevicePtr at = reserve();
        return api.mem_map(at, unit, 0, create(), 0) == abi::kSuccess &&
               probes.load(at) == abi::kSuccess && api.ctx_synchronize() == abi::kIllegalAddress;
    });
}

// What still runs sees what was unmapped meanwhile, and ends then: however long it was to
// run.
TEST_P(Conformance, UnmapDoesNotWaitForKernels) {
    in_a_child([&] {
        const measure::Probes probes(api);
        const abi::DevicePtr at = mapped(create(), abi::kAccessReadWrite);
        return probes.load(at) == abi::kSuccess && api.ctx_synchronize() == abi::kSuccess &&
               probes.spin(at, 10000) == abi::kSuccess &&
               api.mem_unmap(at, unit) == abi::kSuccess &&
               api.ctx_synchronize() == abi::kIllegalAddress;
    });
}

// Of the fake only: fresh memory was zero on the GPU that was looked at, also where it had
// been written and freed before. No document promises that, so nothing may rely on it.
TEST_P(Conformance, FreshMemoryHoldsAnything) {
    if (GetParam() == Which::kReal)
        GTEST_SKIP() << "fake only";
    EXPECT_NE(first_byte(mapped(create(), abi::kAccessRead)), 0);
}

TEST_P(Conformance, MoreThanTheDeviceHasIsOutOfMemory) {
    const bool fake = GetParam() == Which::kFake;
    if (fake)
        configure("memory=" + std::to_string(fake_stats().bytes + 2 * unit));
    std::size_t available = 0;
    std::size_t total = 0;
    ASSERT_EQ(api.mem_info(&available, &total), abi::kSuccess);
    abi::Handle handle = 0;
    EXPECT_EQ(api.mem_create(&handle, (total / unit + 1) * unit, &prop, 0), abi::kOutOfMemory);
    EXPECT_EQ(api.mem_create(&handle, unit, &prop, 0), abi::kSuccess) << "and nothing else";
    EXPECT_EQ(api.mem_release(handle), abi::kSuccess);
}

// Of the fake only: how many mappings a GPU allows nobody has found out.
TEST_P(Conformance, LimitsAreOutOfMemory) {
    if (GetParam() == Which::kReal)
        GTEST_SKIP() << "fake only";
    const upm_fake_stats now = fake_stats();
    configure("memory=" + std::to_string(now.bytes + 2 * unit) +
              " mappings=" + std::to_string(now.mappings + 1));
    const abi::Handle one = create();
    const abi::Handle two = create();
    abi::Handle three = 0;
    EXPECT_EQ(api.mem_create(&three, unit, &prop, 0), abi::kOutOfMemory);
    (void)mapped(one, abi::kAccessRead);
    EXPECT_EQ(api.mem_map(reserve(), unit, 0, two, 0), abi::kOutOfMemory);
    ASSERT_EQ(api.mem_release(two), abi::kSuccess);
    EXPECT_EQ(api.mem_create(&three, unit, &prop, 0), abi::kSuccess);
}

TEST_P(Conformance, NullStreamKeepsTheOrder) {
    abi::Stream stream = nullptr;
    ASSERT_EQ(api.stream_create(&stream, 0), abi::kSuccess);
    const abi::DevicePtr at = mapped(create(), abi::kAccessReadWrite);
    for (unsigned char round = 1; round < 20; ++round) {
        ASSERT_EQ(api.memset_d8_async(at, round, unit, stream), abi::kSuccess);
        EXPECT_EQ(first_byte(at), round) << "cuMemcpyDtoH waits for blocking streams";
    }
    EXPECT_EQ(api.stream_destroy(stream), abi::kSuccess);
}

TEST_P(Conformance, ChildOfAForkHasNoCuda) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        abi::Handle handle = 0;
        ::_exit(api.mem_create(&handle, unit, &prop, 0) == abi::kNotInitialized ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
}

std::string which_name(const testing::TestParamInfo<Which> &info) {
    return info.param == Which::kFake ? "fake" : "real";
}

INSTANTIATE_TEST_SUITE_P(Driver, Conformance, testing::Values(Which::kReal, Which::kFake),
                         which_name);

// A failing call must fail, and only it: the other tests rely on this.
TEST(FakeDriver, InjectsFaultsOnce) {
    const DriverApi api = *load_driver(UPM_FAKE_DRIVER);
    configure("fail=cuDeviceGet:2:999");
    abi::Device device = 0;
    EXPECT_EQ(api.device_get(&device, 0), abi::kSuccess);
    EXPECT_EQ(api.device_get(&device, 0), abi::kUnknown);
    EXPECT_EQ(api.device_get(&device, 0), abi::kSuccess);
}

TEST(Driver, SaysWhatIsMissing) {
    EXPECT_EQ(load_driver("/nowhere/libcuda.so.1").error(), ENOENT);
    EXPECT_NE(std::string(last_error()).find("/nowhere/libcuda.so.1"), std::string::npos);
    EXPECT_EQ(load_driver("libm.so.6").error(), ENOSYS);
    EXPECT_NE(std::string(last_error()).find("cuInit"), std::string::npos);
}

} // namespace

} // namespace upm::cuda::test
