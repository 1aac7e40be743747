// SPDX-License-Identifier: MIT
//
// upm-cuda-measure: what the mechanism costs on the GPU that is there, as JSON.
// Started by tests/gpu/measure.sh, which also starts a broker. On the fake driver it
// runs too, so that it is tested, but its times then mean nothing and it says so.
#include "cuda-cow/core/runtime.hpp"
#include "cuda-cow/hook/guard.hpp"
#include "cuda-cow/kernels/reference.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cxxopts.hpp>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace {

using namespace upm::cuda;
using nlohmann::json;
using Clock = std::chrono::steady_clock;

double micros(Clock::time_point since) {
    return std::chrono::duration<double, std::micro>(Clock::now() - since).count();
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values.empty() ? 0 : values[values.size() / 2];
}

[[noreturn]] void die(const std::string &what) {
    std::cerr << "upm-cuda-measure: " << what << ": " << last_error() << '\n';
    std::exit(1); // NOLINT(concurrency-mt-unsafe)
}

template <class T>
T must(upm::Result<T> result, const char *what) {
    if (!result)
        die(what);
    return std::move(*result);
}

struct Job {
    std::string program; // this one
    std::size_t bytes = 0;
    std::size_t extent = 0;
    unsigned rounds = 0;
    unsigned processes = 0;
};

// Median microseconds of each call for one extent of `bytes`.
json call_costs(const RuntimeImpl &gpu, std::size_t bytes, unsigned rounds) {
    const CurrentContext current(gpu);
    const DriverApi &api = gpu.api;
    std::map<std::string, std::vector<double>> times;
    for (unsigned round = 0; round < rounds; ++round) {
        abi::Handle handle = 0;
        abi::DevicePtr at = 0;
        const auto timed = [&](const char *name, auto &&call) {
            const auto since = Clock::now();
            if (call() != 0)
                die(name);
            times[name].push_back(micros(since));
        };
        timed("create", [&] { return gpu.create(bytes, handle); });
        timed("reserve", [&] {
            return gpu.check(api.mem_reserve(&at, bytes, 0, 0, 0), "cuMemAddressReserve");
        });
        timed("map", [&] { return gpu.check(api.mem_map(at, bytes, 0, handle, 0), "cuMemMap"); });
        timed("set_access_rw", [&] { return gpu.set_access({at, bytes}, abi::kAccessReadWrite); });
        timed("set_access_ro", [&] { return gpu.set_access({at, bytes}, abi::kAccessRead); });
        timed("unmap", [&] { return gpu.check(api.mem_unmap(at, bytes), "cuMemUnmap"); });
        timed("unreserve",
              [&] { return gpu.check(api.mem_unreserve(at, bytes), "cuMemAddressFree"); });
        timed("release", [&] { return gpu.check(api.mem_release(handle), "cuMemRelease"); });
    }
    json result;
    for (const auto &[name, values] : times)
        result[name] = median(values);
    return result;
}

// Bytes per second over what is in one batch.
json bandwidth(const RuntimeImpl &gpu, const Job &job) {
    const CurrentContext current(gpu);
    std::vector<abi::Handle> handles;
    std::vector<std::size_t> sizes;
    const std::size_t count =
        std::clamp<std::size_t>(job.bytes / job.extent / 2, 1, broker::kMaxItems / 2);
    for (std::size_t i = 0; i < 2 * count; ++i) {
        sizes.push_back(job.extent);
        if (gpu.create(job.extent, handles.emplace_back()) != 0)
            die("memory to hash");
    }
    json result;
    {
        Window window(gpu);
        if (window.open(handles, sizes, abi::kAccessReadWrite) != 0)
            die("memory to hash");
        const std::vector<Piece> half(window.pieces().begin(),
                                      window.pieces().begin() + static_cast<std::ptrdiff_t>(count));
        std::vector<abi::DevicePtr> others;
        for (std::size_t i = count; i < 2 * count; ++i)
            others.push_back(window.pieces()[i].address);
        for (const Piece &piece : window.pieces())
            (void)gpu.api.memset_d8_async(piece.address, 1, piece.bytes, gpu.stream);
        if (gpu.drain("filling") != 0)
            die("filling");
        std::vector<double> tag_times;
        std::vector<double> compare_times;
        for (unsigned round = 0; round < job.rounds; ++round) {
            std::vector<Tag> tags;
            std::vector<bool> different;
            auto since = Clock::now();
            if (gpu.hasher->tag(half, make_keys(1, 2), tags) != 0)
                die("tag");
            tag_times.push_back(micros(since));
            since = Clock::now();
            if (gpu.hasher->compare(half, others, different) != 0)
                die("compare");
            compare_times.push_back(micros(since));
        }
        const auto bytes = static_cast<double>(count * job.extent);
        result = {{"bytes", bytes},
                  {"tag_bytes_per_second", bytes / median(tag_times) * 1e6},
                  {"compare_bytes_read_per_second", 2 * bytes / median(compare_times) * 1e6}};
    }
    for (const abi::Handle handle : handles)
        (void)gpu.api.mem_release(handle);
    return result;
}

