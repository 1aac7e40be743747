// SPDX-License-Identifier: MIT
//
// Looks at what processes map of segments, by /proc/PID/maps. The kernel reads that
// under the lock of the process's memory, which a process can hold for as long as it
// likes. So looks are a crew's work (tools/broker/crew.hpp), and what all of them cost
// together is bounded.
#ifndef UPM_UPMD_WATCHER_HPP
#define UPM_UPMD_WATCHER_HPP

#include "tools/broker/crew.hpp"
#include "tools/upmd/usage.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <sys/types.h>
#include <utility>
#include <vector>

namespace upm::upmd {

// Adds what one chunk of /proc/PID/maps, of whole lines, says of segments.
void add_mappings(std::string_view lines, std::uint64_t page_size, Look &look);

// Reads a file of that kind. `most` bytes are looked at.
Look read_mappings(int fd, std::size_t most);

class Watcher {
  public:
    struct Result {
        std::uint64_t process = 0;
        std::uint64_t started = 0; // when the look began, in ms
        Look look;
    };

    // Throws std::system_error.
    Watcher();

    // Looks at a process, given its folder in /proc, soon. A result follows, unless the
    // kernel never gives one.
    void look(std::uint64_t process, uid_t uid, std::shared_ptr<const broker::Descriptor> folder) {
        crew_.add(uid, {.process = process, .folder = std::move(folder)});
    }

    // Can be read when there are results.
    [[nodiscard]] int event() const { return crew_.event(); }
    std::vector<Result> take_results() { return crew_.take_results(); }

  private:
    struct Task {
        std::uint64_t process;
        std::shared_ptr<const broker::Descriptor> folder;
    };
    static Result work(const Task &task);

    broker::Crew<Task, Result> crew_;
};

} // namespace upm::upmd

#endif // UPM_UPMD_WATCHER_HPP
