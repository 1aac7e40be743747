// SPDX-License-Identifier: MIT
//
// What goes wrong in practice: a broker that ends, also in the middle of things, and a
// process that writes to what it shares without a word.
#include "cuda-cow/kernels/reference.hpp"
#include "cuda-cow/measure/measure.hpp"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <sstream>
#include <thread>
#include <unistd.h>

namespace upm::cuda::measure {

namespace {

// upm-cudad of this section's own, which it may kill.
class OwnBroker {
  public:
    OwnBroker() { start(); }
    OwnBroker(const OwnBroker &) = delete;
    OwnBroker &operator=(const OwnBroker &) = delete;
    ~OwnBroker() {
        child_.reset();
        std::error_code ignored;
        std::filesystem::remove(socket_, ignored);
    }
    void start() {
        const auto beside = std::filesystem::read_symlink("/proc/self/exe").parent_path();
        child_ = std::make_unique<Child>((beside / "upm-cudad").string(),
                                         std::vector<std::string>{"--socket", socket_});
        if (child_->line().find("listening") == std::string::npos)
            die("starting upm-cudad");
    }
    void restart() {
        child_.reset();
        start();
    }
    void kill() { child_.reset(); }
    [[nodiscard]] const std::string &socket() const noexcept { return socket_; }

