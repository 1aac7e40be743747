// SPDX-License-Identifier: MIT
//
// What sharing costs and saves: within a process, and among several.
#include "cuda-cow/broker/protocol.hpp"
#include "cuda-cow/kernels/reference.hpp"
#include "cuda-cow/measure/measure.hpp"

#include <algorithm>
#include <csignal>
#include <fstream>
#include <iostream>
#include <sstream>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

namespace upm::cuda::measure {

namespace {

// How long the device takes to read the buffer, piece by piece as it is mapped.
double read_micros(const RuntimeImpl &gpu, const Buffer &buffer, const Job &job) {
    const CurrentContext current(gpu);
    std::vector<Piece> pieces;
    for (std::size_t at = 0; at < buffer.size() && pieces.size() < broker::kMaxItems;
         at += job.extent)
        pieces.push_back({buffer.address() + at, std::min(job.extent, buffer.size() - at)});
    GpuTimer timer(gpu);
    std::vector<double> times;
    std::vector<Tag> tags;
    for (unsigned round = 0; round < job.rounds; ++round)
        times.push_back(timer.time_kernels(
            [&] { return gpu.hasher->tag(pieces, make_keys(1, 2), tags); }, "reading"));
    return median(times);
}

unsigned char first_byte(const RuntimeImpl &gpu, abi::Handle handle) {
    const CurrentContext current(gpu);
    Window window(gpu);
    unsigned char byte = 0;
    if (window.open({handle}, {gpu.granularity}, abi::kAccessRead) != 0)
        die("mapping what was imported");
    must(gpu, gpu.api.memcpy_dtoh(&byte, window.pieces()[0].address, 1), "cuMemcpyDtoH");
    return byte;
}

} // namespace

namespace {

struct SharingTimes {
    std::vector<double> advise_new, advise_known, attach;
};

// One round on buffers of its own, of content that no other round has.
void share_once(const Runtime &runtime, const Job &job, unsigned round, SharingTimes &times,
                Report &report) {
    const RuntimeImpl &gpu = *runtime.shared();
    const BufferOptions options{.extent_bytes = job.extent, .name = "measured"};
    Buffer one = must(Buffer::allocate(runtime, job.bytes, options), "allocate");
    Buffer two = must(Buffer::allocate(runtime, job.bytes, options), "allocate");
    fill(gpu, one, round);
    fill(gpu, two, round);
    const double private_reads = round == 0 ? read_micros(gpu, two, job) : 0;
    auto since = Clock::now();
    const AdviseCounts published = must(one.advise(), "advise");
    times.advise_new.push_back(micros(since) / 1000);
    since = Clock::now();
    const AdviseCounts merged = must(two.advise(), "advise");
    times.advise_known.push_back(micros(since) / 1000);
    if (round == 0) {
        report.put("published", published.published);
        report.put("merged", merged.merged);
        const double shared_reads = read_micros(gpu, two, job);
        report.put("reads", {{"private_us", private_reads},
                             {"shared_us", shared_reads},
                             {"slower", shared_reads / private_reads - 1}});
    }
    const Manifest manifest = must(one.manifest(), "manifest");
    since = Clock::now();
    const Buffer three = must(Buffer::attach(runtime, manifest), "attach");
    times.attach.push_back(micros(since) / 1000);
}

} // namespace

void sharing(const Runtime &runtime, const Job &job, Report &report) {
    constexpr unsigned kRounds = 5;
    report.put("bytes", job.bytes);
    report.put("extent_bytes", job.extent);
    SharingTimes times;
    for (unsigned round = 0; round < kRounds; ++round) {
        share_once(runtime, job, round, times, report);
        report.put("advise_new_ms", median(times.advise_new));
        report.put("advise_known_ms", median(times.advise_known));
        report.put("attach_ms", median(times.attach));
        report.put("rounds", round + 1);
    }
}

// Many small extents: what they cost to share, and what it costs to write all of them, also
// in extents of the usual size.
void small_extents(const Runtime &runtime, const Job &job, Report &report) {
    const RuntimeImpl &gpu = *runtime.shared();
    for (const std::size_t extent : {gpu.granularity, job.extent}) {
        Job small = job;
        small.extent = extent;
        SharingTimes times;
        json result;
        Report ignored;
        share_once(runtime, small, 100, times, ignored);
        result["extents"] = job.bytes / extent;
        result["advise_new_ms"] = times.advise_new.front();
        result["advise_known_ms"] = times.advise_known.front();
        result["attach_ms"] = times.attach.front();
        Buffer buffer =
            must(Buffer::allocate(runtime, job.bytes, {.extent_bytes = extent}), "allocate");
        fill(gpu, buffer, 9);
        (void)must(buffer.advise(), "advise");
        const auto since = Clock::now();
        result["bytes_copied"] = must(buffer.will_write(0, job.bytes), "will_write");
        result["write_all_ms"] = micros(since) / 1000;
        report.put(std::to_string(extent), result);
    }
}

// Of memory that others go on sharing, which is the usual case; and of the last one who has
// it, whose write also frees it: new memory soon after that takes the driver longer.
void first_write(const Runtime &runtime, const Job &job, Report &report) {
    json rows = json::array();
    for (const std::size_t units : {1UL, 8UL, 32UL}) {
        const std::size_t extent = units * runtime.granularity();
        Buffer buffer =
            must(Buffer::allocate(runtime, extent, {.extent_bytes = extent}), "allocate");
        json row{{"bytes", extent}};
        for (const bool alone : {false, true}) {
            std::vector<double> times;
            std::vector<Buffer> others;
            for (unsigned round = 0; round < job.rounds; ++round) {
                fill(*runtime.shared(), buffer, 2 * round + (alone ? 1 : 0));
                (void)must(buffer.advise(), "advise");
                if (!alone)
                    others.push_back(must(
                        Buffer::attach(runtime, must(buffer.manifest(), "manifest")), "attach"));
                const auto since = Clock::now();
                (void)must(buffer.will_write(0, 1), "will_write");
                times.push_back(micros(since));
            }
            row[alone ? "last_owner_p50_us" : "p50_us"] = median(times);
        }
        rows.push_back(row);
        report.put("rows", rows);
    }
}

// Device memory that N more processes cost, without and with the shared buffer.
void processes(const Runtime &runtime, const Job &job, Report &report) {
    const RuntimeImpl &gpu = *runtime.shared();
    Buffer buffer =
        must(Buffer::allocate(runtime, job.bytes, {.extent_bytes = job.extent}), "allocate");
    fill(gpu, buffer, 7);
    (void)must(buffer.advise(), "advise");
    const std::string path = "/tmp/upm-cuda-manifest." + std::to_string(::getpid());
    std::ofstream(path) << must(buffer.manifest(), "manifest").serialize();
    report.put("processes", job.processes);
    report.put("bytes", job.bytes);
    std::size_t cost[2] = {};
    for (const bool attached : {false, true}) {
        const std::size_t before = used(gpu);
        std::vector<std::unique_ptr<Child>> others;
        for (unsigned i = 0; i < job.processes; ++i)
            others.push_back(std::make_unique<Child>(
                job.program, std::vector<std::string>{"--hold", attached ? path : "nothing"}));
        for (const auto &other : others)
            if (other->line() != "ready")
                die("a process that attaches");
        cost[attached ? 1 : 0] = used(gpu) - before;
    }
    (void)::unlink(path.c_str());
    // The fake of each process knows only its own memory.
    if (runtime.fake())
        return;
    report.put("contexts_bytes", cost[0]);
    report.put("contexts_and_attached_bytes", cost[1]);
    report.put("weights_in_all", (static_cast<double>(job.bytes) + static_cast<double>(cost[1]) -
                                  static_cast<double>(cost[0])) /
                                     static_cast<double>(job.bytes));
}

// Attaches, says so, and stays until standard input ends.
int hold(const std::string &manifest_path) {
    const Runtime runtime = must(Runtime::open(), "open");
    Buffer buffer;
    if (manifest_path != "nothing") {
        std::ifstream file(manifest_path);
        std::ostringstream text;
        text << file.rdbuf();
        buffer =
            must(Buffer::attach(runtime, must(Manifest::parse(text.str()), "manifest")), "attach");
    }
    std::cout << "ready" << std::endl;
    while (std::cin.get() != EOF) {
    }
    return 0;
}

// Exports an extent and stays until it is killed.
int export_and_wait() {
    const Runtime runtime = must(Runtime::open(), "open");
    const RuntimeImpl &gpu = *runtime.shared();
    const CurrentContext current(gpu);
    abi::Handle handle = 0;
    Window window(gpu);
    if (gpu.create(gpu.granularity, handle) != 0 ||
        window.open({handle}, {gpu.granularity}, abi::kAccessReadWrite) != 0)
        die("memory");
    must(gpu, gpu.api.memset_d8(window.pieces()[0].address, 0x5a, gpu.granularity), "cuMemsetD8");
    must(gpu, gpu.api.ctx_synchronize(), "cuCtxSynchronize");
    broker::Message message;
    must(gpu, gpu.api.mem_export(&message.fds[0], handle, abi::kHandlePosixFd, 0), "export");
    message.fd_count = 1;
    if (broker::send_message(STDOUT_FILENO, message) != 0)
        die("sending a descriptor");
    (void)::pause();
    return 0;
}

// Memory of a process that is killed: imported before, and imported afterwards.
void exporter_death(const Runtime &runtime, const Job &job, Report &report) {
    const RuntimeImpl &gpu = *runtime.shared();
    Child exporter(job.program, {"--export"});
    broker::Message message;
    if (broker::receive_message(exporter.socket(), message) != 0 || message.fd_count != 1)
        die("a descriptor from the exporter");
    abi::Handle before = 0;
    abi::Handle after = 0;
    auto *const fd = reinterpret_cast<void *>(std::intptr_t{message.fds[0]});
    const CurrentContext current(gpu);
    must(gpu, gpu.api.mem_import(&before, fd, abi::kHandlePosixFd), "import");
    exporter.kill();
    const abi::Status late = gpu.api.mem_import(&after, fd, abi::kHandlePosixFd);
    report.put("imported_before_reads", first_byte(gpu, before) == 0x5a);
    report.put("import_after_death", late);
    if (late == abi::kSuccess)
        report.put("imported_after_reads", first_byte(gpu, after) == 0x5a);
    broker::close_fds(message);
    (void)gpu.api.mem_release(before);
    if (late == abi::kSuccess)
        (void)gpu.api.mem_release(after);
}

} // namespace upm::cuda::measure
