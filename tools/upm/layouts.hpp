// SPDX-License-Identifier: MIT
//
// Which layout the programs have that run under the hook here, and how many places somebody
// has to try who knows nothing of a program and looks for its libraries. The memory maps
// say it: no program is asked.
#ifndef UPM_TOOLS_UPM_LAYOUTS_HPP
#define UPM_TOOLS_UPM_LAYOUTS_HPP

#include "tools/common/json.hpp"
#include "tools/common/maps.hpp"
#include "tools/common/root.hpp"
#include "tools/upm/doctor.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace upm::tool::cli {

enum class Layout : std::uint8_t {
    kStock, // the kernel's: random in each process
    kKeyed, // random for each key
    kFixed, // known to everybody
    kUnknown,
};

// Of the process with these mappings, in the order of /proc/PID/maps. A stack that begins at
// the very top was not placed at random; then the gap below it tells a key's layout. Of
// 2^22 programs of the stock layout, one has its stack there by chance.
Layout layout_of(const std::vector<Mapping> &mappings);

struct HookedProgram {
    int pid = 0;
    std::string command;
    Layout layout = Layout::kUnknown;
};

// The programs under the hook whose memory maps this user may read, by pid.
std::vector<HookedProgram> hooked_programs(const Root &root);

// The binary logarithm of the places at which the libraries of a program can be; the kernel's
// number is read, or its default is taken where only root may read it.
unsigned bits_to_guess(const Root &root, Layout layout);

// [{"pid", "command", "layout", "bits"}]; the text is empty if there is none.
Json programs_json(const Root &root);
std::string programs_text(const Json &programs);

Finding check_layouts(const Machine &machine);

} // namespace upm::tool::cli

#endif // UPM_TOOLS_UPM_LAYOUTS_HPP
