// SPDX-License-Identifier: MIT
//
// The broker of upm-bench-store: it forgets content as soon as nobody uses it.
#ifndef UPM_BENCH_STORE_BROKER_HPP
#define UPM_BENCH_STORE_BROKER_HPP

#include <cstdint>
#include <string>
#include <sys/types.h>

namespace upm::bench {

class StoreBroker {
  public:
    // Starts it, and has this process and its children use it. Throws Error.
    StoreBroker();
    ~StoreBroker();
    StoreBroker(const StoreBroker &) = delete;
    StoreBroker &operator=(const StoreBroker &) = delete;

    // Processor time that it has used.
    [[nodiscard]] std::uint64_t cpu_ns() const;

  private:
    std::string folder_;
    pid_t pid_ = -1;
};

// Until it has no content left. Throws Error if that does not come.
void wait_until_empty();

} // namespace upm::bench

#endif // UPM_BENCH_STORE_BROKER_HPP
