// SPDX-License-Identifier: MIT
//
// What every command shares: its options, its exit status, how it prints.
#ifndef UPM_TOOLS_UPM_CLI_HPP
#define UPM_TOOLS_UPM_CLI_HPP

#include "tools/common/command_line.hpp"
#include "tools/common/root.hpp"

#include <string>
#include <vector>

namespace upm::tool::cli {

inline constexpr int kSuccess = 0;
inline constexpr int kFailure = 1; // some target, or some check, failed
inline constexpr int kUsage = 2;
// Of upm run, as with env(1) and sh(1).
inline constexpr int kNotExecutable = 126;
inline constexpr int kNotFound = 127;

// A command's arguments, its name first.
using Arguments = std::vector<std::string>;

int run_advise(const Arguments &arguments);
int run_unmerge(const Arguments &arguments);
int run_status(const Arguments &arguments);
int run_doctor(const Arguments &arguments);
int run_run(const Arguments &arguments);
int run_seed(const Arguments &arguments);
int run_cdi(const Arguments &arguments);

struct Command {
    const char *name;
    const char *summary;
    int (*run)(const Arguments &arguments);
};

// A command adds a row here, and gets its line of help by that.
inline constexpr Command kCommands[] = {
    {"run", "run a program that merges its memory when it is idle", run_run},
    {"advise", "merge the memory of running processes", run_advise},
    {"unmerge", "give merged memory private copies again", run_unmerge},
    {"status", "show the active backend, its settings and what it saves", run_status},
    {"doctor", "check what this machine lacks, and say the cure", run_doctor},
    {"seed", "keep what programs load, for the first container too", run_seed},
    {"cdi", "let container engines hand the hook to containers", run_cdi},
};

// The whole program. Prints errors to stderr and returns the exit status.
int run_command(const Arguments &arguments);

// Options that every command takes: --json, --help, and --root for tests.
void add_common_options(cxxopts::Options &options);

struct Common {
    Root root;
    bool json = false;
    bool help = false; // has been printed
};

// Throws UsageError for what cxxopts refuses, and for stray arguments.
cxxopts::ParseResult parse(cxxopts::Options &options, const Arguments &arguments, Common &common);

void print(const std::string &text);
// "upm advise: ..." on stderr.
void complain(const std::string &command, const std::string &text);

} // namespace upm::tool::cli

#endif // UPM_TOOLS_UPM_CLI_HPP
