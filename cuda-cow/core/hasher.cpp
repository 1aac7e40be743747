// SPDX-License-Identifier: MIT
//
// Hashing and comparing by kernels, and by copying to the host.
#include "cuda-cow/core/runtime.hpp"
#include "cuda-cow/kernels/reference.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>

#ifdef UPM_CUDA_HAVE_FATBIN
// NOLINTNEXTLINE(readability-identifier-naming): a symbol of C
extern "C" const unsigned char upm_cuda_fatbin[];
#endif

namespace upm::cuda {

namespace {

using kernels::Job;
using kernels::kMaxGrid;
using kernels::kThreads;
using kernels::Sum;
using kernels::u32;

const void *image_for(const RuntimeImpl &runtime) {
    if (runtime.api.fake())
        return runtime.api.fake_image;
#ifdef UPM_CUDA_HAVE_FATBIN
    return upm_cuda_fatbin;
#else
    return nullptr;
#endif
}

class DeviceHasher final : public Hasher {
  public:
    explicit DeviceHasher(const RuntimeImpl &runtime) : runtime_(runtime), scratch_(runtime) {}
    DeviceHasher(const DeviceHasher &) = delete;
    DeviceHasher &operator=(const DeviceHasher &) = delete;
    ~DeviceHasher() override;

    int open();
    int tag(const std::vector<Piece> &pieces, const kernels::Keys &keys, std::vector<Tag> &tags,
            const Meanwhile &meanwhile) override;
    int compare(const std::vector<Piece> &pieces, const std::vector<abi::DevicePtr> &others,
                std::vector<bool> &different, const Meanwhile &meanwhile) override;
    [[nodiscard]] const char *name() const noexcept override { return "gpu"; }

  private:
    // Where things are in the scratch memory.
    static constexpr std::size_t kJobs = 0;
    static constexpr std::size_t kPartial = kJobs + broker::kMaxItems * sizeof(Job);
    static constexpr std::size_t kTags =
        kPartial + broker::kMaxItems * std::size_t{kMaxGrid} * sizeof(Sum);
    static constexpr std::size_t kDifferent = kTags + broker::kMaxItems * sizeof(Sum);
    static constexpr std::size_t kBytes = kDifferent + broker::kMaxItems * sizeof(u32);

    [[nodiscard]] abi::DevicePtr at(std::size_t offset) const {
        return scratch_.pieces()[0].address + offset;
    }
    int launch(abi::Function function, u32 grid_x, std::size_t grid_y, void **parameters,
               const char *what);
    int upload(const std::vector<Job> &jobs);
    void record(abi::Event event) const {
        if (event != nullptr)
            (void)runtime_.api.event_record(event, runtime_.stream);
    }
    static u32 grid(const std::vector<Piece> &pieces);

