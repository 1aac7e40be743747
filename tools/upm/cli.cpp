// SPDX-License-Identifier: MIT
#include "tools/upm/cli.hpp"

#include "libupm/base/env.hpp"
#include "tools/common/errors.hpp"
#include "tools/common/text.hpp"

#include <cerrno>
#include <cstdio>
#include <exception>
#include <fmt/format.h>
#include <string_view>
#include <upm/upm.hpp>

namespace upm::tool::cli {

namespace {

std::string overview() {
    std::string text = "User-guided page merging: share equal memory between processes.\n\n"
                       "Usage: upm COMMAND [OPTION...]\n\nCommands:\n";
    for (const Command &command : kCommands)
        text += fmt::format("  {:<9} {}\n", command.name, command.summary);
    text += "\nOptions:\n  --help     this text; upm COMMAND --help for a command's options\n"
            "  --version  the versions of the command and the library\n\nEnvironment:\n";
    for (const env::Variable *const variable : env::kAll)
        text += fmt::format("  {:<17} {}\n", variable->name, variable->meaning);
    return text;
}

int run_named(const Arguments &arguments) {
    const std::string &name = arguments.front();
    if (name == "--help" || name == "-h" || name == "help") {
        print(overview());
        return kSuccess;
    }
    if (name == "--version" || name == "-V") {
        start_no_service();
        print(fmt::format("upm {} (libupm {})\n", UPM_VERSION, upm::info().version));
        return kSuccess;
    }
    for (const Command &command : kCommands)
        if (name == command.name)
            return command.run(arguments);
    throw UsageError(fmt::format("there is no {} '{}'; try 'upm --help'",
                                 name.starts_with("-") ? "option" : "command", printable(name)));
}

} // namespace

int run_command(const Arguments &arguments) {
    const std::string prefix =
        arguments.empty() || arguments.front().starts_with("-") ? "" : printable(arguments.front());
    bool known = false;
    for (const Command &command : kCommands)
        known = known || prefix == command.name;
    const std::string speaker = known ? prefix : "";
    try {
        if (arguments.empty()) {
            (void)std::fputs(overview().c_str(), stderr);
            return kUsage;
        }
        const int status = run_named(arguments);
        if (std::fflush(stdout) != 0)
            throw SystemError("write", "standard output", errno);
        return status;
    } catch (const UsageError &error) {
        complain(speaker, error.what());
        return kUsage;
    } catch (const std::exception &error) {
        complain(speaker, error.what());
        return kFailure;
    }
}

void add_common_options(cxxopts::Options &options) {
    options.add_options()("json", "print one JSON document instead of text")(
        "root", "read /proc, /sys and /lib below this folder (for tests)",
        cxxopts::value<std::string>(), "DIR")("h,help", "this text");
}

cxxopts::ParseResult parse(cxxopts::Options &options, const Arguments &arguments, Common &common) {
    std::vector<const char *> argv;
    for (const std::string &argument : arguments)
        argv.push_back(argument.c_str());
    const CommandLine given(options, static_cast<int>(argv.size()), argv.data());
    common.json = given.has("json");
    common.help = given.has("help");
    if (common.help) {
        print(options.help());
    } else if (given.has("root")) {
        const std::string root = given.text("root");
        if (!Root(root).is_directory("/"))
            throw UsageError(fmt::format("--root: '{}' is no folder", printable(root)));
        common.root = Root(root);
    }
    return given.parsed();
}

void print(const std::string &text) {
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size())
        throw SystemError("write", "standard output", errno);
}

void complain(const std::string &command, const std::string &text) {
    fmt::print(stderr, "upm{}{}: {}\n", command.empty() ? "" : " ", command, text);
}

} // namespace upm::tool::cli
