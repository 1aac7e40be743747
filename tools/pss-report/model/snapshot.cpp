// SPDX-License-Identifier: MIT
#include "tools/pss-report/model/snapshot.hpp"

namespace upm::tool::pss {

Usage &Usage::operator+=(const Usage &other) {
    for (const UsageField &field : kUsageFields)
        this->*field.member += other.*field.member;
    return *this;
}

const UsageField *find_usage_field(std::string_view name) {
    for (const UsageField &field : kUsageFields)
        if (name == field.name)
            return &field;
    return nullptr;
}

} // namespace upm::tool::pss
