// SPDX-License-Identifier: MIT
//
// A process with one region, which does what it is told and says what it took.
#ifndef UPM_BENCH_PROCESS_HPP
#define UPM_BENCH_PROCESS_HPP

#include "bench/region.hpp"
#include "bench/timing.hpp"

#include <upm/upm.hpp>

#include <cstddef>
#include <cstdint>
#include <sys/types.h>

namespace upm::bench {

enum class Action : std::uint8_t {
    kConnect, // advises a page, so that the library is ready for more
    kAdvise,
    kUnmerge,
    kMarkForKsm, // madvise(MADV_MERGEABLE)
    kVerify,     // EIO if the content is not what it was
};

struct Reply {
    int error = 0; // errno
    Timing timing;
    Counts counts;
};

class Process {
  public:
    // Starts it, with a filled region. Throws Error.
    Process(std::size_t bytes, Pages pages, Order order);
    // Ends it.
    ~Process();
    Process(const Process &) = delete;
    Process &operator=(const Process &) = delete;

    // Throws Error if the process died or reports an error.
    Reply ask(Action action);

    // The same in steps: the process does it meanwhile; is it done?; its reply.
    void begin(Action action) const;
    [[nodiscard]] bool ready() const;
    [[nodiscard]] Reply finish() const;

  private:
    pid_t pid_ = -1;
    int channel_ = -1;
};

} // namespace upm::bench

#endif // UPM_BENCH_PROCESS_HPP
