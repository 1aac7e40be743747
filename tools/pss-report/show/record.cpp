// SPDX-License-Identifier: MIT
#include "tools/pss-report/show/record.hpp"

#include "tools/common/files.hpp"
#include "tools/pss-report/show/output.hpp"

namespace upm::tool::pss {

void record(const std::string &path, const Snapshot &snapshot) {
    append_line(path, dump(to_json(make_report(snapshot, GroupBy::kProcess), snapshot), -1));
}

} // namespace upm::tool::pss
