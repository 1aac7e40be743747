// SPDX-License-Identifier: MIT
//
// Streams, the order between them, and what becomes of a memory fault.
#include "cuda-cow/fake/device.hpp"

#include <algorithm>
#include <chrono>
#include <csetjmp>
#include <csignal>

namespace upm::cuda::abi {

StreamObject::~StreamObject() {
    {
        const std::lock_guard<std::mutex> guard(lock_);
        stop_ = true;
    }
    changed_.notify_all();
    if (thread_.joinable())
        thread_.join();
}

void StreamObject::start() {
    thread_ = std::thread([this] { loop(); });
}

void StreamObject::push(
    std::function<void()> work,
    std::vector<std::pair<std::shared_ptr<StreamObject>, std::uint64_t>> after) {
    {
        const std::lock_guard<std::mutex> guard(lock_);
        tasks_.push_back({std::move(work), std::move(after)});
        ++queued;
    }
    changed_.notify_all();
}

void StreamObject::wait(std::uint64_t count) {
    std::unique_lock<std::mutex> guard(lock_);
    changed_.wait(guard, [&] { return done_ >= count; });
}

bool StreamObject::idle() {
    const std::lock_guard<std::mutex> guard(lock_);
    return done_ == queued;
}

void StreamObject::loop() {
    for (;;) {
        Task task;
        {
            std::unique_lock<std::mutex> guard(lock_);
            changed_.wait(guard, [&] { return stop_ || !tasks_.empty(); });
            if (tasks_.empty())
                return;
            task = std::move(tasks_.front());
            tasks_.pop_front();
        }
        for (const auto &[stream, count] : task.after)
            stream->wait(count);
        // What was queued behind a fault never runs.
        if (fake::device().sticky == kSuccess)
            fake::run_guarded(task.work);
        {
            const std::lock_guard<std::mutex> guard(lock_);
            ++done_;
        }
        changed_.notify_all();
    }
}

} // namespace upm::cuda::abi

namespace upm::cuda::abi {

// When its stream came to it, or that it did not yet. Recorded work may outlive the event.
struct EventObject {
    struct State {
        std::mutex lock;
        std::condition_variable changed;
        bool recorded = false;
        bool reached = false;
        std::chrono::steady_clock::time_point at;
    };
    std::shared_ptr<State> state = std::make_shared<State>();
};

} // namespace upm::cuda::abi

namespace upm::cuda::fake {

namespace {

thread_local sigjmp_buf *guard_of_thread = nullptr; // set while work runs
struct sigaction before_segv;
struct sigaction before_bus;

void on_fault(int signal, siginfo_t *information, void *context) {
    if (guard_of_thread != nullptr)
        ::siglongjmp(*guard_of_thread, 1);
    const struct sigaction &before = signal == SIGSEGV ? before_segv : before_bus;
    if ((before.sa_flags & SA_SIGINFO) != 0) {
        before.sa_sigaction(signal, information, context);
    } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
        before.sa_handler(signal);
    } else {
        (void)::signal(signal, SIG_DFL); // the instruction runs again, and kills
    }
}

} // namespace

void install_fault_handler() {
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    (void)::sigemptyset(&action.sa_mask);
    (void)::sigaction(SIGSEGV, &action, &before_segv);
    (void)::sigaction(SIGBUS, &action, &before_bus);
}

void run_guarded(const std::function<void()> &work) {
    unsigned delay = 0;
    {
        const std::lock_guard<std::mutex> guard(device().lock);
        delay = device().settings.task_us;
    }
    if (delay != 0)
        std::this_thread::sleep_for(std::chrono::microseconds(delay));
    sigjmp_buf here;
    // NOLINTNEXTLINE(cert-err52-cpp,modernize-avoid-setjmp-longjmp): the way out of a fault
    if (sigsetjmp(here, 0) != 0) {
        guard_of_thread = nullptr;
        device().sticky = abi::kIllegalAddress;
        return;
    }
    guard_of_thread = &here;
    work();
    guard_of_thread = nullptr;
}

