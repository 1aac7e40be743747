// SPDX-License-Identifier: MIT
//
// What the broker tells its operator, a line at a time: the journal of systemd, or a terminal.
#ifndef UPM_UPMD_LOG_HPP
#define UPM_UPMD_LOG_HPP

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <sys/types.h>
#include <utility>

namespace upm::upmd {

class Log {
  public:
    // Writes to this descriptor, which stays the caller's; -1: to nobody.
    explicit Log(int descriptor) : descriptor_(descriptor) {}

    // One line. It is lost if whoever reads it is so late that writing would block.
    void say(std::string_view text) const;

    // A request of a user was refused. A program may ask as often as it likes: the first
    // refusal is told, and then one in ten minutes with the number of those since. `why` is of
    // a few texts, each with storage of its own. `now` is in ms.
    void refused(uid_t uid, std::string_view why, std::uint64_t now);

  private:
    struct Told {
        std::uint64_t at = 0;    // ms
        std::uint64_t since = 0; // refusals that were not told
    };

    int descriptor_;
    std::map<std::pair<uid_t, std::string_view>, Told> told_;
};

} // namespace upm::upmd

#endif // UPM_UPMD_LOG_HPP
