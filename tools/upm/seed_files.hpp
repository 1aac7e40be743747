// SPDX-License-Identifier: MIT
//
// Loads files of weights as programs will, so that a seed keeps what these will look for.
#ifndef UPM_TOOLS_UPM_SEED_FILES_HPP
#define UPM_TOOLS_UPM_SEED_FILES_HPP

#include "tools/common/descriptor.hpp"
#include "tools/upm/read/weights.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace upm::tool::cli {

struct FileOptions {
    bool whole = false;   // take no notice of what is in it
    std::uint64_t at = 0; // where in a page a whole file comes to begin: bytes
};

struct SeedFile {
    std::string path;
    Descriptor file;
    Weights weights;
    std::uint64_t at = 0;
};

// Opens all of them, and finds their parts. Throws Failure for one of which programs would
// share nothing.
std::vector<SeedFile> open_seed_files(const std::vector<std::string> &paths,
                                      const FileOptions &how);

// Loads them; a seed that is full ends it. Returns the exit status, having said what failed.
int load_seed_files(const std::vector<SeedFile> &files, std::uint64_t seed);

} // namespace upm::tool::cli

#endif // UPM_TOOLS_UPM_SEED_FILES_HPP
