// SPDX-License-Identifier: MIT
#include "cuda-cow/hook/plan.hpp"

#include "libupm/base/env.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <shared_mutex>
#include <sstream>
#include <unordered_map>

namespace upm::cuda::hook {

namespace {

struct State {
    std::shared_mutex lock;
    std::unordered_map<abi::Function, std::shared_ptr<Plan>> plans;
    std::unordered_map<abi::Function, abi::Library> kernels; // handles that are a CUkernel
    std::set<std::pair<std::string, unsigned>> declared;
    std::vector<std::shared_ptr<const Suspects>> suspects; // the latest last
    bool reported = false;
    const bool unproven_is_written = env::get(env::cuda_unproven) == env::Use::kWrite;
    const unsigned lessons = static_cast<unsigned>(env::get(env::cuda_learn));
    std::atomic<bool> any_suspect{false};
    std::atomic<std::uint64_t> epoch{1};      // counts up when suspects are forgotten
    std::atomic<std::uint64_t> generation{1}; // and this one when plans are
};

void read_declarations(State &state) {
    const char *const path = env::get(env::cuda_writes);
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
    return index < by_name.size() ? by_name[index] : Use::kUnproven;
}

// Pre: the lock is held. A kernel's handle is not asked about itself: these calls are
// documented for functions only.
std::shared_ptr<Plan> make_plan(const Inspector &inspector, abi::Function function) {
    auto plan = std::make_shared<Plan>();
    plan->lessons = state().lessons;
    if (state().kernels.contains(function)) {
        auto *const kernel = reinterpret_cast<abi::Kernel>(function);
        if (inspector.function == nullptr || inspector.function(&function, kernel) != abi::kSuccess)
            return plan;
    }
    const char *name = nullptr;
    if (inspector.name != nullptr && inspector.name(&name, function) == abi::kSuccess &&
        name != nullptr)
        plan->name = name;
    const std::vector<Use> by_name = uses_from_name(plan->name.c_str());
    for (std::size_t i = 0; inspector.param != nullptr; ++i) {
        std::size_t offset = 0;
        std::size_t size = 0;
        if (inspector.param(function, i, &offset, &size) != abi::kSuccess)
            break;
        Parameter &made = plan->parameters.emplace_back();
        made.offset = offset;
        made.size = size;
    }
    if (inspector.param == nullptr) // an older driver: the name must do
        for (std::size_t i = 0; i < by_name.size(); ++i)
            plan->parameters.emplace_back();
    for (std::size_t i = 0; i < plan->parameters.size(); ++i) {
        Parameter &parameter = plan->parameters[i];
        parameter.use = judge(plan->name, i, by_name);
        for (std::size_t at = 0; at + 8 <= parameter.size; at += 8)
            plan->words.push_back({i, at, parameter.offset + at});
    }
    return plan;
}

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

// What each thread keeps, since launches come in thousands: a few plans, and the table
// of buffers.
struct Kept {
    struct Slot {
        abi::Function function = nullptr;
        std::uint64_t generation = 0;
        std::shared_ptr<Plan> plan;
    };
    static constexpr std::size_t kSlots = 64;
    std::array<Slot, kSlots> plans;
    std::uint64_t table_generation = 0;
    std::shared_ptr<const registry::Table> table;
};

// nullptr once the thread's destructors have run: those of a program may launch too.
Kept *kept() {
    [[gnu::tls_model("initial-exec")]] thread_local Kept *mine = nullptr;
    [[gnu::tls_model("initial-exec")]] thread_local bool over = false;
    struct Owner {
        Owner() = default;
        Owner(const Owner &) = delete;
        Owner &operator=(const Owner &) = delete;
        ~Owner() {
            over = true;
            delete mine; // NOLINT(cppcoreguidelines-owning-memory)
            mine = nullptr;
        }
    };
    if (mine == nullptr && !over) {
        thread_local Owner owner;
        mine = new Kept; // NOLINT(cppcoreguidelines-owning-memory)
    }
    return mine;
}

// The parameter block of a launch with CU_LAUNCH_PARAM_BUFFER_POINTER (1), or nullptr.
const char *packed(void **extra) {
    for (std::size_t i = 0; extra != nullptr && extra[i] != nullptr; i += 2)
        if (reinterpret_cast<std::uintptr_t>(extra[i]) == 1)
            return static_cast<const char *>(extra[i + 1]);
    return nullptr;
}

// The thread's table, brought up to date; `own` where the thread cannot keep one.
const registry::Table &table_now(std::shared_ptr<const registry::Table> &own) {
    Kept *const mine = kept();
    if (mine == nullptr) {
        own = registry::table();
        return *own;
    }
    const std::uint64_t now = registry::generation.load(std::memory_order_acquire);
    if (mine->table == nullptr || mine->table_generation != now)
        mine->table = registry::table();
    mine->table_generation = now;
    return *mine->table;
}

// Calls `tell(index, address, entry)` for each pointer into a buffer.
template <class Tell>
void for_hits(const Plan &plan, void **parameters, void **extra, Tell &&tell) {
    const char *const block = parameters == nullptr ? packed(extra) : nullptr;
    if (parameters == nullptr && block == nullptr)
        return;
    const abi::DevicePtr lowest = registry::lowest.load(std::memory_order_relaxed);
    const abi::DevicePtr highest = registry::highest.load(std::memory_order_relaxed);
    std::shared_ptr<const registry::Table> own;
    const registry::Table *table = nullptr;
    const registry::Entry *entry = nullptr; // most pointers are into the buffer of the last
    for (const Word &word : plan.words) {
        const char *const value = block != nullptr
                                      ? block + word.packed
                                      : static_cast<const char *>(parameters[word.parameter]);
        if (value == nullptr)
            continue;
        abi::DevicePtr address = 0;
        std::memcpy(&address, value + (block != nullptr ? 0 : word.at), sizeof address);
        if (address < lowest || address >= highest)
            continue;
        if (table == nullptr)
            table = &table_now(own);
        if (entry == nullptr || address < entry->start || address >= entry->end)
            entry = registry::find(*table, address);
        if (entry != nullptr)
            tell(word.parameter, address, *entry);
    }
}

bool is_written(Use use) {
    return use == Use::kWritten || (use == Use::kUnproven && state().unproven_is_written);
}

void note(Plan &plan, std::size_t index, abi::DevicePtr address) {
    State &all = state();
    const std::uint64_t epoch = all.epoch.load(std::memory_order_relaxed);
    std::atomic<std::uint64_t> &noted = plan.parameters[index].noted;
    if (noted.load(std::memory_order_relaxed) == epoch)
        return;
    noted.store(epoch, std::memory_order_relaxed);
    remember(std::make_shared<const Suspects>(Suspects{{plan.name, index, address}}));
}

} // namespace

std::mutex &lessons_lock() {
    static auto *const only = new std::mutex; // NOLINT(cppcoreguidelines-owning-memory)
    return *only;
}

Plan &plan_of(const Inspector &inspector, abi::Function function, std::shared_ptr<Plan> &hold) {
    Kept *const mine = kept();
    if (mine == nullptr) {
        hold = look_up(inspector, function);
        return *hold;
    }
    Kept::Slot &slot =
        mine->plans[(reinterpret_cast<std::uintptr_t>(function) >> 4) % Kept::kSlots];
    const std::uint64_t now = state().generation.load(std::memory_order_acquire);
    if (slot.function != function || slot.generation != now)
        slot = {function, now, look_up(inspector, function)};
    return *slot.plan;
}

Hits find_hits(Plan &plan, void **parameters, void **extra, Suspects *later) {
    Hits hits;
    for_hits(plan, parameters, extra,
             [&](std::size_t index, abi::DevicePtr address, const registry::Entry &entry) {
                 hits.devices |= std::uint64_t{1} << gate_index(entry.device);
                 const Use use = plan.parameters[index].use.load(std::memory_order_relaxed);
                 const bool written = is_written(use);
                 if (!written && later != nullptr)
                     later->push_back({plan.name, index, address});
                 else if (!written)
                     note(plan, index, address);
                 const bool learn = use == Use::kUnproven && plan.lessons != 0 && later == nullptr;
                 if (!written && !learn)
                     return;
                 if (std::shared_ptr<BufferImpl> buffer = entry.buffer.lock(); buffer != nullptr)
                     (written ? hits.written : hits.to_learn)
                         .push_back({index, address, std::move(buffer)});
             });
    return hits;
}

void remember(const std::shared_ptr<const Suspects> &suspects) {
    if (suspects == nullptr)
        return;
    State &all = state();
    const std::unique_lock<std::shared_mutex> guard(all.lock);
    if (std::find(all.suspects.begin(), all.suspects.end(), suspects) != all.suspects.end())
        return;
    if (all.suspects.size() == kMaxSuspects)
        all.suspects.erase(all.suspects.begin());
    all.suspects.push_back(suspects);
    all.any_suspect = true;
}

void note_kernel(abi::Kernel kernel, abi::Library library) noexcept {
    State &all = state();
    const std::unique_lock<std::shared_mutex> guard(all.lock);
    all.kernels.try_emplace(reinterpret_cast<abi::Function>(kernel), library);
}

void forget_functions(abi::Library library) noexcept {
    State &all = state();
    const std::unique_lock<std::shared_mutex> guard(all.lock);
    if (library != nullptr)
        std::erase_if(all.kernels, [&](const auto &known) { return known.second == library; });
    all.plans.clear();
    ++all.generation;
}

namespace {

void report(const State &all, abi::Status status) {
    (void)std::fprintf(stderr,
                       "upm-cuda: CUDA error %d: the context is lost. Since the last "
                       "synchronization these functions had read-only shared memory among "
                       "their arguments:\n",
                       status);
    std::set<std::pair<std::string, std::size_t>> told;
    for (const auto &suspects : all.suspects)
        for (const Suspect &suspect : *suspects)
            if (told.emplace(suspect.function, suspect.parameter).second)
                (void)std::fprintf(stderr, "upm-cuda:   %s, parameter %zu: %s\n",
                                   suspect.function.c_str(), suspect.parameter,
                                   describe(suspect.address).c_str());
    (void)std::fprintf(stderr, "upm-cuda: if one of them writes, call will_write() before it, or "
                               "put 'FUNCTION INDEX' into the file UPM_CUDA_WRITES\n");
}

} // namespace

abi::Status watch(abi::Status status, bool synchronized) noexcept {
    const bool lost = status != abi::kSuccess && error_of(status) == EFAULT;
    if (inside_library() || (!lost && !synchronized))
        return status;
    State &all = state();
    if (!all.any_suspect)
        return status;
    const std::unique_lock<std::shared_mutex> guard(all.lock);
    if (status == abi::kSuccess) {
        all.suspects.clear();
        all.any_suspect = false;
        ++all.epoch;
    }
    if (!lost || all.reported || all.suspects.empty())
        return status;
    all.reported = true;
    report(all, status);
    return status;
}

} // namespace upm::cuda::hook
