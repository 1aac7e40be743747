// SPDX-License-Identifier: MIT
#include "tools/upm/seed_files.hpp"

#include "libupm/base/sharable_file.hpp"
#include "tools/common/errors.hpp"
#include "tools/common/sizes.hpp"
#include "tools/common/text.hpp"
#include "tools/upm/cli.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <span>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <upm/upm.hpp>

namespace upm::tool::cli {

namespace {

// The hook's large blocks begin at multiples of it, and windows of loads end there.
constexpr std::uint64_t kHuge = 2UL << 20U;
// What is loaded at one time, and so the most that this process has for itself.
constexpr std::uint64_t kStep = 64UL << 20U;

std::uint64_t size_for_loads(int fd, const std::string &path) {
    struct stat status {};
    if (::fstat(fd, &status) != 0)
        throw SystemError("look at", path, errno);
    if (!S_ISREG(status.st_mode))
        throw Failure(fmt::format("cannot seed {}: it is no regular file", printable(path)));
    const std::uint64_t size = sharable_size(fd);
    if (size == 0 && status.st_size != 0)
        throw Failure(fmt::format("cannot seed {}: files of its file system are read plainly, and "
                                  "share nothing (upm_load(3))",
                                  printable(path)));
    if (size < kSmallestRead)
        throw Failure(fmt::format("cannot seed {}: it has {}, and reads of less than {} do not "
                                  "share",
                                  printable(path), human_bytes(size), human_bytes(kSmallestRead)));
    return size;
}

SeedFile open_seed_file(const std::string &path, const FileOptions &how) {
    SeedFile file;
    file.path = path;
    // Not to wait for whoever writes to a pipe of that name.
    file.file = Descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    if (!file.file)
        throw SystemError("open", path, errno);
    const std::uint64_t size = size_for_loads(file.file.get(), path);
    if (how.whole || how.at != 0) {
        file.weights.parts = {{.offset = 0, .size = size}};
        file.at = how.at;
    } else {
        file.weights = weights_of(file.file.get(), size, path);
    }
    if (file.weights.parts.empty())
        throw Failure(fmt::format("cannot seed {}: {}, none of {} or more that is stored as it is",
                                  printable(path), file.weights.kind, human_bytes(kSmallestRead)));
    return file;
}

// Memory as the hook's blocks are.
class Block {
  public:
    explicit Block(std::uint64_t size) : size_((size + kHuge - 1) & ~(kHuge - 1)) {
        void *const all = ::mmap(nullptr, size_ + kHuge, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (all == MAP_FAILED)
            throw SystemError("get", "memory", errno);
        all_ = static_cast<std::byte *>(all);
        data_ = all_ + (kHuge - reinterpret_cast<std::uintptr_t>(all_) % kHuge) % kHuge;
    }
    Block(const Block &) = delete;
    Block &operator=(const Block &) = delete;
    ~Block() { (void)::munmap(all_, size_ + kHuge); }

    [[nodiscard]] std::byte *data() const { return data_; }
    // Nothing was ever there, once more.
    void clear() const {
        if (::mmap(data_, size_, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
            throw SystemError("get", "memory", errno);
    }

  private:
    std::uint64_t size_;
    std::byte *all_ = nullptr;
    std::byte *data_ = nullptr;
};

// What the seed had no room for, in bytes.
std::uint64_t missed_by(std::uint64_t seed) {
    std::array<SeedState, 256> seeds{};
    const Result<SeedList> found = list_seeds(seeds);
    for (std::size_t i = 0; found && i < found->count; ++i)
        if (seeds[i].number == seed)
            return seeds[i].missed;
    return 0;
}

enum class Outcome : std::uint8_t { kLoaded, kFull, kFailed };

// Loads one step, again while the broker was late. What lies outside of whole pages, and a
// rest that is not worth a mapping of its own, is copied by every load.
Outcome load_step(const SeedFile &file, const Block &block, const Part &step, std::uint64_t at,
                  std::uint64_t seed) {
    constexpr int kTries = 5;
    constexpr std::uint64_t kEdges = 192UL << 10U;
    for (int tries = 0; tries < kTries; ++tries) {
        block.clear();
        const Result<Loaded> loaded =
            load(file.file.get(), step.offset, std::span(block.data() + at, step.size),
                 {.ordinary = true, .patient = true});
        if (!loaded || loaded->bytes < step.size) {
            complain("seed", fmt::format("cannot read {} at {}: {}", printable(file.path),
                                         step.offset + loaded->bytes,
                                         loaded ? "it became shorter meanwhile"
                                                : std::strerror(loaded.error())));
            return Outcome::kFailed;
        }
        if (missed_by(seed) != 0)
            return Outcome::kFull;
        if (loaded->copied <= kEdges)
            return Outcome::kLoaded;
    }
    complain("seed", fmt::format("{} at {}: the broker made nothing of it: it is too busy, out of "
                                 "memory, or this user's quota is used up (upm status)",
                                 printable(file.path), step.offset));
    return Outcome::kFailed;
}

Outcome load_part(const SeedFile &file, const Block &block, const Part &part, std::uint64_t seed) {
    Outcome outcome = Outcome::kLoaded;
    for (std::uint64_t done = 0; done < part.size && outcome == Outcome::kLoaded;) {
        const std::uint64_t at = done == 0 ? file.at : 0;
        const std::uint64_t size = std::min(part.size - done, kStep - at);
        outcome = load_step(file, block, {.offset = part.offset + done, .size = size}, at, seed);
        done += size;
    }
    return outcome;
}

} // namespace

std::vector<SeedFile> open_seed_files(const std::vector<std::string> &paths,
                                      const FileOptions &how) {
    std::vector<SeedFile> files;
    files.reserve(paths.size());
    for (const std::string &path : paths)
        files.push_back(open_seed_file(path, how));
    return files;
}

int load_seed_files(const std::vector<SeedFile> &files, std::uint64_t seed) {
    const Block block(kStep);
    int status = kSuccess;
    for (const SeedFile &file : files) {
        for (const Part &part : file.weights.parts) {
            const Outcome outcome = load_part(file, block, part, seed);
            if (outcome == Outcome::kFull)
                return kFailure; // finish() says so
            if (outcome == Outcome::kFailed)
                status = kFailure;
        }
    }
    return status;
}

} // namespace upm::tool::cli