std::shared_ptr<abi::StreamObject> find_stream(abi::Stream stream) {
    Device &all = device();
    const auto value = reinterpret_cast<std::uintptr_t>(stream);
    if (value <= abi::kStreamPerThread)
        return all.legacy;
    const auto found = std::find_if(all.streams.begin(), all.streams.end(),
                                    [&](const auto &entry) { return entry.get() == stream; });
    return found == all.streams.end() ? nullptr : *found;
}

bool is_captured(abi::Stream stream) {
    const std::lock_guard<std::mutex> guard(device().stream_lock);
    const auto found = find_stream(stream);
    return found != nullptr && found->capture != nullptr;
}

abi::Status refuse_in_capture() {
    bool capturing = false;
    for (const auto &stream : device().streams)
        if (stream->capture != nullptr)
            capturing = stream->capture->invalidated = true;
    return capturing ? abi::kStreamCaptureUnsupported : abi::kSuccess;
}

abi::Status enqueue(abi::Stream stream, std::function<void()> work, bool wait,
                    abi::GraphNodeObject node) {
    Device &all = device();
    std::shared_ptr<abi::StreamObject> to;
    std::uint64_t count = 0;
    {
        const std::lock_guard<std::mutex> guard(all.stream_lock);
        to = find_stream(stream);
        if (to == nullptr)
            return abi::kInvalidHandle;
        if (to->capture != nullptr && wait)
            return refuse_in_capture();
        if (to->capture != nullptr) {
            node.work = std::move(work);
            to->capture->nodes.push_back(std::move(node));
            return abi::kSuccess;
        }
        std::vector<std::pair<std::shared_ptr<abi::StreamObject>, std::uint64_t>> after;
        if (to == all.legacy) {
            for (const auto &other : all.streams)
                if (other->blocking)
                    after.emplace_back(other, other->queued.load());
        } else if (to->blocking) {
            after.emplace_back(all.legacy, all.legacy->queued.load());
        }
        to->push(std::move(work), std::move(after));
        count = to->queued;
    }
    if (wait)
        to->wait(count);
    return wait ? all.sticky.load() : abi::kSuccess;
}

abi::Status wait_for_all() {
    Device &all = device();
    std::vector<std::pair<std::shared_ptr<abi::StreamObject>, std::uint64_t>> pending;
    {
        const std::lock_guard<std::mutex> guard(all.stream_lock);
        if (const abi::Status status = refuse_in_capture(); status != abi::kSuccess)
            return status;
        pending.emplace_back(all.legacy, all.legacy->queued.load());
        for (const auto &stream : all.streams)
            pending.emplace_back(stream, stream->queued.load());
    }
    for (const auto &[stream, count] : pending)
        stream->wait(count);
    return all.sticky;
}

} // namespace upm::cuda::fake

