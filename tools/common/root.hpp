// SPDX-License-Identifier: MIT
//
// Reading below a root folder, which is "/" but for tests.
#ifndef UPM_TOOLS_COMMON_ROOT_HPP
#define UPM_TOOLS_COMMON_ROOT_HPP

#include "tools/common/descriptor.hpp"
#include "tools/common/text.hpp"

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace upm::tool {

class Root {
  public:
    explicit Root(std::string prefix = "");

    // `absolute` starts with a slash, here and below.
    [[nodiscard]] std::string path(std::string_view absolute) const {
        return prefix_ + std::string(absolute);
    }
    // Returns true if this is the machine itself.
    [[nodiscard]] bool real() const { return prefix_.empty(); }
    [[nodiscard]] bool exists(std::string_view absolute) const;
    [[nodiscard]] bool is_directory(std::string_view absolute) const;

    // A descriptor to read from; empty, with errno set, when that fails.
    [[nodiscard]] Descriptor open(std::string_view absolute) const;
    // Calls `line` for each line, without its newline. Throws SystemError.
    void lines(std::string_view absolute, const std::function<void(std::string_view)> &line) const;
    // The first line of a file, without blanks around it; nothing when unreadable.
    [[nodiscard]] std::optional<std::string> first_line(std::string_view absolute) const;
    // The first line as a number; nothing if it is something else.
    template <typename Number = std::uint64_t>
    [[nodiscard]] std::optional<Number> number(std::string_view absolute) const {
        const std::optional<std::string> text = first_line(absolute);
        return text ? parse_integer<Number>(*text) : std::nullopt;
    }

    struct Entry {
        std::string name;
        bool directory = false;
        unsigned mode = 0; // permission bits
    };
    // The entries of a folder, sorted by name, without following links; an empty
    // list when it is not there. Throws SystemError for other failures.
    [[nodiscard]] std::vector<Entry> list(std::string_view absolute) const;
    // The names alone, sorted; empty as well when the folder may not be read.
    [[nodiscard]] std::vector<std::string> names(std::string_view absolute) const;

  private:
    std::string prefix_;
};

} // namespace upm::tool

#endif // UPM_TOOLS_COMMON_ROOT_HPP
