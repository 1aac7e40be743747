// SPDX-License-Identifier: MIT
#include "cuda-cow/hook/guard.hpp"

#include "cuda-cow/core/registry.hpp"
#include "cuda-cow/hook/graphs.hpp"
#include "cuda-cow/hook/plan.hpp"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdio>

namespace upm::cuda::hook {

namespace {

// Part of a buffer that is about to be written, or, with no bytes, is only read.
struct Target {
    std::shared_ptr<BufferImpl> buffer;
    std::size_t offset = 0;
    std::size_t bytes = 0;
};

bool writable(const std::vector<Target> &targets) {
    return std::all_of(targets.begin(), targets.end(), [](const Target &target) {
        return target.buffer->writable(target.offset, target.bytes);
    });
}

// This thread holds a gate around a call of the driver; what the driver, or another
// hook, calls in it is part of that call. (A gate must not be taken twice.)
[[gnu::tls_model("initial-exec")]] thread_local bool in_call = false;

bool captures(const Inspector &inspector, abi::Stream stream) {
    int status = abi::kCaptureNone;
    return inspector.capturing != nullptr &&
           inspector.capturing(stream, &status) == abi::kSuccess && status != abi::kCaptureNone;
}

abi::Status status_of(int error) {
    if (error == EFAULT)
        return abi::kIllegalAddress;
    return error == EBUSY ? abi::kStreamCaptureUnsupported : abi::kOutOfMemory;
}

std::uint64_t gate_bit(abi::Device device) {
    return std::uint64_t{1} << gate_index(device);
}

// The gates of work in the current context: one, or none if nothing of its device is
// ours; all that are in use if the driver does not say which device that is.
std::uint64_t gates_here(const Inspector &inspector) {
    const std::uint64_t used = registry::devices.load(std::memory_order_acquire);
    abi::Device device = 0;
    if (inspector.device == nullptr || inspector.device(&device) != abi::kSuccess)
        return used;
    return used & gate_bit(device);
}

// The parts of buffers that the accesses touch.
void add_targets(const Access &access, std::vector<Target> &targets) {
    abi::DevicePtr at = access.at;
    const abi::DevicePtr end =
        access.bytes > ~access.at ? ~abi::DevicePtr{0} : access.at + access.bytes;
    while (at < end) {
        std::shared_ptr<BufferImpl> buffer = registry::find_next(at);
        if (buffer == nullptr || buffer->address() >= end)
            return;
        const std::size_t offset = at > buffer->address() ? at - buffer->address() : 0;
        at = buffer->address() + buffer->mapped_bytes();
        if (offset >= buffer->bytes())
            continue;
        const std::size_t part =
            std::min<std::size_t>(end - buffer->address(), buffer->bytes()) - offset;
        targets.push_back({std::move(buffer), offset, access.writes ? part : 0});
    }
}

std::uint64_t gates_of(const std::vector<Target> &targets) {
    std::uint64_t gates = 0;
    for (const Target &target : targets)
        gates |= gate_bit(target.buffer->device());
    return gates;
}

bool may_touch(const Access &access) {
    return access.bytes != 0 && access.at < registry::highest.load(std::memory_order_relaxed) &&
           access.at + access.bytes > registry::lowest.load(std::memory_order_relaxed);
}

bool nothing_to_do() {
    return registry::devices.load(std::memory_order_relaxed) == 0 || inside_library() || in_call ||
           registry::in_forked_child();
}

} // namespace

struct Guard::Work {
    std::vector<Target> targets; // kept until the gate is free: the last owner may be us
    std::shared_ptr<Plan> plan;  // of what is to be learned
    std::vector<Hit> lesson;     // kept like the targets
    std::vector<std::vector<Tag>> before;