    const RuntimeImpl &runtime_;
    std::mutex lock_; // of the scratch memory
    abi::Module module_ = nullptr;
    abi::Function tag_ = nullptr;
    abi::Function finish_ = nullptr;
    abi::Function compare_ = nullptr;
    abi::Handle memory_ = 0;
    Window scratch_;
};

DeviceHasher::~DeviceHasher() {
    (void)scratch_.close();
    if (memory_ != 0)
        (void)runtime_.api.mem_release(memory_);
    if (module_ != nullptr)
        (void)runtime_.api.module_unload(module_);
}

int DeviceHasher::open() {
    const void *const image = image_for(runtime_);
    if (image == nullptr)
        return fail(ENOSYS, "built without nvcc: no kernels");
    const DriverApi &api = runtime_.api;
    int error = runtime_.check(api.module_load(&module_, image), "cuModuleLoadData");
    const std::pair<const char *, abi::Function *> functions[] = {
        {"upm_tag", &tag_}, {"upm_tag_finish", &finish_}, {"upm_compare", &compare_}};
    for (const auto &[name, function] : functions)
        if (error == 0)
            error = runtime_.check(api.module_function(function, module_, name), name);
    const std::size_t unit = runtime_.granularity;
    const std::size_t bytes = (kBytes + unit - 1) / unit * unit;
    if (error == 0)
        error = runtime_.create(bytes, memory_);
    if (error == 0)
        error = scratch_.open({memory_}, {bytes}, abi::kAccessReadWrite);
    return error;
}

u32 DeviceHasher::grid(const std::vector<Piece> &pieces) {
    std::size_t largest = 0;
    for (const Piece &piece : pieces)
        largest = std::max(largest, piece.bytes);
    const std::size_t threads = largest / 128; // one for each block of the hash
    return static_cast<u32>(
        std::clamp<std::size_t>((threads + kThreads - 1) / kThreads, 1, kMaxGrid));
}

int DeviceHasher::launch(abi::Function function, u32 grid_x, std::size_t grid_y, void **parameters,
                         const char *what) {
    return runtime_.check(runtime_.api.launch(function, grid_x, static_cast<u32>(grid_y), 1,
                                              kThreads, 1, 1, 0, runtime_.stream, parameters,
                                              nullptr),
                          what);
}

int DeviceHasher::upload(const std::vector<Job> &jobs) {
    return runtime_.check(runtime_.api.memcpy_htod_async(
                              at(kJobs), jobs.data(), jobs.size() * sizeof(Job), runtime_.stream),
                          "cuMemcpyHtoDAsync");
}

int DeviceHasher::tag(const std::vector<Piece> &pieces, const kernels::Keys &keys,
                      std::vector<Tag> &tags, const Meanwhile &meanwhile) {
    const std::lock_guard<std::mutex> guard(lock_);
    std::vector<Job> jobs;
    jobs.reserve(pieces.size());
    for (const Piece &piece : pieces)
        jobs.push_back({piece.address, 0, piece.bytes});
    const u32 width = grid(pieces);
    abi::DevicePtr job_list = at(kJobs);
    abi::DevicePtr partial = at(kPartial);
    abi::DevicePtr result = at(kTags);
    kernels::Keys own = keys;
    u32 count = width;
    void *hash[] = {&job_list, &partial, &own};
    void *sum[] = {&job_list, &partial, &count, &result, &own};
    int error = upload(jobs);
    record(before_);
    if (error == 0)
        error = launch(tag_, width, jobs.size(), hash, "upm_tag");
    if (error == 0)
        error = launch(finish_, static_cast<u32>(jobs.size()), 1, sum, "upm_tag_finish");
    record(after_);
    if (meanwhile)
        meanwhile();
    const int waited = runtime_.drain("hashing");
    error = error != 0 ? error : waited;
    std::vector<Sum> sums(jobs.size());
    if (error == 0)
        error =
            runtime_.check(runtime_.api.memcpy_dtoh(sums.data(), result, sums.size() * sizeof(Sum)),
                           "cuMemcpyDtoH");
    tags.clear();
    tags.reserve(sums.size());
    for (const Sum &one : sums)
        tags.push_back({.low = one.low, .high = one.high});
    return error;
}

int DeviceHasher::compare(const std::vector<Piece> &pieces,
                          const std::vector<abi::DevicePtr> &others, std::vector<bool> &different,
                          const Meanwhile &meanwhile) {
    const std::lock_guard<std::mutex> guard(lock_);
    std::vector<Job> jobs;
    for (std::size_t i = 0; i < pieces.size(); ++i)
        jobs.push_back({pieces[i].address, others[i], pieces[i].bytes});
    abi::DevicePtr job_list = at(kJobs);
    abi::DevicePtr result = at(kDifferent);
    void *parameters[] = {&job_list, &result};
    int error = upload(jobs);
    if (error == 0)
        error = runtime_.check(
            runtime_.api.memset_d8_async(result, 0, jobs.size() * sizeof(u32), runtime_.stream),
            "cuMemsetD8Async");
    record(before_);
    if (error == 0)
        error = launch(compare_, grid(pieces), jobs.size(), parameters, "upm_compare");
    record(after_);
    if (meanwhile)
        meanwhile();
    const int waited = runtime_.drain("comparing");
    error = error != 0 ? error : waited;
    std::vector<u32> flags(jobs.size(), 1);
    if (error == 0)
        error = runtime_.check(
            runtime_.api.memcpy_dtoh(flags.data(), result, flags.size() * sizeof(u32)),
            "cuMemcpyDtoH");
    different.clear();
    for (const u32 flag : flags)
        different.push_back(flag != 0);
    return error;
}

class HostHasher final : public Hasher {
  public:
    explicit HostHasher(const RuntimeImpl &runtime) : runtime_(runtime) {}
    int tag(const std::vector<Piece> &pieces, const kernels::Keys &keys, std::vector<Tag> &tags,
            const Meanwhile &meanwhile) override;
    int compare(const std::vector<Piece> &pieces, const std::vector<abi::DevicePtr> &others,
                std::vector<bool> &different, const Meanwhile &meanwhile) override;
    [[nodiscard]] const char *name() const noexcept override { return "host"; }

  private:
    int fetch(const Piece &piece, std::vector<char> &to) {
        to.resize(piece.bytes);
        return runtime_.check(runtime_.api.memcpy_dtoh(to.data(), piece.address, piece.bytes),
                              "cuMemcpyDtoH");
    }
    const RuntimeImpl &runtime_;
};

int HostHasher::tag(const std::vector<Piece> &pieces, const kernels::Keys &keys,
                    std::vector<Tag> &tags, const Meanwhile &meanwhile) {
    if (meanwhile)
        meanwhile();
    tags.clear();
    std::vector<char> bytes;
    for (const Piece &piece : pieces) {
        if (const int error = fetch(piece, bytes); error != 0)
            return error;
        tags.push_back(reference_tag(bytes.data(), bytes.size(), keys));
    }
    return 0;
}

int HostHasher::compare(const std::vector<Piece> &pieces, const std::vector<abi::DevicePtr> &others,
                        std::vector<bool> &different, const Meanwhile &meanwhile) {
    if (meanwhile)
        meanwhile();
    different.clear();
    std::vector<char> first;
    std::vector<char> second;
    for (std::size_t i = 0; i < pieces.size(); ++i) {
        int error = fetch(pieces[i], first);
        if (error == 0)
            error = fetch({others[i], pieces[i].bytes}, second);
        if (error != 0)
            return error;
        different.push_back(first != second);
    }
    return 0;
}

} // namespace

std::unique_ptr<Hasher> make_device_hasher(const RuntimeImpl &runtime) {
    auto made = std::make_unique<DeviceHasher>(runtime);
    if (made->open() != 0)
        return nullptr;
    return made;
}

std::unique_ptr<Hasher> make_host_hasher(const RuntimeImpl &runtime) {
    return std::make_unique<HostHasher>(runtime);
}

} // namespace upm::cuda
