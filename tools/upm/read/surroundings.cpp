// SPDX-License-Identifier: MIT
#include "tools/upm/read/surroundings.hpp"

#include "tools/common/errors.hpp"

namespace upm::tool::cli {

Surroundings read_surroundings(const Root &root) {
    Surroundings here;
    try {
        root.lines("/proc/self/status", [&](std::string_view line) {
            constexpr std::string_view kKey = "Seccomp:";
            if (line.starts_with(kKey))
                here.filtered = trimmed(line.substr(kKey.size())) == "2";
        });
    } catch (const SystemError &) {
        return here; // no /proc: nothing is known
    }
    // The map of a namespace that knows every user.
    std::string map = root.first_line("/proc/self/uid_map").value_or("");
    std::string_view rest = map;
    here.in_initial =
        take_word(rest) == "0" && take_word(rest) == "0" && take_word(rest) == "4294967295";
    return here;
}

} // namespace upm::tool::cli