    void begin_lesson(Plan &from);
    void end_lesson();
};

// Learning is for the time before an advise: what is shared would have to be copied, and
// is left alone. Pre: the gate is held.
void Guard::Work::begin_lesson(Plan &from) {
    for (const Hit &hit : lesson)
        if (!hit.buffer->writable(0, hit.buffer->bytes()))
            return;
    {
        const std::lock_guard<std::mutex> guard(lessons_lock());
        if (from.lessons == 0)
            return;
        --from.lessons;
    }
    plan = from.shared_from_this();
    for (const Hit &hit : lesson)
        (void)hit.buffer->hash(0, hit.buffer->bytes(), before.emplace_back());
}

// Once the last lesson is over, what was never seen written is taken for read. Pre: the
// gate is held.
void Guard::Work::end_lesson() {
    for (std::size_t i = 0; i < before.size(); ++i) {
        std::vector<Tag> after;
        const Hit &hit = lesson[i];
        const bool known = hit.buffer->hash(0, hit.buffer->bytes(), after) == 0;
        const std::lock_guard<std::mutex> guard(lessons_lock());
        if (!known || after != before[i])
            plan->seen_written.insert(hit.parameter);
        Parameter &parameter = plan->parameters[hit.parameter];
        if (plan->seen_written.contains(hit.parameter))
            parameter.use = Use::kWritten;
        else if (plan->lessons == 0)
            parameter.use = Use::kRead;
    }
}

void Guard::take(std::uint64_t gates) noexcept {
    for (std::uint64_t left = gates; left != 0; left &= left - 1)
        upm::cuda::gates[std::countr_zero(left)].lock_shared();
    gates_ = gates;
    entered_ = true;
    in_call = true;
}

void Guard::give_back() noexcept {
    in_call = false;
    entered_ = false;
    for (std::uint64_t left = gates_; left != 0; left &= left - 1)
        upm::cuda::gates[std::countr_zero(left)].unlock_shared();
    gates_ = 0;
}

// Makes the targets private and writable, and takes the gates while they are.
void Guard::enter(const Inspector &inspector, std::uint64_t gates, abi::Stream stream) {
    const std::vector<Target> &targets = work_->targets;
    for (;;) {
        take(gates);
        if (writable(targets))
            return;
        give_back();
        // Waiting for the device would end the capture; the graph's launch will do it.
        if (captures(inspector, stream))
            return;
        for (const Target &target : targets) {
            std::uint64_t copied = 0;
            const int error = target.buffer->will_write(target.offset, target.bytes, copied);
            if (error != 0) {
                (void)std::fprintf(stderr, "upm-cuda: no private copy for a write to %s: %s\n",
                                   target.buffer->describe(target.offset).c_str(), last_error());
                status_ = status_of(error);
                return;
            }
        }
    }
}

Guard::Guard(const Inspector &inspector, abi::Function function, void **parameters, void **extra,
             abi::Stream stream) noexcept {
    if (nothing_to_do())
        return;
    std::shared_ptr<Plan> hold;
    Plan &plan = plan_of(inspector, function, hold);
    Hits hits = find_hits(plan, parameters, extra);
    const std::uint64_t gates = gates_here(inspector) | hits.devices;
    if (hits.written.empty() && hits.to_learn.empty()) {
        take(gates); // by far the most frequent: weights are read
        return;
    }
    work_ = std::make_unique<Work>();
    for (const Hit &hit : hits.written)
        work_->targets.push_back({hit.buffer, 0, hit.buffer->bytes()});
    work_->lesson = std::move(hits.to_learn);
    enter(inspector, gates, stream);
    if (entered_ && !work_->lesson.empty() && !captures(inspector, stream))
        work_->begin_lesson(plan);
}

// Nothing is learned from these: which of them wrote would be a guess.
Guard::Guard(const Inspector &inspector, const abi::LaunchParams *all, unsigned count) noexcept {
    if (nothing_to_do())
        return;
    auto work = std::make_unique<Work>();
    for (unsigned i = 0; all != nullptr && i < count; ++i) {
        std::shared_ptr<Plan> hold;
        Plan &plan = plan_of(inspector, all[i].function, hold);
        const Hits hits = find_hits(plan, all[i].parameters, nullptr);
        for (const Hit &hit : hits.written)
            work->targets.push_back({hit.buffer, 0, hit.buffer->bytes()});
    }
    work_ = std::move(work);
    enter(inspector, registry::devices.load(std::memory_order_acquire), nullptr);
}

// Nothing here takes longer for more nodes, unless something was shared since the last
// launch.
Guard::Guard(const Inspector &inspector, abi::GraphExec exec, abi::Stream stream) noexcept {
    if (nothing_to_do())
        return;
    const std::shared_ptr<GraphUses> uses = uses_of(exec);
    const std::uint64_t generation = registry::generation.load(std::memory_order_acquire);
    std::uint64_t gates = gates_here(inspector);
    if (uses == nullptr) {
        take(gates);
        return;
    }
    remember(uses->suspects);
    gates |= uses->gates.load(std::memory_order_relaxed);
    take(gates);
    if (uses->is_ready(generation, freezes()))
        return;
    give_back();
    work_ = std::make_unique<Work>();
    for (const Access &access : uses->written)
        if (may_touch(access))
            add_targets(access, work_->targets);
    gates |= gates_of(work_->targets);
    uses->gates = gates;
    enter(inspector, gates, stream);
    if (entered_)
        uses->set_ready(generation, freezes());
}

Guard::Guard(const Inspector &inspector, const Accesses &accesses, abi::Stream stream) noexcept {
    if (nothing_to_do())
        return;
    std::vector<Target> targets;
    for (const Access &access : accesses.few)
        if (may_touch(access))
            add_targets(access, targets);
    for (const Access &access : accesses.many)
        if (may_touch(access))
            add_targets(access, targets);
    if (targets.empty())
        return;
    work_ = std::make_unique<Work>();
    work_->targets = std::move(targets);
    enter(inspector, gates_of(work_->targets), stream);
}

Guard::~Guard() {
    if (!entered_)
        return;
    if (work_ != nullptr)
        work_->end_lesson();
    give_back();
}

} // namespace upm::cuda::hook
