// SPDX-License-Identifier: MIT
//
// JSON with its keys in the order in which they were put in.
#ifndef UPM_TOOLS_COMMON_JSON_HPP
#define UPM_TOOLS_COMMON_JSON_HPP

#include <nlohmann/json.hpp>
#include <string>

namespace upm::tool {

using Json = nlohmann::ordered_json;

// The text of a document; `indent` -1: one line. Bytes that are not UTF-8 are replaced
// by U+FFFD.
inline std::string dump(const Json &json, int indent = 2) {
    return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

} // namespace upm::tool

#endif // UPM_TOOLS_COMMON_JSON_HPP
