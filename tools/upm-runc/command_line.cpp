// SPDX-License-Identifier: MIT
#include "tools/upm-runc/command_line.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <string_view>

namespace upm::tool::runc {

namespace {

// Options whose value may be the next word. What is not listed has none: the next word is
// then taken for the command, which it is not, and nothing is done.
constexpr std::array<std::string_view, 13> kWithValue = {
    "log",         "log-format", "root", "criu",           "rootless", "cgroup-manager",
    "log-level",   "bundle",     "b",    "console-socket", "pid-file", "preserve-fds",
    "pidfd-socket"};

struct Option {
    std::string_view name; // without dashes; empty: the word is no option
    std::string_view value;
    bool has_value = false;
};

Option split_option(std::string_view word) {
    if (!word.starts_with('-') || word == "-" || word == "--")
        return {};
    word.remove_prefix(word.starts_with("--") ? 2 : 1);
    const std::size_t equals = word.find('=');
    if (equals == std::string_view::npos)
        return {.name = word, .value = {}, .has_value = false};
    return {.name = word.substr(0, equals), .value = word.substr(equals + 1), .has_value = true};
}

void take(const Option &option, CommandLine &line) {
    if (option.name == "bundle" || option.name == "b")
        line.bundle = option.value;
    else if (option.name == "log")
        line.log = option.value;
    else if (option.name == "log-format")
        line.json_log = option.value == "json";
    else if (option.name == "config" || option.name == "f") // crun's
        line.other_config = true;
    else if (option.name == "help" || option.name == "h")
        line.help = true;
}

} // namespace

CommandLine read_command_line(const std::vector<std::string> &words) {
    CommandLine line;
    for (std::size_t i = 0; i < words.size(); ++i) {
        Option option = split_option(words[i]);
        if (option.name.empty()) {
            if (words[i] != "--")
                (line.command.empty() ? line.command : line.id) = words[i];
            continue;
        }
        const bool wants = std::ranges::find(kWithValue, option.name) != kWithValue.end();
        if (wants && !option.has_value && i + 1 < words.size())
            option.value = words[++i];
        take(option, line);
    }
    return line;
}

} // namespace upm::tool::runc
