// SPDX-License-Identifier: MIT
#ifndef UPM_TOOLS_UPM_READ_SURROUNDINGS_HPP
#define UPM_TOOLS_UPM_READ_SURROUNDINGS_HPP

#include "tools/common/root.hpp"
#include "tools/upm/model/outlook.hpp"

namespace upm::tool::cli {

// What of this process its programs will have as well.
Surroundings read_surroundings(const Root &root);

} // namespace upm::tool::cli

#endif // UPM_TOOLS_UPM_READ_SURROUNDINGS_HPP