// The driver's own names.
// NOLINTBEGIN(readability-identifier-naming)
#pragma GCC visibility push(default)
extern "C" {

using namespace upm::cuda;

abi::Status cuCtxGetCurrent(abi::Context *context);

abi::Status cuStreamCreate(abi::Stream *stream, unsigned flags) {
    if (const abi::Status status = fake::enter("cuStreamCreate", true); status != abi::kSuccess)
        return status;
    if (stream == nullptr || flags > abi::kStreamNonBlocking)
        return abi::kInvalidValue;
    auto made = std::make_shared<abi::StreamObject>(flags != abi::kStreamNonBlocking);
    made->start();
    fake::Device &all = fake::device();
    const std::lock_guard<std::mutex> guard(all.stream_lock);
    all.streams.push_back(made);
    *stream = made.get();
    return abi::kSuccess;
}

abi::Status cuStreamDestroy_v2(abi::Stream stream) {
    if (const abi::Status status = fake::enter("cuStreamDestroy", true); status != abi::kSuccess)
        return status;
    fake::Device &all = fake::device();
    std::shared_ptr<abi::StreamObject> dying;
    {
        const std::lock_guard<std::mutex> guard(all.stream_lock);
        const auto found = std::find_if(all.streams.begin(), all.streams.end(),
                                        [&](const auto &entry) { return entry.get() == stream; });
        if (found == all.streams.end())
            return abi::kInvalidHandle;
        dying = *found;
        all.streams.erase(found);
    }
    return abi::kSuccess; // the destructor does the rest of its work
}

abi::Status cuStreamSynchronize(abi::Stream stream) {
    if (const abi::Status status = fake::enter("cuStreamSynchronize", true);
        status != abi::kSuccess)
        return status;
    fake::Device &all = fake::device();
    std::shared_ptr<abi::StreamObject> waited;
    {
        const std::lock_guard<std::mutex> guard(all.stream_lock);
        waited = fake::find_stream(stream);
        if (waited != nullptr && waited->capture != nullptr)
            return fake::refuse_in_capture();
    }
    if (waited == nullptr)
        return abi::kInvalidHandle;
    waited->wait(waited->queued);
    return all.sticky;
}

abi::Status cuStreamQuery(abi::Stream stream) {
    if (const abi::Status status = fake::enter("cuStreamQuery", true); status != abi::kSuccess)
        return status;
    const std::lock_guard<std::mutex> guard(fake::device().stream_lock);
    const auto found = fake::find_stream(stream);
    if (found == nullptr)
        return abi::kInvalidHandle;
    return found->idle() ? abi::kSuccess : abi::kNotReady;
}

abi::Status cuCtxSynchronize() {
    if (const abi::Status status = fake::enter("cuCtxSynchronize", true); status != abi::kSuccess)
        return status;
    return fake::wait_for_all();
}

abi::Status cuEventCreate(abi::Event *event, unsigned /*flags*/) {
    if (const abi::Status status = fake::enter("cuEventCreate", true); status != abi::kSuccess)
        return status;
    *event = new abi::EventObject; // NOLINT(cppcoreguidelines-owning-memory)
    return abi::kSuccess;
}

abi::Status cuEventRecord(abi::Event event, abi::Stream stream) {
    if (const abi::Status status = fake::enter("cuEventRecord", true); status != abi::kSuccess)
        return status;
    {
        const std::lock_guard<std::mutex> guard(event->state->lock);
        event->state->recorded = true;
        event->state->reached = false;
    }
    return fake::enqueue(
        stream,
        [state = event->state] {
            const std::lock_guard<std::mutex> guard(state->lock);
            state->at = std::chrono::steady_clock::now();
            state->reached = true;
            state->changed.notify_all();
        },
        false);
}

abi::Status cuEventSynchronize(abi::Event event) {
    if (const abi::Status status = fake::enter("cuEventSynchronize", true); status != abi::kSuccess)
        return status;
    std::unique_lock<std::mutex> guard(event->state->lock);
    while (event->state->recorded && !event->state->reached &&
           fake::device().sticky == abi::kSuccess)
        event->state->changed.wait_for(guard, std::chrono::milliseconds(10));
    return fake::device().sticky;
}

abi::Status cuEventElapsedTime(float *milliseconds, abi::Event start, abi::Event end) {
    if (const abi::Status status = fake::enter("cuEventElapsedTime", true); status != abi::kSuccess)
        return status;
    if (!start->state->recorded || !end->state->recorded)
        return abi::kInvalidHandle;
    *milliseconds =
        std::chrono::duration<float, std::milli>(end->state->at - start->state->at).count();
    return start->state->reached && end->state->reached ? abi::kSuccess : abi::kNotReady;
}

abi::Status cuEventDestroy_v2(abi::Event event) {
    delete event; // NOLINT(cppcoreguidelines-owning-memory)
    return abi::kSuccess;
}

// What CUDA 13 means by this name; cuda.h 13.0 declares only the first.
abi::Status cuCtxSynchronize_v2(abi::Context context) {
    abi::Context current = nullptr;
    (void)cuCtxGetCurrent(&current);
    return context != nullptr && context != current ? abi::kInvalidContext : cuCtxSynchronize();
}
}
#pragma GCC visibility pop
// NOLINTEND(readability-identifier-naming)
