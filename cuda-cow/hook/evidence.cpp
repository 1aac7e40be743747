// SPDX-License-Identifier: MIT
#include "cuda-cow/hook/evidence.hpp"

#include <algorithm>
#include <cstdlib>
#include <cxxabi.h>
#include <memory>
#include <string_view>

namespace upm::cuda::hook {

namespace {

std::string_view trim(std::string_view text) {
    const std::size_t first = text.find_first_not_of(" \t\r\n");
    if (first == std::string_view::npos)
        return {};
    return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

// Parts between commas that are in no bracket.
std::vector<std::string_view> split(std::string_view list) {
    std::vector<std::string_view> parts;
    int depth = 0;
    std::size_t start = 0;
    for (std::size_t i = 0; i < list.size(); ++i) {
        const char c = list[i];
        depth += c == '(' || c == '<' || c == '[' || c == '{' ? 1 : 0;
        depth -= c == ')' || c == '>' || c == ']' || c == '}' ? 1 : 0;
        if (c == ',' && depth == 0) {
            parts.push_back(trim(list.substr(start, i - start)));
            start = i + 1;
        }
    }
    if (const std::string_view last = trim(list.substr(start)); !last.empty())
        parts.push_back(last);
    return parts;
}

bool is_scalar(std::string_view type) {
    static constexpr std::string_view kScalars[] = {
        "bool",   "char",          "signed char", "unsigned char",      "short",
        "int",    "unsigned int",  "long",        "unsigned short",     "float",
        "double", "unsigned long", "long long",   "unsigned long long", "__half",
    };
    return std::find(std::begin(kScalars), std::end(kScalars), type) != std::end(kScalars);
}

Use use_of_type(std::string_view type) {
    if (is_scalar(type))
        return Use::kRead;
    if (!type.ends_with('*'))
        return Use::kUnproven;
    std::string_view target = trim(type.substr(0, type.size() - 1));
    if (!target.ends_with(" const"))
        return Use::kUnproven;
    target = trim(target.substr(0, target.size() - std::string_view(" const").size()));
    return target.ends_with('*') ? Use::kUnproven : Use::kRead;
}

} // namespace

std::vector<Use> uses_from_name(const char *mangled) {
    int status = 0;
    const std::unique_ptr<char, void (*)(void *)> text(
        abi::__cxa_demangle(mangled, nullptr, nullptr, &status), std::free);
    if (status != 0 || text == nullptr)
        return {};
    std::string_view name = text.get();
    if (!name.ends_with(')'))
        return {};
    // The parameter list is the last bracket that closes at the end.
    int depth = 0;
    std::size_t open = name.size();
    while (open-- > 0) {
        depth += name[open] == ')' ? 1 : 0;
        depth -= name[open] == '(' ? 1 : 0;
        if (depth == 0)
            break;
    }
    std::vector<Use> uses;
    for (const std::string_view type : split(name.substr(open + 1, name.size() - open - 2)))
        if (type != "void")
            uses.push_back(use_of_type(type));
    return uses;
}

} // namespace upm::cuda::hook
