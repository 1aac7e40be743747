// SPDX-License-Identifier: MIT
//
// Which parts of a file of weights programs read into memory of their own, each from where a
// page begins: the tensors in files of torch, safetensors and npy, and any other file as a
// whole. What is read anew with another place in the page is another content.
#ifndef UPM_TOOLS_UPM_READ_WEIGHTS_HPP
#define UPM_TOOLS_UPM_READ_WEIGHTS_HPP

#include <cstdint>
#include <string>
#include <vector>

namespace upm::tool::cli {

// Of a file, in bytes.
struct Part {
    std::uint64_t offset = 0;
    std::uint64_t size = 0;
    friend bool operator==(const Part &, const Part &) = default;
};

struct Weights {
    const char *kind = "a file"; // "tensors of torch" and the like
    std::vector<Part> parts;
    std::uint64_t small = 0; // bytes in parts that no read shares
};

// Reads of fewer bytes do not share (docs/hook.md).
inline constexpr std::uint64_t kSmallestRead = 256UL << 10U;

// The parts of an open file of that size. What is broken in a file that seems to be of one of
// these kinds throws Failure, which names `path`.
Weights weights_of(int fd, std::uint64_t size, const std::string &path);

} // namespace upm::tool::cli

#endif // UPM_TOOLS_UPM_READ_WEIGHTS_HPP
