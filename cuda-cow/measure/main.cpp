// SPDX-License-Identifier: MIT
//
// upm-cuda-measure: what the mechanism costs on the GPU that is there, as JSON.
// Started by tests/gpu/measure.sh, which also starts a broker. On the fake driver it
// runs too, so that it is tested, but its times then mean nothing and it says so.
#include "cuda-cow/measure/measure.hpp"

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cxxopts.hpp>
#include <iostream>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

namespace upm::cuda::measure {

double micros(Clock::time_point since) {
    return std::chrono::duration<double, std::micro>(Clock::now() - since).count();
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values.empty() ? 0 : values[values.size() / 2];
}

void die(const std::string &what) {
    std::cerr << "upm-cuda-measure: " << what << ": " << last_error() << '\n';
    std::exit(1); // NOLINT(concurrency-mt-unsafe)
}

void must(const RuntimeImpl &gpu, abi::Status status, const char *what) {
    if (gpu.check(status, what) != 0)
        die(what);
}

void fill(const RuntimeImpl &gpu, const Buffer &buffer, unsigned value) {
    const CurrentContext current(gpu);
    must(gpu, gpu.api.memset_d8(buffer.address(), static_cast<unsigned char>(value), buffer.size()),
         "cuMemsetD8");
    for (std::size_t at = 0; at + sizeof at <= buffer.size(); at += gpu.granularity)
        must(gpu, gpu.api.memcpy_htod(buffer.address() + at, &at, sizeof at), "cuMemcpyHtoD");
    must(gpu, gpu.api.ctx_synchronize(), "cuCtxSynchronize");
}

Child::Child(const std::string &program, const std::vector<std::string> &arguments) {
    int pair[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        die("socketpair");
    std::vector<char *> argv{const_cast<char *>(program.c_str())};
    for (const std::string &argument : arguments)
        argv.push_back(const_cast<char *>(argument.c_str()));
    argv.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ == 0) {
        (void)::dup2(pair[1], STDIN_FILENO);
        (void)::dup2(pair[1], STDOUT_FILENO);
        (void)::execv(argv[0], argv.data());
        ::_exit(127);
    }
    ::close(pair[1]);
    socket_ = pair[0];
    if (pid_ < 0)
        die("fork");
}

Child::~Child() {
    kill();
    ::close(socket_);
}

void Child::kill() {
    if (pid_ <= 0)
        return;
    (void)::kill(pid_, SIGKILL);
    (void)::waitpid(pid_, nullptr, 0);
    pid_ = -1;
}

// What the child flushes at once is one packet.
std::string Child::line() const {
    char text[4096];
    const ssize_t got = ::recv(socket_, text, sizeof text, 0);
    const std::string all(text, got > 0 ? static_cast<std::size_t>(got) : 0);
    return all.substr(0, all.find('\n'));
}

namespace {

json describe_machine(const RuntimeImpl &gpu) {
    char name[256] = {};
    int version = 0;
    (void)gpu.api.device_name(name, sizeof name, gpu.device);
    (void)gpu.api.driver_version(&version);
    char host[128] = {};
    (void)::gethostname(host, sizeof host - 1);
    std::size_t available = 0;
    std::size_t total = 0;
    const CurrentContext current(gpu);
    (void)gpu.api.mem_info(&available, &total);
    return {{"gpu", name},
            {"gpu_bytes", total},
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
    for (const std::size_t count : {std::size_t{1}, std::size_t{8}, std::size_t{64}})
        result["batches_us"][std::to_string(count)] = batch_costs(gpu, count, job.rounds);
    result["under_work"] = costs_under_work(gpu);
    result["bandwidth"] = bandwidth(gpu, job);
    result["sharing"] = sharing_costs(runtime, job);
    result["hook"] = hook_costs(runtime);
    result["processes"] = processes(runtime, job);
    result["exporter_death"] = exporter_death(runtime, job);
    result["forbidden"] = forbidden_accesses(job);
    return result;
}

int run(const cxxopts::ParseResult &parsed, const char *program) {
    if (parsed.count("forbidden") != 0)
        return forbidden(parsed["forbidden"].as<std::string>());
    if (parsed.count("hold") != 0)
        return hold(parsed["hold"].as<std::string>());
    if (parsed.count("export") != 0)
        return export_and_wait();
    const Job job{.program = program,
                  .bytes = parsed["bytes"].as<std::size_t>(),
                  .extent = parsed["extent"].as<std::size_t>(),
                  .rounds = parsed["rounds"].as<unsigned>(),
                  .processes = parsed["processes"].as<unsigned>()};
    if (job.rounds == 0 || job.bytes == 0 || job.extent == 0) {
        std::cerr << "upm-cuda-measure: --bytes, --extent and --rounds must not be 0\n";
        return 2;
    }
    std::cout << measure(job).dump(2) << '\n';
    return 0;
}

} // namespace

} // namespace upm::cuda::measure

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
        ("export", "used by itself")
        ("help", "this text");
    // clang-format on
    try {
        const cxxopts::ParseResult parsed = options.parse(argc, argv);
        if (parsed.count("help") != 0) {
            std::cout << options.help();
            return 0;
        }
        return upm::cuda::measure::run(parsed, "/proc/self/exe");
    } catch (const std::exception &error) {
        std::cerr << "upm-cuda-measure: " << error.what() << '\n';
        return 2;
    }
}
