// SPDX-License-Identifier: MIT
//
// Makes segments from a client's file, in threads: so that the memory is charged to the
// broker and not to the container that came first, and so that nobody waits for a client.
// The client compares every byte with what it reads itself, so nothing here is trusted.
#ifndef UPM_UPMD_MAKER_HPP
#define UPM_UPMD_MAKER_HPP

#include "tools/broker/crew.hpp"

#include <cstdint>
#include <sys/types.h>
#include <vector>

namespace upm::upmd {

struct MakeTask {
    std::uint64_t number = 0; // of the broker's job
    broker::Descriptor file;
    std::uint64_t offset = 0; // bytes, where page 0 begins
    std::uint32_t pages = 0;
    bool aligned = false;   // clients map page 0 where a huge page could begin
    std::uint64_t seed = 0; // of the hashes
};

struct Made {
    std::uint64_t number = 0;
    int error = 0; // 0 or -errno: ENODATA (the file is shorter), and those of read and memory
    broker::Descriptor fd;
    std::uint64_t inode = 0;
    std::vector<std::uint64_t> hashes; // of each page
};

// Does a task, where it may block.
Made make_segment(MakeTask &task);

using Maker = broker::Crew<MakeTask, Made>;

} // namespace upm::upmd

#endif // UPM_UPMD_MAKER_HPP
