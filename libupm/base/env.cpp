// SPDX-License-Identifier: MIT
#include "libupm/base/env.hpp"

#include <cstdlib>

namespace upm::env {

namespace {

int hex_digit(char c) noexcept {
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

} // namespace

std::string_view text(const Variable &variable) noexcept {
    const char *value = ::secure_getenv(variable.name);
    return value != nullptr ? value : variable.fallback;
}

bool flag(const Variable &variable) noexcept {
    const std::string_view value = text(variable);
    return !value.empty() && value != "0";
}

bool parse_key(std::string_view digits, std::uint8_t (&key)[16]) noexcept {
    if (digits.size() != 2 * sizeof(key))
        return false;
    for (std::size_t i = 0; i < sizeof(key); ++i) {
        const int high = hex_digit(digits[2 * i]);
        const int low = hex_digit(digits[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        key[i] = static_cast<std::uint8_t>(high * 16 + low);
    }
    return true;
}

} // namespace upm::env
