// SPDX-License-Identifier: MIT
//
// Who asks for a cure, and where: what may be typed depends on it.
#ifndef UPM_TOOLS_UPM_READ_ASKER_HPP
#define UPM_TOOLS_UPM_READ_ASKER_HPP

#include "tools/common/root.hpp"

#include <string>
#include <string_view>

namespace upm::tool::cli {

struct Asker {
    bool root = false;
    bool container = false; // modules, units and devices are the host's
    bool systemd = false;   // runs here
    bool apt = false;       // apt-get is here
    bool packaged = false;  // this very program came in a Debian package
    bool sudo = false;      // is here
    std::string tree;       // of the sources, if the program was built there; else empty
    std::string folder;     // of this very program

    // A command that this user can type to have another one run by root.
    [[nodiscard]] std::string as_root(std::string_view command) const;
    // A program of this installation, so that a shell finds it.
    [[nodiscard]] std::string program(std::string_view name) const;
    // The command by which root has a broker for all users of this machine.
    [[nodiscard]] std::string broker_command() const;
};

Asker read_asker(const Root &root);

} // namespace upm::tool::cli

#endif // UPM_TOOLS_UPM_READ_ASKER_HPP
