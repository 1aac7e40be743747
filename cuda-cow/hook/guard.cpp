// SPDX-License-Identifier: MIT
#include "cuda-cow/hook/guard.hpp"

#include "cuda-cow/core/registry.hpp"
#include "cuda-cow/env.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <set>
#include <sstream>
#include <unordered_map>

namespace upm::cuda::hook {

namespace {

struct Parameter {
    std::size_t offset = 0; // in the device's layout, for launches with `extra`
    std::size_t size = 8;
    Use use = Use::kUnproven;
};

struct Plan {
    std::string name;
    std::vector<Parameter> parameters;
    unsigned lessons = 0;               // launches to learn from that are left
    std::set<std::size_t> seen_written; // by them
};

struct Suspect {
    std::string function;
    std::size_t parameter = 0;
    abi::DevicePtr address = 0;
};

constexpr std::size_t kMaxSuspects = 16;

struct State {
    std::shared_mutex lock;
    std::unordered_map<abi::Function, std::shared_ptr<Plan>> plans;
    std::map<std::string, std::vector<Use>> ptx;
    std::set<std::pair<std::string, unsigned>> declared;
    std::vector<Suspect> suspects;
    bool reported = false;
    const bool unproven_is_written = std::strcmp(env::text(env::kUnproven), "write") == 0;
    const unsigned lessons =
        static_cast<unsigned>(std::strtoul(env::text(env::kLearn), nullptr, 10));
};

void read_declarations(State &state) {
    const char *const path = env::text(env::kWrites);
    if (*path == '\0')
        return;
    std::ifstream file(path);
    if (!file)
        (void)std::fprintf(stderr, "upm-cuda: UPM_CUDA_WRITES: cannot read %s\n", path);
    for (std::string line; std::getline(file, line);) {
        std::istringstream words(line);
        std::string function;
        words >> function;
        for (unsigned index = 0; words >> index;)
            state.declared.emplace(function, index);
    }
}

State &state() {
    static State *const only = [] {
        auto *const made = new State; // NOLINT(cppcoreguidelines-owning-memory)
        read_declarations(*made);
        return made;
    }();
    return *only;
}

// Pre: the lock is held.
Use judge(const std::string &name, std::size_t index, const std::vector<Use> &by_name) {
    const State &all = state();
    if (all.declared.contains({name, static_cast<unsigned>(index)}))
        return Use::kWritten;
    const auto ptx = all.ptx.find(name);
    if (ptx != all.ptx.end() && index < ptx->second.size() && ptx->second[index] != Use::kUnproven)
        return ptx->second[index];
    return index < by_name.size() ? by_name[index] : Use::kUnproven;
}

std::shared_ptr<Plan> make_plan(const Inspector &inspector, abi::Function function) {
    auto plan = std::make_shared<Plan>();
    const char *name = nullptr;
    if (inspector.name != nullptr && inspector.name(&name, function) == abi::kSuccess &&
        name != nullptr)
        plan->name = name;
    const std::vector<Use> by_name = uses_from_name(plan->name.c_str());
    for (std::size_t i = 0; inspector.param != nullptr; ++i) {
        Parameter made;
        if (inspector.param(function, i, &made.offset, &made.size) != abi::kSuccess)
            break;
        plan->parameters.push_back(made);
    }
    if (inspector.param == nullptr) // an older driver: the name must do
        plan->parameters.resize(by_name.size());
    for (std::size_t i = 0; i < plan->parameters.size(); ++i)
        plan->parameters[i].use = judge(plan->name, i, by_name);
    plan->lessons = state().lessons;
    return plan;
}

// Counts up when plans are forgotten, so that threads forget theirs too.
std::atomic<std::uint64_t> generation{1};

std::shared_ptr<Plan> look_up(const Inspector &inspector, abi::Function function) {
    State &all = state();
    {
        const std::shared_lock<std::shared_mutex> guard(all.lock);
        if (const auto found = all.plans.find(function); found != all.plans.end())
            return found->second;
    }
    const std::unique_lock<std::shared_mutex> guard(all.lock);
    std::shared_ptr<Plan> &plan = all.plans[function];
    if (plan == nullptr)
        plan = make_plan(inspector, function);
    return plan;
}

// Each thread keeps a few plans, found without a lock: launches come in thousands.
const std::shared_ptr<Plan> &plan_of(const Inspector &inspector, abi::Function function) {
    struct Kept {
        abi::Function function = nullptr;
        std::uint64_t generation = 0;
        std::shared_ptr<Plan> plan;
    };
    constexpr std::size_t kKept = 64;
    thread_local Kept kept[kKept];
    Kept &slot = kept[(reinterpret_cast<std::uintptr_t>(function) >> 4) % kKept];
    const std::uint64_t now = generation.load(std::memory_order_acquire);
    if (slot.function != function || slot.generation != now)
        slot = {function, now, look_up(inspector, function)};
    return slot.plan;
}

struct Hit {
    std::size_t parameter = 0;
    abi::DevicePtr address = 0;
    std::shared_ptr<BufferImpl> buffer;
};

// The parameter block of a launch with CU_LAUNCH_PARAM_BUFFER_POINTER (1), or nullptr.
const char *packed(void **extra) {
    for (std::size_t i = 0; extra != nullptr && extra[i] != nullptr; i += 2)
        if (reinterpret_cast<std::uintptr_t>(extra[i]) == 1)
            return static_cast<const char *>(extra[i + 1]);
    return nullptr;
}

// Pointers into buffers among the parameters; structures are searched through.
std::vector<Hit> find_hits(const Plan &plan, void **parameters, void **extra) {
    std::vector<Hit> hits;
    const char *const block = parameters == nullptr ? packed(extra) : nullptr;
    for (std::size_t i = 0; i < plan.parameters.size(); ++i) {
        const Parameter &parameter = plan.parameters[i];
        const char *value = block != nullptr ? block + parameter.offset : nullptr;
        if (parameters != nullptr)
            value = static_cast<const char *>(parameters[i]);
        for (std::size_t at = 0; value != nullptr && at + 8 <= parameter.size; at += 8) {
            abi::DevicePtr address = 0;
            std::memcpy(&address, value + at, sizeof address);
            if (!registry::may_hold(address))
                continue;
            if (std::shared_ptr<BufferImpl> buffer = registry::find(address); buffer != nullptr)
                hits.push_back({i, address, std::move(buffer)});
        }
    }
    return hits;
}

struct Lesson {
    std::shared_ptr<Plan> plan;
    std::vector<Hit> hits;
    std::vector<std::vector<Tag>> before;
};

// Makes all of the buffers private and writable, and takes the gate while they are.
abi::Status make_writable(const std::vector<Hit> &written, bool &gate) {
    for (;;) {
        for (const Hit &hit : written) {
            std::uint64_t copied = 0;
            const int error = hit.buffer->will_write(0, hit.buffer->bytes(), copied);
            if (error != 0) {
                (void)std::fprintf(stderr, "upm-cuda: no private copy for a write to %s: %s\n",
                                   hit.buffer->describe(0).c_str(), last_error());
                return error == EFAULT ? abi::kIllegalAddress : abi::kOutOfMemory;
            }
        }
        launch_gate().lock_shared();
        const bool still = std::all_of(written.begin(), written.end(), [](const Hit &hit) {
            return hit.buffer->writable(0, hit.buffer->bytes());
        });
        gate = still;
        if (still)
            return abi::kSuccess;
        launch_gate().unlock_shared(); // somebody advised in between
    }
}

bool may_write(const Plan &plan, std::size_t index) {
    const Use use = plan.parameters[index].use;
    return use == Use::kWritten || (use == Use::kUnproven && state().unproven_is_written);
}

void remember(const Plan &plan, const std::vector<Hit> &hits) {
    State &all = state();
    const std::unique_lock<std::shared_mutex> guard(all.lock);
    for (const Hit &hit : hits) {
        if (may_write(plan, hit.parameter))
            continue;
        const bool known =
            std::any_of(all.suspects.begin(), all.suspects.end(), [&](const Suspect &suspect) {
                return suspect.function == plan.name && suspect.parameter == hit.parameter;
            });
        if (known)
            continue;
        if (all.suspects.size() == kMaxSuspects)
            all.suspects.erase(all.suspects.begin());
        all.suspects.push_back({plan.name, hit.parameter, hit.address});
    }
}

// Those hits that nothing is known about, if launches of this function are to teach.
std::unique_ptr<Lesson> begin_lesson(const std::shared_ptr<Plan> &plan,
                                     const std::vector<Hit> &hits) {
    const std::unique_lock<std::shared_mutex> guard(state().lock);
    if (plan->lessons == 0)
        return nullptr;
    auto lesson = std::make_unique<Lesson>();
    for (const Hit &hit : hits)
        if (plan->parameters[hit.parameter].use == Use::kUnproven)
            lesson->hits.push_back(hit);
    if (lesson->hits.empty())
        return nullptr;
    --plan->lessons;
    lesson->plan = plan;
    return lesson;
}

// Once the last lesson is over, what was never seen written is taken for read.
void end_lesson(const Lesson &lesson) {
    for (std::size_t i = 0; i < lesson.hits.size(); ++i) {
        std::vector<Tag> after;
        const Hit &hit = lesson.hits[i];
        const bool known = hit.buffer->hash(0, hit.buffer->bytes(), after) == 0;
        const std::unique_lock<std::shared_mutex> guard(state().lock);
        if (!known || after != lesson.before[i])
            lesson.plan->seen_written.insert(hit.parameter);
        Parameter &parameter = lesson.plan->parameters[hit.parameter];
        if (lesson.plan->seen_written.contains(hit.parameter))
            parameter.use = Use::kWritten;
        else if (lesson.plan->lessons == 0)
            parameter.use = Use::kRead;
    }
}

} // namespace

Guard::Guard(const Inspector &inspector, abi::Function function, void **parameters,
             void **extra) noexcept {
    if (inside_library() || registry::highest.load(std::memory_order_relaxed) == 0)
        return;
    const std::shared_ptr<Plan> &plan = plan_of(inspector, function);
    const std::vector<Hit> hits = find_hits(*plan, parameters, extra);
    if (hits.empty())
        return;
    remember(*plan, hits);
    std::unique_ptr<Lesson> lesson = begin_lesson(plan, hits);
    std::vector<Hit> written;
    for (const Hit &hit : hits)
        if (may_write(*plan, hit.parameter))
            written.push_back(hit);
    if (lesson != nullptr)
        written.insert(written.end(), lesson->hits.begin(), lesson->hits.end());
    status_ = make_writable(written, gate_);
    if (lesson == nullptr || status_ != abi::kSuccess)
        return;
    for (const Hit &hit : lesson->hits)
        (void)hit.buffer->hash(0, hit.buffer->bytes(), lesson->before.emplace_back());
    lesson_ = lesson.release();
}

Guard::Guard(abi::DevicePtr to, std::size_t bytes) noexcept {
    if (inside_library() || bytes == 0 ||
        (!registry::may_hold(to) && !registry::may_hold(to + bytes - 1)))
        return;
    const Result<std::uint64_t> done = will_write(to, bytes);
    if (!done) {
        (void)std::fprintf(stderr, "upm-cuda: no private copy for a copy to %s: %s\n",
                           describe(to).c_str(), last_error());
        status_ = abi::kOutOfMemory;
    }
}

Guard::~Guard() {
    if (gate_)
        launch_gate().unlock_shared();
    if (lesson_ != nullptr) {
        const std::unique_ptr<Lesson> lesson(static_cast<Lesson *>(lesson_));
        end_lesson(*lesson);
    }
}

void note_image(const void *image) noexcept {
    const auto *const text = static_cast<const char *>(image);
    static constexpr std::string_view kStarts[] = {"//", ".version", "\n"};
    if (image == nullptr || std::none_of(std::begin(kStarts), std::end(kStarts), [&](auto start) {
            return std::strncmp(text, start.data(), start.size()) == 0;
        }))
        return;
    auto found = uses_from_ptx(text);
    State &all = state();
    const std::unique_lock<std::shared_mutex> guard(all.lock);
    for (auto &[name, uses] : found)
        all.ptx[name] = std::move(uses);
}

void forget_functions() noexcept {
    const std::unique_lock<std::shared_mutex> guard(state().lock);
    state().plans.clear();
    ++generation;
}

void declare_write(const char *function, unsigned index) noexcept {
    {
        const std::unique_lock<std::shared_mutex> guard(state().lock);
        state().declared.emplace(function, index);
    }
    forget_functions();
}

abi::Status watch(abi::Status status, bool synchronized) noexcept {
    const bool lost = status == abi::kIllegalAddress || status == abi::kLaunchFailed;
    if (inside_library() || (!lost && !synchronized))
        return status;
    State &all = state();
    const std::unique_lock<std::shared_mutex> guard(all.lock);
    if (status == abi::kSuccess)
        all.suspects.clear();
    if (!lost || all.reported || all.suspects.empty())
        return status;
    all.reported = true;
    (void)std::fprintf(stderr,
                       "upm-cuda: CUDA error %d: the context is lost. Since the last "
                       "synchronization these functions had read-only shared memory among "
                       "their arguments:\n",
                       status);
    for (const Suspect &suspect : all.suspects)
        (void)std::fprintf(stderr, "upm-cuda:   %s, parameter %zu: %s\n", suspect.function.c_str(),
                           suspect.parameter, describe(suspect.address).c_str());
    (void)std::fprintf(stderr, "upm-cuda: if one of them writes, call will_write() before it, or "
                               "put 'FUNCTION INDEX' into the file UPM_CUDA_WRITES\n");
    return status;
}

} // namespace upm::cuda::hook
