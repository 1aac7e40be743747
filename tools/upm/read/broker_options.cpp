// SPDX-License-Identifier: MIT
#include "tools/upm/read/broker_options.hpp"

#include "tools/common/descriptor.hpp"
#include "tools/common/text.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

namespace upm::tool::cli {

namespace {

constexpr std::string_view kName = "UPMD_OPTIONS=";
constexpr std::string_view kBlanks = " \t\n";

std::vector<std::string> words_of(std::string_view text) {
    std::vector<std::string> words;
    for (std::string_view word; !(word = take_word(text, kBlanks)).empty();)
        words.emplace_back(word);
    return words;
}

// The value at the start of `text`, whose lines go on behind it; nothing: it has several parts.
std::optional<std::string_view> value_of(std::string_view text) {
    const std::string_view line = text.substr(0, text.find('\n'));
    if (!line.starts_with('"') && !line.starts_with('\''))
        return line;
    const std::size_t end = text.find(text.front(), 1);
    if (end == std::string_view::npos)
        return text.substr(1);
    const std::string_view rest = text.substr(end + 1);
    if (rest.substr(0, rest.find('\n')).find_first_not_of(kBlanks) != std::string_view::npos)
        return std::nullopt;
    return text.substr(1, end - 1);
}

// Until the other end is closed, or enough for a line.
std::string read_some(int fd) {
    std::string text;
    std::array<char, 1024> part{};
    constexpr std::size_t kMost = 4096;
    while (text.size() < kMost) {
        const ssize_t size = ::read(fd, part.data(), part.size());
        if (size < 0 && errno == EINTR)
            continue;
        if (size <= 0)
            break;
        text.append(part.data(), static_cast<std::size_t>(size));
    }
    return text;
}

} // namespace

std::optional<std::vector<std::string>> broker_options(std::string_view text) {
    std::optional<std::string_view> value = "";
    for_each_line(text, [&](std::string_view line) {
        line.remove_prefix(std::min(line.find_first_not_of(kBlanks), line.size()));
        if (line.starts_with(kName))
            value = value_of(
                text.substr(static_cast<std::size_t>(line.data() - text.data()) + kName.size()));
    });
    if (!value || value->find_first_of("\"'\\$`") != std::string_view::npos)
        return std::nullopt;
    return words_of(*value);
}

std::vector<std::string> with_option(const std::vector<std::string> &options, std::string_view name,
                                     std::string_view value) {
    const std::string option = "--" + std::string(name);
    std::vector<std::string> words;
    for (std::size_t i = 0; i < options.size(); ++i) {
        if (options[i] == option)
            ++i; // and its value
        else if (!options[i].starts_with(option + "="))
            words.push_back(options[i]);
    }
    words.push_back(option);
    words.emplace_back(value);
    return words;
}

std::string command_to_set_options(const std::string &file, std::string_view text,
                                   const std::vector<std::string> &options) {
    const std::string line = fmt::format("{}\"{}\"", kName, fmt::join(options, " "));
    if (text.empty()) // which has no last line for sed to add one to
        return fmt::format("echo '{}' >{}", line, file);
    return fmt::format("sed -i -e 's/^[[:blank:]]*{}/#&/' -e '$a {}' {}", kName, line, file);
}

std::string complaint_about(const std::string &upmd, const std::vector<std::string> &options) {
    std::vector<std::string> words = {upmd};
    words.insert(words.end(), options.begin(), options.end());
    words.emplace_back("--check");
    std::vector<char *> argv;
    argv.reserve(words.size() + 1);
    for (std::string &word : words)
        argv.push_back(word.data());
    argv.push_back(nullptr);
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0)
        return "";
    const Descriptor out(ends[0]);
    Descriptor in(ends[1]);
    posix_spawn_file_actions_t actions;
    (void)::posix_spawn_file_actions_init(&actions);
    (void)::posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    (void)::posix_spawn_file_actions_adddup2(&actions, in.get(), STDERR_FILENO);
    pid_t pid = -1;
    const int error = ::posix_spawn(&pid, upmd.c_str(), &actions, nullptr, argv.data(), ::environ);
    (void)::posix_spawn_file_actions_destroy(&actions);
    in = Descriptor();
    if (error != 0)
        return "";
    const std::string said = read_some(out.get());
    int status = 0;
    while (::waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (!WIFEXITED(status) || WEXITSTATUS(status) == 0)
        return "";
    return said.substr(0, said.find('\n'));
}

} // namespace upm::tool::cli
