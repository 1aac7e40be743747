// SPDX-License-Identifier: MIT
//
// What a program is to the dynamic linker: decides whether the hook gets into it.
#ifndef UPM_TOOLS_UPM_READ_PROGRAM_HPP
#define UPM_TOOLS_UPM_READ_PROGRAM_HPP

#include <cstdint>
#include <string>

namespace upm::tool::cli {

enum class Loader : std::uint8_t {
    kGlibc,   // the hook works
    kMusl,    // the hook is loaded and stays out
    kOther,   // another dynamic linker: who knows
    kStatic,  // no dynamic linker, no hook
    kForeign, // of another machine or word size
    kRaised,  // setuid, setgid or file capabilities: ld.so ignores the hook
    kUnknown, // not found, not readable, or no ELF file
};

struct Program {
    Loader loader = Loader::kUnknown;
    std::string path;    // the ELF file that will run: of a script its interpreter
    bool by_env = false; // a script that starts it by env(1), which runs before it
};

// The file that execvp(3) would run for `command`; empty: there is none.
std::string find_program(const std::string &command);

// The program that execvp(3) would run for `command`. Reads PT_INTERP.
Program look_at_program(const std::string &command);

// One line that says why the hook will do nothing in this program; empty: it works, or
// nothing is known.
std::string why_no_hook(const Program &program);

// Returns true if the program was built with a sanitizer: those need addresses that lie
// where the kernel usually puts them. Reads the names that it asks libraries for.
bool has_sanitizer(const Program &program);

} // namespace upm::tool::cli

#endif // UPM_TOOLS_UPM_READ_PROGRAM_HPP