  private:
    const std::string socket_ = "/tmp/upm-cuda-measure." + std::to_string(::getpid()) + ".sock";
    std::unique_ptr<Child> child_;
};

// What the buffer holds, by 64 hashes at most.
std::vector<Tag> contents(const RuntimeImpl &gpu, const Buffer &buffer) {
    const CurrentContext current(gpu);
    const std::size_t units = buffer.size() / gpu.granularity;
    const std::size_t each = (units + broker::kMaxItems - 1) / broker::kMaxItems * gpu.granularity;
    std::vector<Piece> pieces;
    for (std::size_t at = 0; at < buffer.size(); at += each)
        pieces.push_back({buffer.address() + at, std::min(each, buffer.size() - at)});
    std::vector<Tag> tags;
    if (gpu.hasher->tag(pieces, make_keys(1, 2), tags) != 0)
        die("hashing");
    return tags;
}

json timed_advise(const RuntimeImpl &gpu, Buffer &buffer) {
    const auto since = Clock::now();
    const AdviseCounts done = must(buffer.advise(), "advise");
    return {{"ms", micros(since) / 1000},
            {"merged", done.merged},
            {"published", done.published},
            {"refused", done.refused},
            {"gpu_bytes_used_after", used(gpu)}};
}

Buffer read_manifest(const Runtime &runtime, const std::string &path) {
    std::ifstream file(path);
    std::ostringstream text;
    text << file.rdbuf();
    return must(Buffer::attach(runtime, must(Manifest::parse(text.str()), "manifest")), "attach");
}

} // namespace

// A new broker is told of everything: by a process that got the memory from another, and by
// one whose memory it is.
void lost_broker(const Runtime & /*runtime*/, const Job &job, Report &report) {
    OwnBroker broker;
    const Runtime runtime = must(Runtime::open({.driver = "", .socket = broker.socket()}), "open");
    const RuntimeImpl &gpu = *runtime.shared();
    const BufferOptions options{.extent_bytes = job.extent, .name = "measured"};
    Buffer one = must(Buffer::allocate(runtime, job.bytes, options), "allocate");
    Buffer two = must(Buffer::allocate(runtime, job.bytes, options), "allocate");
    fill(gpu, one, 3);
    fill(gpu, two, 3);
    const std::vector<Tag> before = contents(gpu, one);
    report.put("bytes", job.bytes);
    report.put("published", timed_advise(gpu, one));
    report.put("merged", timed_advise(gpu, two));
    broker.restart();
    report.put("offered_by_an_importer", timed_advise(gpu, two));
    report.put("then_merged", timed_advise(gpu, one));
    broker.restart();
    report.put("offered_by_the_owner", timed_advise(gpu, two));
    report.put("then_merged_again", timed_advise(gpu, one));
    report.put("same_bytes", contents(gpu, one) == before && contents(gpu, two) == before);
}

// Shares, writes nothing but says that it will, and shares again, until its input ends;
// then shares once more. Meanwhile its broker comes and goes.
int share_on_and_on(std::size_t bytes, std::size_t extent) {
    const Runtime runtime = must(Runtime::open(), "open");
    const RuntimeImpl &gpu = *runtime.shared();
    Buffer buffer = must(Buffer::allocate(runtime, bytes, {.extent_bytes = extent}), "allocate");
    fill(gpu, buffer, 5);
    const std::vector<Tag> before = contents(gpu, buffer);
    std::cout << "ready" << std::endl;
    std::string word;
    std::getline(std::cin, word);
    std::map<std::string, unsigned> errors;
    unsigned rounds = 0;
    unsigned wrong = 0;
    for (const auto since = Clock::now(); micros(since) < 2e6; ++rounds) {
        if (const Result<AdviseCounts> done = buffer.advise(); !done)
            ++errors[std::to_string(done.error())];
        (void)must(buffer.will_write(0, bytes / 2), "will_write");
        wrong += contents(gpu, buffer) == before ? 0 : 1;
    }
    std::cout << "over" << std::endl;
    std::getline(std::cin, word);
    const AdviseCounts last = must(buffer.advise(), "advise");
    wrong += contents(gpu, buffer) == before ? 0 : 1;
    std::cout << json{{"rounds", rounds},
                      {"errors", errors},
                      {"wrong", wrong},
                      {"shared_bytes", last.bytes}}
              << std::endl;
    std::getline(std::cin, word);
    return 0;
}

// Four processes share at once while their broker is killed and started again.
void broker_death(const Runtime &runtime, const Job &job, Report &report) {
    OwnBroker broker;
    (void)::setenv("UPM_CUDA_SOCKET", broker.socket().c_str(), 1);
    const std::size_t bytes = std::max(job.bytes / 4 / job.extent, std::size_t{1}) * job.extent;
    const std::size_t before = used(*runtime.shared());
    std::vector<std::unique_ptr<Child>> sharers;
    for (unsigned i = 0; i < 4; ++i)
        sharers.push_back(std::make_unique<Child>(
            job.program, std::vector<std::string>{"--share", std::to_string(bytes), "--extent",
                                                  std::to_string(job.extent)}));
    for (const auto &one : sharers)
        if (one->line() != "ready")
            die("a process that shares");
    for (const auto &one : sharers)
        one->say("go");
    unsigned deaths = 0;
    for (; deaths < 6; ++deaths) {
        std::this_thread::sleep_for(std::chrono::milliseconds(150 + 37 * deaths));
        broker.kill();
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        broker.start();
    }
    for (const auto &one : sharers)
        if (one->line() != "over")
            die("a process that shares ended");
    report.put("broker_deaths", deaths);
    report.put("bytes", bytes);
    json found = json::array();
    for (const auto &one : sharers) {
        one->say("end");
        found.push_back(json::parse(one->line(), nullptr, false));
        report.put("processes", found);
    }
    if (!runtime.fake())
        report.put("gpu_bytes_in_all", used(*runtime.shared()) - before);
}

// Attaches, and writes without announcing it.
int trespass(const std::string &manifest_path, const std::string &how) {
    const Runtime runtime = must(Runtime::open(), "open");
    const RuntimeImpl &gpu = *runtime.shared();
    const Buffer buffer = read_manifest(runtime, manifest_path);
    const CurrentContext current(gpu);
    const Probes probes(gpu.api, gpu.stream);
    json said;
    said["call"] = how == "memset"  ? gpu.api.memset_d8(buffer.address(), 0xee, gpu.granularity)
                   : how == "store" ? probes.store(buffer.address())
                                    : probes.load(buffer.address());
    said["wait"] = gpu.api.ctx_synchronize();
    said["later"] = gpu.api.ctx_synchronize();
    std::cout << said << std::endl;
    ::_exit(0);
}

// Somebody who shares writes without a word: what that process sees, and what the others do.
void backstop(const Runtime &runtime, const Job &job, Report &report) {
    const RuntimeImpl &gpu = *runtime.shared();
    Buffer buffer =
        must(Buffer::allocate(runtime, 2 * gpu.granularity, {.extent_bytes = gpu.granularity}),
             "allocate");
    fill(gpu, buffer, 77);
    (void)must(buffer.advise(), "advise");
    const std::vector<Tag> before = contents(gpu, buffer);
    const std::string path = "/tmp/upm-cuda-manifest." + std::to_string(::getpid());
    std::ofstream(path) << must(buffer.manifest(), "manifest").serialize();
    for (const std::string how : {"memset", "store", "load"}) {
        const Child child(job.program, {"--trespass", path, "--how", how});
        json said = json::parse(child.line(), nullptr, false);
        if (said.is_discarded())
            said = json::object();
        said["bytes_of_others_unchanged"] = contents(gpu, buffer) == before;
        said["newcomer_reads_the_same"] = contents(gpu, read_manifest(runtime, path)) == before;
        report.put(how, said);
    }
    (void)::unlink(path.c_str());
}

} // namespace upm::cuda::measure
