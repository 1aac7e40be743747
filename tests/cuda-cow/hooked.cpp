// SPDX-License-Identifier: MIT
//
// A program that knows nothing of the hook: shares a buffer, then does what its
// arguments say to it by ordinary driver calls. It is linked to the fake driver.
//
//   hooked direct|dlsym|procaddress|thread ACTION…
//
// `thread` is cuGetProcAddress for the default stream of each thread.
//
// Prints "shared=N bytes=same|different" after each action, and the error if any.
#include "cuda-cow/driver/abi.hpp"
#include "cuda-cow/fake/image.hpp"
#include "tests/cuda-cow/calls.hpp"

#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <string>
#include <upm/cuda.hpp>
#include <vector>

using namespace upm::cuda;
using upm::Result;

namespace {

constexpr std::size_t kUnit = 65536;
constexpr std::size_t kBytes = 4 * kUnit;
constexpr std::size_t kPitch = 1024;

// Writes 0x11 through its second parameter if the third is not zero.
void copy_kernel(const fake::Launch &, void **parameters) {
    const auto *const from = *static_cast<unsigned char **>(parameters[0]);
    auto *const to = *static_cast<unsigned char **>(parameters[1]);
    if (*static_cast<int *>(parameters[2]) != 0)
        std::memset(to, 0x11 + from[0] - from[0], 16);
}

// weight.fill_(0) as PyTorch launches it: the address in a std::array<char *, 1> by value.
constexpr const char *kFill = "_ZN2at6native29vectorized_elementwise_kernelILi4ENS0_11FillFunctor"
                              "IfEESt5arrayIPcLm1EEEEviT0_T1_";
void fill_kernel(const fake::Launch &, void **parameters) {
    std::memset(*static_cast<char **>(parameters[2]), 0, 16);
}

constexpr std::size_t kFillSizes[] = {4, 4, 8};
constexpr std::size_t kSizes[] = {8, 8, 4};
constexpr fake::ImageFunction kFunctions[] = {
    {"_Z9all_constPKhS0_i", 3, kSizes, copy_kernel},
    {"_Z6writesPKhPhi", 3, kSizes, copy_kernel},
    {"k", 3, kSizes, copy_kernel},
    {kFill, 3, kFillSizes, fill_kernel},
};
constexpr fake::Image kImage{.count = 4, .functions = kFunctions};

// Text in which a comment with a ';' stands before the store through the second parameter.
constexpr const char *kPtx = R"(.version 8.0
.target sm_80
.visible .entry k( .param .u64 k_param_0, .param .u64 k_param_1, .param .u32 k_param_2 )
{ .reg .b64 %rd<3>; .reg .b32 %r<2>;
 ld.param.u64 %rd1, [k_param_1]; cvta.to.global.u64 %rd2, %rd1;
 // t.cu:4 for (int i = 0; i < n; ++i) {
 st.global.u32 [%rd2], %r1; ret; })";

struct Calls {
    decltype(&cuLaunchKernel) launch = cuLaunchKernel;
    decltype(&cuMemsetD8_v2) memset = cuMemsetD8_v2;
    decltype(&cuMemcpyDtoD_v2) copy = cuMemcpyDtoD_v2;
};

Calls find_calls(const std::string &way) {
    Calls calls;
    if (way == "dlsym") {
        void *const driver = ::dlopen("libcuda.so.1", RTLD_NOW);
        calls.launch = reinterpret_cast<decltype(calls.launch)>(::dlsym(driver, "cuLaunchKernel"));
        calls.memset = reinterpret_cast<decltype(calls.memset)>(::dlsym(driver, "cuMemsetD8_v2"));
        calls.copy = reinterpret_cast<decltype(calls.copy)>(::dlsym(driver, "cuMemcpyDtoD_v2"));
    } else if (way == "procaddress" || way == "thread") {
        const std::uint64_t flags = way == "thread" ? 2 : 0;
        const auto find = [flags](const char *name) {
            void *found = nullptr;
            (void)cuGetProcAddress_v2(name, &found, 13000, flags, nullptr);
            return found;
        };
        calls.launch = reinterpret_cast<decltype(calls.launch)>(find("cuLaunchKernel"));
        calls.memset = reinterpret_cast<decltype(calls.memset)>(find("cuMemsetD8"));
        calls.copy = reinterpret_cast<decltype(calls.copy)>(find("cuMemcpyDtoD"));
    }
    return calls;
}

class Program {
  public:
    explicit Program(const std::string &way) : calls_(find_calls(way)) {}

