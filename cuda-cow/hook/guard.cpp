// SPDX-License-Identifier: MIT
#include "cuda-cow/hook/guard.hpp"

#include "cuda-cow/core/registry.hpp"
#include "cuda-cow/hook/plan.hpp"

#include <algorithm>
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

// This thread holds the gate around a call of the driver; what the driver, or another
// hook, calls in it is part of that call. (The gate must not be taken twice.)
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

// The parts of buffers that the accesses touch.
void add_targets(const Access &access, std::vector<Target> &targets) {
    abi::DevicePtr at = access.at;
    const abi::DevicePtr end =
        access.bytes > ~access.at ? ~abi::DevicePtr{0} : access.at + access.bytes;
    while (at < end) {
        std::shared_ptr<BufferImpl> buffer = registry::find(at);
        if (buffer == nullptr)
            return;
        const std::size_t offset = at - buffer->address();
        at = buffer->address() + buffer->mapped_bytes();
        if (offset >= buffer->bytes())
            continue;
        const std::size_t part =
            std::min<std::size_t>(end - buffer->address(), buffer->bytes()) - offset;
        targets.push_back({std::move(buffer), offset, access.writes ? part : 0});
    }
}

bool may_touch(const Access &access) {
    return access.bytes != 0 && access.at < registry::highest.load(std::memory_order_relaxed) &&
           access.at + access.bytes > registry::lowest.load(std::memory_order_relaxed);
}

} // namespace

struct Guard::Work {
    std::vector<Target> targets; // kept until the gate is free: the last owner may be us
    std::shared_ptr<Plan> plan;  // of what is to be learned
    std::vector<Hit> lesson;
    std::vector<std::vector<Tag>> before;

    void begin_lesson();
    void end_lesson();
};

// Pre: the gate is held, and everything is private.
void Guard::Work::begin_lesson() {
    for (const Hit &hit : lesson)
        (void)hit.buffer->hash(0, hit.buffer->bytes(), before.emplace_back());
}

// Once the last lesson is over, what was never seen written is taken for read.
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

// Makes the targets private and writable, and takes the gate while they are.
void Guard::enter(const Inspector &inspector, abi::Stream stream) {
    const std::vector<Target> &targets = work_->targets;
    for (;;) {
        launch_gate().lock_shared();
        gate_ = true;
        in_call = true;
        if (writable(targets))
            return;
        launch_gate().unlock_shared();
        gate_ = false;
        in_call = false;
        // Waiting for the device would end the capture; the graph's launch will do it.
        if (captures(inspector, stream)) {
            work_->lesson.clear();
            return;
        }
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
    if (registry::highest.load(std::memory_order_relaxed) == 0 || inside_library() || in_call)
        return;
    std::shared_ptr<Plan> hold;
    Plan &plan = plan_of(inspector, function, hold);
    Hits hits = find_hits(plan, parameters, extra);
    if (!hits.any || registry::in_forked_child())
        return;
    if (hits.written.empty() && hits.to_learn.empty()) {
        launch_gate().lock_shared(); // by far the most frequent: weights are read
        gate_ = true;
        in_call = true;
        return;
    }
    work_ = std::make_unique<Work>();
    for (const std::vector<Hit> *some : {&hits.written, &hits.to_learn})
        for (const Hit &hit : *some)
            work_->targets.push_back({hit.buffer, 0, hit.buffer->bytes()});
    if (!hits.to_learn.empty() && !captures(inspector, stream)) {
        const std::lock_guard<std::mutex> guard(lessons_lock());
        if (plan.lessons != 0) {
            --plan.lessons;
            work_->plan = plan.shared_from_this();
            work_->lesson = std::move(hits.to_learn);
        }
    }
    enter(inspector, stream);
    if (gate_)
        work_->begin_lesson();
}

Guard::Guard(const Inspector &inspector, const Accesses &accesses, abi::Stream stream) noexcept {
    if (registry::highest.load(std::memory_order_relaxed) == 0 || inside_library() || in_call)
        return;
    std::vector<Target> targets;
    for (const Access &access : accesses.few)
        if (may_touch(access))
            add_targets(access, targets);
    for (const Access &access : accesses.many)
        if (may_touch(access))
            add_targets(access, targets);
    if (targets.empty() || registry::in_forked_child())
        return;
    work_ = std::make_unique<Work>();
    work_->targets = std::move(targets);
    enter(inspector, stream);
}

Guard::~Guard() {
    if (gate_) {
        in_call = false;
        launch_gate().unlock_shared();
    }
    if (work_ != nullptr)
        work_->end_lesson();
}

} // namespace upm::cuda::hook
