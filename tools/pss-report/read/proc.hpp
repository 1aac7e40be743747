// SPDX-License-Identifier: MIT
//
// Files of /proc are read whole into one buffer that is used again: reading is most of a
// report's cost.
#ifndef UPM_TOOLS_PSS_REPORT_READ_PROC_HPP
#define UPM_TOOLS_PSS_REPORT_READ_PROC_HPP

#include "tools/common/root.hpp"
#include "tools/pss-report/model/snapshot.hpp"

#include <string>
#include <string_view>
#include <vector>

namespace upm::tool::pss {

class Proc {
  public:
    explicit Proc(Root root);

    [[nodiscard]] const Root &root() const { return root_; }

    // The whole file, valid until the next call; `error` is 0 or an errno.
    std::string_view read(std::string_view absolute, int &error);
    // /proc/PID/NAME, opened relative to /proc.
    std::string_view read_process(int pid, const char *name, int &error);
    [[nodiscard]] Descriptor open_process(int pid, const char *name) const;
    // Sorted. Throws Failure when /proc cannot be listed.
    [[nodiscard]] std::vector<int> pids() const;

  private:
    std::string_view drain(int fd, int &error);

    Root root_;
    Descriptor proc_;
    std::vector<char> buffer_;
};

// Names of files below /proc/PID: of a thread, and the one that shows the memory of a
// process.
std::string of_thread(int thread, const char *name);
std::string file_of(const Process &process, const char *name);

} // namespace upm::tool::pss

#endif // UPM_TOOLS_PSS_REPORT_READ_PROC_HPP