// Content that no earlier round had.
void fill(const RuntimeImpl &gpu, const Buffer &buffer, unsigned value) {
    const CurrentContext current(gpu);
    if (gpu.check(
            gpu.api.memset_d8(buffer.address(), static_cast<unsigned char>(value), buffer.size()),
            "cuMemsetD8") != 0)
        die("fill");
    for (std::size_t at = 0; at < buffer.size(); at += gpu.granularity)
        if (gpu.check(gpu.api.memcpy_htod(buffer.address() + at, &at, sizeof at), "cuMemcpyHtoD") !=
            0)
            die("fill");
    (void)gpu.api.ctx_synchronize();
}

json sharing_costs(const Runtime &runtime, const Job &job) {
    const RuntimeImpl &gpu = *runtime.shared();
    const BufferOptions options{.extent_bytes = job.extent, .name = "measured"};
    Buffer one = must(Buffer::allocate(runtime, job.bytes, options), "allocate");
    Buffer two = must(Buffer::allocate(runtime, job.bytes, options), "allocate");
    fill(gpu, one, 1);
    fill(gpu, two, 1);
    json result{{"bytes", job.bytes}, {"extent_bytes", job.extent}};
    auto since = Clock::now();
    const AdviseCounts published = must(one.advise(), "advise");
    result["advise_new_ms"] = micros(since) / 1000;
    since = Clock::now();
    const AdviseCounts merged = must(two.advise(), "advise");
    result["advise_known_ms"] = micros(since) / 1000;
    result["published"] = published.published;
    result["merged"] = merged.merged;
    const Manifest manifest = must(one.manifest(), "manifest");
    since = Clock::now();
    const Buffer three = must(Buffer::attach(runtime, manifest), "attach");
    result["attach_ms"] = micros(since) / 1000;
    return result;
}

json first_write(const Runtime &runtime, std::size_t extent, unsigned rounds) {
    Buffer buffer = must(Buffer::allocate(runtime, extent, {.extent_bytes = extent}), "allocate");
    std::vector<double> times;
    for (unsigned round = 0; round < rounds; ++round) {
        fill(*runtime.shared(), buffer, round);
        (void)must(buffer.advise(), "advise");
        const auto since = Clock::now();
        (void)must(buffer.will_write(0, 1), "will_write");
        times.push_back(micros(since));
    }
    return {{"bytes", extent}, {"p50_us", median(times)}};
}

