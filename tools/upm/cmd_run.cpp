// SPDX-License-Identifier: MIT
//
// upm run: starts an unmodified program with the hook preloaded. The program takes
// the place of this process: same pid, same exit status, nothing in between.
#include "libupm/base/env.hpp"
#include "tools/common/errors.hpp"
#include "tools/common/sizes.hpp"
#include "tools/common/text.hpp"
#include "tools/upm/cli.hpp"
#include "tools/upm/keyed_layout.hpp"
#include "tools/upm/launch.hpp"
#include "tools/upm/read/installed.hpp"
#include "tools/upm/read/program.hpp"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fmt/format.h>
#include <string_view>
#include <unistd.h>

namespace upm::tool::cli {

namespace {

void check_choice(const char *name, const std::string &value,
                  const std::vector<std::string> &choices) {
    std::string all;
    for (const std::string &choice : choices) {
        if (value == choice)
            return;
        all += all.empty() ? choice : ", " + choice;
    }
    throw UsageError(fmt::format("--{}: '{}' is not one of {}", name, printable(value), all));
}

// What the hook will go by.
std::string scope_of(const cxxopts::ParseResult &options, const std::string &layout) {
    if (options.count("scope") != 0)
        return options["scope"].as<std::string>();
    const std::string_view wished = env::raw(env::scope);
    if (wished.empty() && layout != "stock")
        return "all";
    return env::scope.words[static_cast<std::size_t>(env::get(env::scope))];
}

void pass_on(const cxxopts::ParseResult &options) {
    if (options.count("scope") != 0) {
        check_choice("scope", options["scope"].as<std::string>(), {"loads", "blocks", "all"});
        set_environment("UPM_SCOPE", options["scope"].as<std::string>());
    }
    if (options.count("trigger") != 0) {
        check_choice("trigger", options["trigger"].as<std::string>(), {"idle", "manual", "signal"});
        set_environment("UPM_TRIGGER", options["trigger"].as<std::string>());
    }
    if (options.count("min-bytes") != 0)
        set_environment("UPM_MIN_BYTES",
                        std::to_string(bytes_of_option("min-bytes",
                                                       options["min-bytes"].as<std::string>(), 1)));
    if (options.count("idle-ms") != 0)
        set_environment("UPM_IDLE_MS", std::to_string(number_of_option(
                                           "idle-ms", options["idle-ms"].as<std::string>(), 1)));
    if (options.count("profile") != 0)
        set_environment("UPM_PROFILE", "1");
}

void choose_layout(const std::string &layout, const std::string &command) {
    if (layout == "stock")
        return;
    try {
        if (layout == "fixed") {
            choose_fixed_layout();
            complain("run", "fixed layout: attacks on the program are easier now, since all of its "
                            "addresses are known; --layout keyed keeps them secret");
        } else {
            const Program program = look_at_program(command);
            if (program.path.empty())
                return; // there is none, as execvp(3) will say
            if (const std::string why = why_stock_layout(program); !why.empty())
                throw Failure(why);
            choose_keyed_layout(places_of(layout_key()), own_personality());
        }
    } catch (const Failure &failure) {
        complain("run", fmt::format("stock layout in place of {}: {}", layout, failure.what()));
        return;
    }
    // What pointers are in lies outside of large blocks, too.
    if (std::getenv("UPM_SCOPE") == nullptr)
        set_environment("UPM_SCOPE", "all");
}

std::string layout_of(const cxxopts::ParseResult &options) {
    if (options.count("layout") == 0)
        return options.count("deterministic") != 0 ? "fixed" : "stock";
    std::string layout = options["layout"].as<std::string>();
    check_choice("layout", layout, {"stock", "keyed", "fixed"});
    if (options.count("deterministic") != 0 && layout != "fixed")
        throw UsageError(fmt::format("--deterministic is --layout fixed, not {}", layout));
    return layout;
}

cxxopts::Options make_options() {
    cxxopts::Options options(
        "upm run", "Runs a program with the hook preloaded: what it reads from files into large\n"
                   "blocks of memory is shared with others (backend store), or its large blocks\n"
                   "are merged with those of others when it falls idle.");
    options.custom_help("[OPTION...] -- COMMAND...");
    options.add_options()("layout",
                          "addresses: stock (the kernel's), keyed (random, but the same for all "
                          "who hold the key: merges far more), or fixed (the same everywhere: "
                          "makes attacks easier)",
                          cxxopts::value<std::string>(), "HOW")(
        "deterministic", "the same as --layout fixed: every address is known to everybody")(
        "profile", "tell at exit which allocations were merged (needs libunwind8)")(
        "trigger", "when to merge: idle, manual or signal", cxxopts::value<std::string>(), "WHEN")(
        "min-bytes", "leave smaller blocks alone (4096, 64K, 2M)", cxxopts::value<std::string>(),
        "N")("idle-ms", "idle is that long without work", cxxopts::value<std::string>(), "N")(
        "scope", "what to share: loads (what is read), idle blocks, or all private memory",
        cxxopts::value<std::string>(), "WHAT")("h,help", "this text");
    return options;
}

} // namespace

int run_run(const Arguments &arguments) {
    // What follows the first word that is no option of ours is the program's.
    auto command = arguments.begin() + 1;
    while (command != arguments.end() && command->starts_with("-") && *command != "--") {
        const bool takes_value = *command == "--trigger" || *command == "--min-bytes" ||
                                 *command == "--idle-ms" || *command == "--scope" ||
                                 *command == "--layout";
        command += takes_value && command + 1 != arguments.end() ? 2 : 1;
    }
    const Arguments own(arguments.begin(), command);
    if (command != arguments.end() && *command == "--")
        ++command;
    cxxopts::Options options = make_options();
    Common common;
    const cxxopts::ParseResult chosen = parse(options, own, common);
    if (common.help)
        return kSuccess;
    if (command == arguments.end())
        throw UsageError("say what to run: upm run -- COMMAND...");

    const std::string layout = layout_of(chosen);
    say_what_merges("run", *command, scope_of(chosen, layout));
    preload(find_hook(), *command);
    pass_on(chosen);
    choose_layout(layout, *command); // last: what is done from here on has its limits
    return become("run", Arguments(command, arguments.end()));
}

} // namespace upm::tool::cli