    bool start() {
        Result<Runtime> opened = Runtime::open();
        if (!opened)
            return false;
        runtime_ = *opened;
        for (Buffer *buffer : {&from_, &to_}) {
            Result<Buffer> made =
                Buffer::allocate(runtime_, kBytes, {.extent_bytes = kUnit, .name = "weights"});
            if (!made)
                return false;
            *buffer = std::move(*made);
        }
        abi::Context context = nullptr;
        abi::Module module = nullptr;
        return cuDevicePrimaryCtxRetain(&context, 0) == 0 && cuCtxSetCurrent(context) == 0 &&
               cuModuleLoadData(&module, &kImage) == 0 &&
               cuModuleGetFunction(&all_const_, module, "_Z9all_constPKhS0_i") == 0 &&
               cuModuleGetFunction(&writes_, module, "_Z6writesPKhPhi") == 0 &&
               cuModuleGetFunction(&plain_c_, module, "k") == 0 &&
               cuModuleGetFunction(&torch_fill_, module, kFill) == 0 && fill(from_, 1) &&
               fill(to_, 2);
    }

    void run(const std::string &action) {
        abi::Status status = act(action);
        if (status == abi::kSuccess)
            status = cuCtxSynchronize();
        std::vector<unsigned char> now(kBytes);
        if (status == abi::kSuccess)
            status = cuMemcpyDtoH_v2(now.data(), to_.address(), kBytes);
        if (status != abi::kSuccess) {
            (void)std::printf("%s: error=%d\n", action.c_str(), status);
            return;
        }
        (void)std::printf("%s: shared=%llu,%llu bytes=%s\n", action.c_str(),
                          static_cast<unsigned long long>(from_.stats().shared),
                          static_cast<unsigned long long>(to_.stats().shared),
                          now == model_ ? "same" : "different");
        model_ = now;
    }

  private:
    bool fill(const Buffer &buffer, unsigned char value) {
        model_.assign(kBytes, value);
        return cuMemcpyHtoD_v2(buffer.address(), model_.data(), kBytes) == 0;
    }

    abi::Status launch(abi::Function function, int write) {
        Address from = from_.address();
        Address to = to_.address() + kUnit + 16;
        void *parameters[] = {&from, &to, &write};
        return calls_.launch(function, 1, 1, 1, 1, 1, 1, 0, nullptr, parameters, nullptr);
    }

    // Four rows of 16 bytes, the first in the second extent, the last in the third.
    abi::Copy2D plane() {
        abi::Copy2D copy = {};
        copy.from.memory_type = copy.to.memory_type = abi::kMemoryDevice;
        copy.from.device = from_.address();
        copy.to.device = to_.address();
        copy.to.y = 2 * kUnit / kPitch - 2;
        copy.to.x_bytes = 32;
        copy.from.pitch = copy.to.pitch = kPitch;
        copy.width_bytes = 16;
        copy.height = 4;
        return copy;
    }

    abi::Status copy_volume() {
        const abi::Copy2D flat = plane();
        abi::Copy3D copy = {};
        copy.from.memory_type = copy.to.memory_type = abi::kMemoryDevice;
        copy.from.device = flat.from.device;
        copy.to.device = flat.to.device;
        copy.from.pitch = copy.to.pitch = kPitch;
        copy.from.height = copy.to.height = kUnit / kPitch;
        copy.to.z = 3; // slices of one extent
        copy.width_bytes = 16;
        copy.height = copy.depth = 1;
        return cuMemcpy3D_v2(&copy);
    }

    abi::Status copy_batch() {
        Address to[] = {to_.address(), to_.address() + 3 * kUnit};
        Address from[] = {from_.address(), from_.address()};
        std::size_t bytes[] = {8, 8};
        return cuMemcpyBatchAsync_v2(to, from, bytes, 2, nullptr, nullptr, 0, nullptr);
    }

    abi::Status launch_kernel() {
        abi::Library library = nullptr;
        abi::Kernel kernel = nullptr;
        if (cuLibraryLoadData(&library, &kImage, nullptr, nullptr, 0, nullptr, nullptr, 0) != 0 ||
            cuLibraryGetKernel(&kernel, library, "_Z6writesPKhPhi") != 0)
            return abi::kNotFound;
        return launch(reinterpret_cast<abi::Function>(kernel), 1);
    }

    // The second of the image's functions, in an array that has room for more.
    abi::Status launch_enumerated() {
        abi::Library library = nullptr;
        std::vector<abi::Kernel> kernels(9, reinterpret_cast<abi::Kernel>(this));
        if (cuLibraryLoadData(&library, &kImage, nullptr, nullptr, 0, nullptr, nullptr, 0) != 0 ||
            cuLibraryEnumerateKernels(kernels.data(), 9, library) != 0)
            return abi::kNotFound;
        return launch(reinterpret_cast<abi::Function>(kernels[1]), 1);
    }

    // The second of two writes.
    abi::Status launch_many() {
        Address from = from_.address();
        Address to = to_.address() + kUnit + 16;
        int write = 0;
        void *reads[] = {&from, &to, &write};
        int write_now = 1;
        void *writes[] = {&from, &to, &write_now};
        abi::LaunchParams all[] = {{all_const_, 1, 1, 1, 1, 1, 1, 0, nullptr, reads},
                                   {writes_, 1, 1, 1, 1, 1, 1, 0, nullptr, writes}};
        return cuLaunchCooperativeKernelMultiDevice(all, 2, 0);
    }