// What a launch pays for the hook when none of its eight pointers is tracked.
double hook_nanoseconds(const Runtime &runtime) {
    const Buffer tracked = must(Buffer::allocate(runtime, 1), "allocate");
    const hook::Inspector inspector{
        [](const char **name, abi::Function) {
            *name = "_Z1fPKfS0_S0_S0_S0_S0_S0_S0_";
            return abi::kSuccess;
        },
        [](abi::Function, std::size_t index, std::size_t *offset, std::size_t *size) {
            *offset = index * 8;
            *size = 8;
            return index < 8 ? abi::kSuccess : abi::kInvalidValue;
        }};
    std::array<std::uint64_t, 8> values{};
    std::array<void *, 8> parameters{};
    for (std::size_t i = 0; i < values.size(); ++i)
        parameters[i] = &values[i];
    auto *const function = reinterpret_cast<abi::Function>(0x1000);
    constexpr unsigned kLaunches = 1000000;
    const auto since = Clock::now();
    for (unsigned i = 0; i < kLaunches; ++i)
        const hook::Guard guard(inspector, function, parameters.data(), nullptr);
    return micros(since) * 1000 / kLaunches;
}

// A forbidden access, in a process of its own because its context is lost.
int forbidden(const std::string &kind) {
    const Runtime runtime = must(Runtime::open(), "open");
    const RuntimeImpl &gpu = *runtime.shared();
    const CurrentContext current(gpu);
    const std::size_t unit = gpu.granularity;
    abi::Handle handle = 0;
    Window window(gpu);
    if (gpu.create(unit, handle) != 0 || window.open({handle}, {unit}, abi::kAccessRead) != 0)
        die("memory");
    const abi::DevicePtr at = window.pieces()[0].address;
    abi::Status status = abi::kSuccess;
    const std::vector<char> bytes(unit);
    if (kind == "memset")
        status = gpu.api.memset_d8(at, 1, unit);
    else if (kind == "copy_from_host")
        status = gpu.api.memcpy_htod(at, bytes.data(), unit);
    else if (kind == "copy_on_device")
        status = gpu.api.memcpy_dtod(at, at + unit / 2, unit / 2);
    else if (kind == "unmap_under_work")
        for (int i = 0; i < 50 && status == abi::kSuccess; ++i)
            status = gpu.api.memcpy_dtod_async(at, at, unit / 2, gpu.stream);
    if (kind == "unmap_under_work" && status == abi::kSuccess)
        status = gpu.api.mem_unmap(at, unit);
    const abi::Status at_call = status;
    const abi::Status waited = gpu.api.ctx_synchronize();
    const abi::Status after = gpu.api.ctx_synchronize();
    std::cout << json{{"call", at_call}, {"wait", waited}, {"later", after}} << std::endl;
    ::_exit(0); // nothing can be tidied up in a lost context
}

// Attaches, says so, and stays until standard input ends.
int hold(const std::string &path) {
    const Runtime runtime = must(Runtime::open(), "open");
    std::ifstream file(path);
    std::ostringstream text;
    text << file.rdbuf();
    Buffer buffer;
    if (!path.empty())
        buffer =
            must(Buffer::attach(runtime, must(Manifest::parse(text.str()), "manifest")), "attach");
    std::cout << "ready" << std::endl;
    while (std::cin.get() != EOF) {
    }
    return 0;
}

std::string run(const std::string &command) {
    FILE *const pipe = ::popen(command.c_str(), "r"); // NOLINT(cert-env33-c): our own words
    std::string text;
    char some[256];
    while (pipe != nullptr && std::fgets(some, sizeof some, pipe) != nullptr)
        text += some;
    if (pipe != nullptr)
        (void)::pclose(pipe);
    return text;
}

std::size_t used(const RuntimeImpl &gpu) {
    const CurrentContext current(gpu);
    std::size_t available = 0;
    std::size_t total = 0;
    (void)gpu.api.mem_info(&available, &total);
    return total - available;
}

