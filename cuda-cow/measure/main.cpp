// SPDX-License-Identifier: MIT
//
// upm-cuda-measure: what the mechanism costs, and what holds, on the GPU that is there.
// One section of it for each run, as JSON; `run` beside this file runs all of them, each
// with a broker of its own. On the fake driver it works too, so that it is tested, but its
// times then mean nothing.
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

void Report::put(const std::string &name, json value) {
    all_[name] = std::move(value);
    std::cout << all_.dump() << std::endl;
}

std::size_t used(const RuntimeImpl &gpu) {
    const CurrentContext current(gpu);
    std::size_t available = 0;
    std::size_t total = 0;
    must(gpu, gpu.api.mem_info(&available, &total), "cuMemGetInfo");
    return total - available;
}

double micros(Clock::time_point since) {
    return std::chrono::duration<double, std::micro>(Clock::now() - since).count();
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values.empty() ? 0 : values[values.size() / 2];
}

void die(const std::string &what) {
    std::cerr << "upm-cuda-measure: " << what << ": " << last_error() << std::endl;
    ::_exit(1); // a context that was lost is in no state to be tidied up
}

void must(const RuntimeImpl &gpu, abi::Status status, const char *what) {
    if (gpu.check(status, what) != 0)
        die(what);
}

void fill(const RuntimeImpl &gpu, const Buffer &buffer, unsigned value) {
    const CurrentContext current(gpu);
    must(gpu, gpu.api.memset_d8(buffer.address(), static_cast<unsigned char>(value), buffer.size()),
         "cuMemsetD8");
    for (std::size_t at = 0; at + sizeof at <= buffer.size(); at += gpu.granularity) {
        const std::size_t mark = at + value;
        must(gpu, gpu.api.memcpy_htod(buffer.address() + at, &mark, sizeof mark), "cuMemcpyHtoD");
    }
    must(gpu, gpu.api.ctx_synchronize(), "cuCtxSynchronize");
}

GpuTimer::GpuTimer(const RuntimeImpl &gpu) : gpu_(gpu) {
    const DriverApi &api = gpu.api;
    by_events_ = api.event_create != nullptr && api.event_record != nullptr &&
                 api.event_synchronize != nullptr && api.event_elapsed != nullptr &&
                 api.event_destroy != nullptr && api.event_create(&before_, 0) == abi::kSuccess &&
                 api.event_create(&after_, 0) == abi::kSuccess;
}

GpuTimer::~GpuTimer() {
    for (const abi::Event event : {before_, after_})
        if (event != nullptr)
            (void)gpu_.api.event_destroy(event);
}

void GpuTimer::start() {
    since_ = Clock::now();
    if (by_events_)
        must(gpu_, gpu_.api.event_record(before_, gpu_.stream), "cuEventRecord");
}

double GpuTimer::stop(bool well, const char *what) {
    if (!well)
        die(what);
    if (by_events_)
        must(gpu_, gpu_.api.event_record(after_, gpu_.stream), "cuEventRecord");
    must(gpu_, gpu_.api.stream_synchronize(gpu_.stream), what);
    return by_events_ ? elapsed(what) : micros(since_);
}

double GpuTimer::elapsed(const char *what) const {
    float milliseconds = 0;
    must(gpu_, gpu_.api.event_synchronize(after_), what);
    must(gpu_, gpu_.api.event_elapsed(&milliseconds, before_, after_), what);
    return static_cast<double>(milliseconds) * 1000;
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

void Child::say(const std::string &word) const {
    const std::string line = word + "\n";
    (void)::send(socket_, line.data(), line.size(), MSG_NOSIGNAL);
}

namespace {

struct Section {
    const char *name;
    void (*run)(const Runtime &, const Job &, Report &);
};
constexpr Section kSections[] = {
    {"machine", machine},
    {"fresh_memory", fresh_memory},
    {"calls", calls},
    {"first_write", first_write},
    {"spare", spare},
    {"bandwidth", bandwidth},
    {"sharing", sharing},
    {"small_extents", small_extents},
    {"profile", profile},
    {"trials", trials},
    {"lost_broker", lost_broker},
    {"broker_death", broker_death},
    {"backstop", backstop},
    {"batches", batches},
    {"under_work", under_work},
    {"export_again", export_again},
    {"edges", edges},
    {"exporter_death", exporter_death},
    {"hook", hook},
    {"processes", processes},
};

int run_section(const std::string &name, const Job &job) {
    for (const Section &section : kSections) {
        if (name != section.name)
            continue;
        Report report;
        const Runtime runtime = must(Runtime::open(), "open");
        section.run(runtime, job, report);
        return 0;
    }
    std::cerr << "upm-cuda-measure: no section '" << name << "'\n";
    return 2;
}

int run(const cxxopts::ParseResult &parsed, const char *program) {
    if (parsed.count("edge") != 0)
        return edge(parsed["edge"].as<std::string>());
    if (parsed.count("hold") != 0)
        return hold(parsed["hold"].as<std::string>());
    if (parsed.count("export") != 0)
        return export_and_wait();
    if (parsed.count("share") != 0)
        return share_on_and_on(parsed["share"].as<std::size_t>(),
                               parsed["extent"].as<std::size_t>());
    if (parsed.count("trespass") != 0)
        return trespass(parsed["trespass"].as<std::string>(), parsed["how"].as<std::string>());
    const Job job{.program = program,
                  .bytes = parsed["bytes"].as<std::size_t>(),
                  .extent = parsed["extent"].as<std::size_t>(),
                  .rounds = parsed["rounds"].as<unsigned>(),
                  .processes = parsed["processes"].as<unsigned>()};
    if (parsed.count("list") != 0) {
        for (const Section &section : kSections)
            std::cout << section.name << '\n';
        return 0;
    }
    if (job.rounds == 0 || job.bytes == 0 || job.extent == 0 || parsed.count("section") == 0) {
        std::cerr << "upm-cuda-measure: --section is needed; --bytes, --extent and --rounds "
                     "must not be 0\n";
        return 2;
    }
    return run_section(parsed["section"].as<std::string>(), job);
}

} // namespace

} // namespace upm::cuda::measure

int main(int argc, char **argv) { // NOLINT(bugprone-exception-escape)
    cxxopts::Options options("upm-cuda-measure", "Costs of sharing GPU memory, as JSON.");
    // clang-format off
    options.add_options()
        ("section", "what to measure", cxxopts::value<std::string>())
        ("list", "the names of all sections")
        ("bytes", "of the buffers", cxxopts::value<std::size_t>()->default_value("8589934592"))
        ("extent", "bytes of an extent", cxxopts::value<std::size_t>()->default_value("67108864"))
        ("rounds", "repetitions of each call", cxxopts::value<unsigned>()->default_value("50"))
        ("processes", "that share", cxxopts::value<unsigned>()->default_value("16"))
        ("edge", "used by itself", cxxopts::value<std::string>())
        ("hold", "used by itself", cxxopts::value<std::string>())
        ("export", "used by itself")
        ("share", "used by itself", cxxopts::value<std::size_t>())
        ("trespass", "used by itself", cxxopts::value<std::string>())
        ("how", "used by itself", cxxopts::value<std::string>())
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
