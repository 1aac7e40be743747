// SPDX-License-Identifier: MIT
//
// Reads processes in a thread that may be left behind: a file of /proc does not answer
// while a process is stuck in the kernel with the lock of its memory held, and a read
// that waits for that cannot be interrupted.
#ifndef UPM_TOOLS_PSS_REPORT_READ_BOUNDED_READER_HPP
#define UPM_TOOLS_PSS_REPORT_READ_BOUNDED_READER_HPP

#include "tools/pss-report/read/process_reader.hpp"

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <vector>

namespace upm::tool::pss {

class BoundedReader {
  public:
    BoundedReader(Root root, CollectOptions options);

    // Calls `taken` for every process, in order, in this thread. One that is stuck is
    // unreadable with the error ETIMEDOUT.
    void read(const std::vector<int> &pids, const System &system, bool mappings,
              const std::function<void(Reading)> &taken);

    // A process is stuck when its files have given no answer for so long, in which the
    // thread that reads them did no work.
    static constexpr std::chrono::milliseconds kPatience{2000};

  private:
    class Worker;

    Root root_;
    CollectOptions options_;
    std::shared_ptr<Worker> idle_; // of the last look
    std::map<int, std::shared_ptr<Worker>> stuck_;
};

} // namespace upm::tool::pss

#endif // UPM_TOOLS_PSS_REPORT_READ_BOUNDED_READER_HPP
