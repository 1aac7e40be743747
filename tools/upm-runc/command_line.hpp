// SPDX-License-Identifier: MIT
//
// The command line of an OCI runtime, as far as upm-runc has to know it: runc's, which
// crun and youki share.
#ifndef UPM_TOOLS_UPM_RUNC_COMMAND_LINE_HPP
#define UPM_TOOLS_UPM_RUNC_COMMAND_LINE_HPP

#include <string>
#include <vector>

namespace upm::tool::runc {

struct CommandLine {
    std::string command;       // "create"; empty: nothing was understood
    std::string bundle = ".";  // folder of the container's config.json
    std::string id;            // the container's
    std::string log;           // where the engine reads the runtime's errors; empty: nowhere
    bool json_log = false;     // in lines of JSON
    bool other_config = false; // its configuration is not the bundle's config.json
    bool help = false;         // the runtime only says what the command does
    [[nodiscard]] bool makes_container() const {
        return !help && (command == "create" || command == "run");
    }
};

// `words` without the program's name.
CommandLine read_command_line(const std::vector<std::string> &words);

} // namespace upm::tool::runc

#endif // UPM_TOOLS_UPM_RUNC_COMMAND_LINE_HPP
