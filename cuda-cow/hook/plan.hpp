// SPDX-License-Identifier: MIT
//
// What is known of each kernel's parameters, found out once for each function and kept
// where launches find it without a lock.
#ifndef UPM_CUDA_HOOK_PLAN_HPP
#define UPM_CUDA_HOOK_PLAN_HPP

#include "cuda-cow/core/registry.hpp"
#include "cuda-cow/hook/evidence.hpp"
#include "cuda-cow/hook/guard.hpp"

#include <atomic>
#include <deque>
#include <set>

namespace upm::cuda::hook {

struct Parameter {
    std::size_t offset = 0; // in the device's layout, for launches with `extra`
    std::size_t size = 8;
    std::atomic<Use> use{Use::kUnproven};
    std::atomic<std::uint64_t> noted{0}; // as a suspect, in this epoch
};

// Eight bytes of a parameter, which may be a pointer: what a launch looks at.
struct Word {
    std::size_t parameter = 0;
    std::size_t at = 0;     // in the parameter
    std::size_t packed = 0; // in the block of a launch with `extra`
};

struct Plan : std::enable_shared_from_this<Plan> {
    std::string name;
    std::deque<Parameter> parameters;
    std::vector<Word> words;
    std::atomic<unsigned> lessons{0};   // launches to learn from that are left
    std::set<std::size_t> seen_written; // by them; under the lock of the lessons
};

// A pointer into a buffer among the parameters.
struct Hit {
    std::size_t parameter = 0;
    abi::DevicePtr address = 0;
    std::shared_ptr<BufferImpl> buffer;
};

// What a launch does to buffers.
struct Hits {
    std::uint64_t devices = 0; // of all buffers, by gate_index()
    std::vector<Hit> written;
    std::vector<Hit> to_learn; // unproven, and lessons are left
};

// A tracked argument of a launch, for the message when the context is lost.
struct Suspect {
    std::string function;
    std::size_t parameter = 0;
    abi::DevicePtr address = 0;
};
using Suspects = std::vector<Suspect>;
inline constexpr std::size_t kMaxSuspects = 16;

// Good until this thread asks again. `hold` keeps it where the thread cannot.
Plan &plan_of(const Inspector &inspector, abi::Function function, std::shared_ptr<Plan> &hold);

// Looks the parameters through, as given to cuLaunchKernel; structures are searched.
// What is only read is remembered as a suspect, or, for a launch that happens later (a
// graph's), put into `later`.
Hits find_hits(Plan &plan, void **parameters, void **extra, Suspects *later = nullptr);

// Cheap for what is remembered already.
void remember(const std::shared_ptr<const Suspects> &suspects);

// Called with the lessons' lock held: one at a time learns.
std::mutex &lessons_lock();

} // namespace upm::cuda::hook

#endif // UPM_CUDA_HOOK_PLAN_HPP
