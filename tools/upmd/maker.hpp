// SPDX-License-Identifier: MIT
//
// Makes segments from a client's file, in threads: so that the memory is charged to the
// broker and not to the container that came first, and so that nobody waits for a client.
// The client compares every byte with what it reads itself, so nothing here is trusted.
#ifndef UPM_UPMD_MAKER_HPP
#define UPM_UPMD_MAKER_HPP

#include "libupm/store/sample.hpp"
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
    bool look = false;      // only take a sample
    bool keep = false;      // the file comes back with the result
};

struct Made {
    std::uint64_t number = 0;
    int error = 0; // 0 or -errno: ENODATA (the file is shorter), and those of read and memory
    broker::Descriptor fd;
    std::uint64_t inode = 0;
    std::vector<std::uint64_t> hashes; // of each page
    store::Sample sample;              // of a look
    broker::Descriptor file;           // of a task that keeps it; a thread is to close it
};

// Does a task, where it may block.
Made make_segment(MakeTask &task);

// The same in a thread of its own that runs when no other wants a processor.
Made make_in_background(MakeTask &task);

using Maker = broker::Crew<MakeTask, Made>;

} // namespace upm::upmd

#endif // UPM_UPMD_MAKER_HPP