    abi::Status launch_ex() {
        Address from = from_.address();
        Address to = to_.address() + kUnit + 16;
        int write = 1;
        void *parameters[] = {&from, &to, &write};
        const abi::LaunchConfig config{1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, 0};
        return cuLaunchKernelEx(&config, writes_, parameters, nullptr);
    }

    abi::Status launch_fill() {
        int count = 4;
        float value = 0;
        Address to = to_.address() + kUnit + 16;
        void *parameters[] = {&count, &value, &to};
        return calls_.launch(torch_fill_, 1, 1, 1, 1, 1, 1, 0, nullptr, parameters, nullptr);
    }

    // The fake takes no PTX: it is there for the hook to see.
    abi::Status launch_from_ptx() {
        abi::Module module = nullptr;
        (void)cuModuleLoadData(&module, kPtx);
        return launch(plain_c_, 1);
    }

    // A launch that reads, and with `set` a memset.
    abi::Status capture(bool set) {
        Address from = from_.address();
        Address to = to_.address() + kUnit + 16;
        int write = set ? 0 : 1;
        void *parameters[] = {&from, &to, &write};
        abi::Graph graph = nullptr;
        abi::Status status = stream_ != nullptr ? abi::kSuccess : cuStreamCreate(&stream_, 1);
        if (status == abi::kSuccess)
            status = cuStreamBeginCapture_v2(stream_, 0);
        if (status == abi::kSuccess)
            status = calls_.launch(set ? all_const_ : writes_, 1, 1, 1, 1, 1, 1, 0, stream_,
                                   parameters, nullptr);
        if (status == abi::kSuccess && set)
            status = cuMemsetD8Async(to_.address() + 2 * kUnit, 9, 8, stream_);
        const abi::Status ended = cuStreamEndCapture(stream_, &graph);
        if (status == abi::kSuccess)
            status = ended;
        if (status == abi::kSuccess)
            status = cuGraphInstantiateWithFlags(&exec_, graph, 0);
        std::size_t count = 1;
        if (status == abi::kSuccess)
            status = cuGraphGetNodes(graph, &node_, &count);
        return status;
    }

    // The graph's kernel writes to the first extent from now on.
    abi::Status change_graph() {
        Address from = from_.address();
        Address to = to_.address();
        int write = 1;
        void *parameters[] = {&from, &to, &write};
        const abi::KernelNodeParams changed{writes_, 1, 1,          1,       1,       1,
                                            1,       0, parameters, nullptr, nullptr, nullptr};
        return cuGraphExecKernelNodeSetParams_v2(exec_, node_, &changed);
    }

    abi::Status act(const std::string &action) {
        if (action == "plane") {
            const abi::Copy2D copy = plane();
            return cuMemcpy2D_v2(&copy);
        }
        if (action == "volume")
            return copy_volume();
        if (action == "batch")
            return copy_batch();
        if (action == "unified")
            return cuMemcpy(to_.address(), from_.address(), 8);
        if (action == "peer")
            return cuMemcpyPeer(to_.address(), nullptr, from_.address(), nullptr, 8);
        if (action == "rectangle")
            return cuMemsetD2D8_v2(to_.address() + kUnit, 2 * kUnit, 5, 4, 2);
        if (action == "ptx")
            return launch_from_ptx();
        if (action == "fill")
            return launch_fill();
        if (action == "kernel")
            return launch_kernel();
        if (action == "enumerated")
            return launch_enumerated();
        if (action == "many")
            return launch_many();
        if (action == "ex")
            return launch_ex();
        if (action == "capture" || action == "capture-set")
            return capture(action == "capture-set");
        if (action == "change")
            return change_graph();
        if (action == "graph")
            return cuGraphLaunch(exec_, stream_);
        if (action == "advise")
            return from_.advise() && to_.advise() ? abi::kSuccess : abi::kUnknown;
        if (action == "memset")
            return calls_.memset(to_.address() + kUnit, 7, 1);
        if (action == "copy")
            return calls_.copy(to_.address(), from_.address(), 2 * kUnit);
        if (action == "const")
            return launch(all_const_, 0);
        if (action == "lie")
            return launch(all_const_, 1);
        if (action == "write")
            return launch(writes_, 1);
        if (action == "read")
            return launch(writes_, 0);
        return abi::kInvalidValue;
    }

    Calls calls_;
    Runtime runtime_;
    Buffer from_;
    Buffer to_;
    abi::Function all_const_ = nullptr;
    abi::Function writes_ = nullptr;
    abi::Function plain_c_ = nullptr;
    abi::Function torch_fill_ = nullptr;
    abi::Stream stream_ = nullptr;
    abi::GraphExec exec_ = nullptr;
    abi::GraphNode node_ = nullptr;
    std::vector<unsigned char> model_;
};

} // namespace

int main(int argc, char **argv) {
    if (argc < 2)
        return 2;
    Program program(argv[1]);
    if (!program.start()) {
        (void)std::printf("cannot start: %s\n", last_error());
        return 1;
    }
    for (int i = 2; i < argc; ++i)
        program.run(argv[i]);
    return 0;
}
