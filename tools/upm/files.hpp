// SPDX-License-Identifier: MIT
//
// Reading below a root folder, which is "/" but for tests.
#ifndef UPM_TOOLS_FILES_HPP
#define UPM_TOOLS_FILES_HPP

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace upm::tool {

class Root {
  public:
    explicit Root(std::string prefix = "") : prefix_(std::move(prefix)) {
        while (!prefix_.empty() && prefix_.back() == '/')
            prefix_.pop_back();
    }

    // `absolute` starts with a slash.
    [[nodiscard]] std::string path(std::string_view absolute) const {
        return prefix_ + std::string(absolute);
    }
    [[nodiscard]] bool exists(std::string_view absolute) const;
    [[nodiscard]] bool is_directory(std::string_view absolute) const;

    // Calls `line` for each line, without its newline. Throws SystemError.
    void lines(std::string_view absolute, const std::function<void(std::string_view)> &line) const;
    // The first line of a file, without blanks around it; empty when unreadable.
    [[nodiscard]] std::optional<std::string> first_line(std::string_view absolute) const;
    [[nodiscard]] std::optional<unsigned long long> number(std::string_view absolute) const;

    struct Entry {
        std::string name;
        bool directory = false;
        unsigned mode = 0; // permission bits
    };
    // The entries of a folder, sorted by name, without following links; an empty
    // list when it is not there. Throws SystemError for other failures.
    [[nodiscard]] std::vector<Entry> list(std::string_view absolute) const;

  private:
    std::string prefix_;
};

} // namespace upm::tool

#endif // UPM_TOOLS_FILES_HPP