// Device memory that N more processes cost, with and without the shared buffer.
json processes(const Runtime &runtime, const Job &job) {
    if (runtime.fake())
        return nullptr; // each fake counts only its own memory
    Buffer buffer =
        must(Buffer::allocate(runtime, job.bytes, {.extent_bytes = job.extent}), "allocate");
    fill(*runtime.shared(), buffer, 7);
    (void)must(buffer.advise(), "advise");
    const std::string path = "/tmp/upm-cuda-manifest." + std::to_string(::getpid());
    std::ofstream(path) << must(buffer.manifest(), "manifest").serialize();
    json result{{"processes", job.processes}, {"bytes", job.bytes}};
    for (const bool attached : {false, true}) {
        const std::size_t before = used(*runtime.shared());
        std::vector<FILE *> others;
        for (unsigned i = 0; i < job.processes; ++i)
            others.push_back(::popen( // NOLINT(cert-env33-c)
                (job.program + " --hold '" + (attached ? path : "") + "' >/dev/null").c_str(),
                "w"));
        std::this_thread::sleep_for(std::chrono::seconds(10));
        result[attached ? "context_and_attach_bytes" : "context_bytes"] =
            used(*runtime.shared()) - before;
        for (FILE *other : others)
            (void)::pclose(other);
    }
    (void)::unlink(path.c_str());
    return result;
}

json describe_machine(const RuntimeImpl &gpu) {
    char name[256] = {};
    int version = 0;
    (void)gpu.api.device_name(name, sizeof name, gpu.device);
    (void)gpu.api.driver_version(&version);
    char host[128] = {};
    (void)::gethostname(host, sizeof host - 1);
    return {{"gpu", name},
            {"driver_version", version},
            {"granularity", gpu.granularity},
            {"hashing", gpu.hasher->name()},
            {"fake", gpu.api.fake()},
            {"host", host}};
}

json measure(const Job &job) {
    const Runtime runtime = must(Runtime::open(), "open");
    const RuntimeImpl &gpu = *runtime.shared();
    json result{{"machine", describe_machine(gpu)}};
    if (runtime.fake())
        result["note"] = "fake driver in host memory: the times say nothing about a GPU";
    for (const std::size_t bytes : {gpu.granularity, 8 * gpu.granularity, 32 * gpu.granularity}) {
        result["calls_us"][std::to_string(bytes)] = call_costs(gpu, bytes, job.rounds);
        result["first_write"].push_back(first_write(runtime, bytes, job.rounds));
    }
    result["bandwidth"] = bandwidth(gpu, job);
    result["sharing"] = sharing_costs(runtime, job);
    result["hook_ns"] = hook_nanoseconds(runtime);
    result["processes"] = processes(runtime, job);
    for (const char *kind : {"memset", "copy_from_host", "copy_on_device", "unmap_under_work"})
        result["forbidden"][kind] =
            json::parse(run(job.program + " --forbidden " + kind), nullptr, false);
    return result;
}

} // namespace

int main(int argc, char **argv) { // NOLINT(bugprone-exception-escape)
    cxxopts::Options options("upm-cuda-measure", "Costs of sharing GPU memory, as JSON.");
    // clang-format off
    options.add_options()
        ("bytes", "of the buffers", cxxopts::value<std::size_t>()->default_value("8589934592"))
        ("extent", "bytes of an extent", cxxopts::value<std::size_t>()->default_value("67108864"))
        ("rounds", "repetitions of each call", cxxopts::value<unsigned>()->default_value("50"))
        ("processes", "that share", cxxopts::value<unsigned>()->default_value("16"))
        ("forbidden", "used by itself", cxxopts::value<std::string>())
        ("hold", "used by itself", cxxopts::value<std::string>())
        ("help", "this text");
    // clang-format on
    try {
        const cxxopts::ParseResult parsed = options.parse(argc, argv);
        if (parsed.count("help") != 0) {
            std::cout << options.help();
            return 0;
        }
        if (parsed.count("forbidden") != 0)
            return forbidden(parsed["forbidden"].as<std::string>());
        if (parsed.count("hold") != 0)
            return hold(parsed["hold"].as<std::string>());
        std::cout << measure({.program = argv[0],
                              .bytes = parsed["bytes"].as<std::size_t>(),
                              .extent = parsed["extent"].as<std::size_t>(),
                              .rounds = parsed["rounds"].as<unsigned>(),
                              .processes = parsed["processes"].as<unsigned>()})
                         .dump(2)
                  << '\n';
        return 0;
    } catch (const std::exception &error) {
        std::cerr << "upm-cuda-measure: " << error.what() << '\n';
        return 2;
    }
}
