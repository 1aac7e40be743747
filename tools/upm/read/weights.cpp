// SPDX-License-Identifier: MIT
//
// The formats: APPNOTE.TXT 6.3.10 of PKWARE (zip, with its 64-bit fields), the README of
// github.com/huggingface/safetensors, and numpy's NEP 1.
#include "tools/upm/read/weights.hpp"

#include "tools/common/errors.hpp"
#include "tools/common/json.hpp"
#include "tools/common/text.hpp"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <fmt/format.h>
#include <optional>
#include <string_view>
#include <unistd.h>

namespace upm::tool::cli {

namespace {

class File {
  public:
    File(int fd, std::uint64_t size, const std::string &path) : fd_(fd), size_(size), path_(path) {}

    [[nodiscard]] std::uint64_t size() const { return size_; }
    [[nodiscard]] Failure broken(const std::string &why) const {
        Failure failure(fmt::format("{} is broken: {}", printable(path_), why));
        return failure;
    }
    // So many bytes from there on; all of them must lie in the file.
    [[nodiscard]] std::string read(std::uint64_t offset, std::uint64_t size) const {
        if (offset > size_ || size > size_ - offset)
            throw broken(fmt::format("it ends at {}, and says that {} bytes begin at {}", size_,
                                     size, offset));
        std::string text(size, '\0');
        for (std::uint64_t done = 0; done < size;) {
            const ssize_t got =
                ::pread(fd_, text.data() + done, size - done, static_cast<off_t>(offset + done));
            if (got < 0)
                throw SystemError("read", path_, errno);
            if (got == 0)
                throw broken("it became shorter meanwhile");
            done += static_cast<std::uint64_t>(got);
        }
        return text;
    }
    void add(Weights &weights, std::uint64_t offset, std::uint64_t size) const {
        if (offset > size_ || size > size_ - offset)
            throw broken(
                fmt::format("it ends at {}, and {} bytes are to begin at {}", size_, size, offset));
        if (size >= kSmallestRead)
            weights.parts.push_back({.offset = offset, .size = size});
        else
            weights.small += size;
    }

  private:
    int fd_;
    std::uint64_t size_;
    const std::string &path_;
};

// A number of the file, whose first byte is the lowest.
template <class Number>
Number number_at(std::string_view text, std::size_t at) {
    Number number = 0;
    for (std::size_t i = sizeof(Number); i-- > 0;)
        number = static_cast<Number>(number << 8U | static_cast<unsigned char>(text[at + i]));
    return number;
}

// Where the list of a zip's files is. Nothing: the file is no zip.
struct Directory {
    std::uint64_t offset = 0;
    std::uint64_t size = 0;
};
std::optional<Directory> directory_of(const File &file) {
    constexpr std::uint64_t kEnd = 22;     // bytes of the record at the end
    constexpr std::uint64_t kLocator = 20; // and of the one in front of it
    constexpr std::uint64_t kComment = 65'535;
    const std::uint64_t tail_size = std::min(file.size(), kEnd + kComment);
    const std::uint64_t tail_at = file.size() - tail_size;
    const std::string tail = file.read(tail_at, tail_size);
    const std::size_t end = tail.rfind("PK\5\6");
    if (end == std::string::npos || tail.size() - end < kEnd)
        return std::nullopt;
    Directory found{.offset = number_at<std::uint32_t>(tail, end + 16),
                    .size = number_at<std::uint32_t>(tail, end + 12)};
    if (end >= kLocator && tail.compare(end - kLocator, 4, "PK\6\7") == 0) {
        const std::string large = file.read(number_at<std::uint64_t>(tail, end - kLocator + 8), 56);
        if (!large.starts_with("PK\6\6"))
            throw file.broken("its zip directory is not where it says");
        found.size = number_at<std::uint64_t>(large, 40);
        found.offset = number_at<std::uint64_t>(large, 48);
    }
    return found;
}

struct Entry {
    std::string name;
    bool stored = false;
    std::uint64_t size = 0;
    std::uint64_t header = 0; // where it begins
    std::size_t next = 0;
};

// A 64-bit value stands in the extra field if the one at its old place is all ones.
Entry entry_at(const File &file, std::string_view list, std::size_t at) {
    constexpr std::size_t kFixed = 46;
    if (list.size() - at < kFixed || list.substr(at, 4) != "PK\1\2")
        throw file.broken("an entry of its zip directory is none");
    const std::size_t name = number_at<std::uint16_t>(list, at + 28);
    const std::size_t extra = number_at<std::uint16_t>(list, at + 30);
    const std::size_t comment = number_at<std::uint16_t>(list, at + 32);
    Entry entry;
    entry.next = at + kFixed + name + extra + comment;
    if (entry.next > list.size())
        throw file.broken("its zip directory ends within an entry");
    entry.name = list.substr(at + kFixed, name);
    entry.stored = number_at<std::uint16_t>(list, at + 10) == 0;
    entry.size = number_at<std::uint32_t>(list, at + 24);
    entry.header = number_at<std::uint32_t>(list, at + 42);
    constexpr std::uint32_t kElsewhere = 0xffff'ffff;
    std::uint64_t *const wide[] = {entry.size == kElsewhere ? &entry.size : nullptr,
                                   number_at<std::uint32_t>(list, at + 20) == kElsewhere
                                       ? &entry.size // of stored ones both sizes are one
                                       : nullptr,
                                   entry.header == kElsewhere ? &entry.header : nullptr};
    std::string_view fields = list.substr(at + kFixed + name, extra);
    while (fields.size() >= 4) {
        const auto kind = number_at<std::uint16_t>(fields, 0);
        const std::size_t size = number_at<std::uint16_t>(fields, 2);
        std::string_view field = fields.substr(4, size);
        fields.remove_prefix(std::min(fields.size(), 4 + size));
        if (kind != 1)
            continue;
        for (std::uint64_t *const value : wide) {
            if (value == nullptr)
                continue;
            if (field.size() < sizeof(*value))
                throw file.broken("a size in its zip directory is missing");
            *value = number_at<std::uint64_t>(field, 0);
            field.remove_prefix(sizeof(*value));
        }
    }
    return entry;
}

// torch.save() makes a zip with a file data.pkl and a file data/N for each storage, which
// torch.load() reads as a whole into memory of its own. False: it is none of torch.
bool add_torch(const File &file, Weights &weights) {
    constexpr std::uint64_t kMostDirectory = 256UL << 20U;
    const std::optional<Directory> directory = directory_of(file);
    if (!directory)
        return false;
    if (directory->size > kMostDirectory)
        throw file.broken("its zip directory is larger than 256 MiB");
    const std::string list = file.read(directory->offset, directory->size);
    std::vector<Entry> entries;
    bool torch = false;
    for (std::size_t at = 0; at < list.size(); at = entries.back().next) {
        entries.push_back(entry_at(file, list, at));
        torch = torch || entries.back().name.ends_with("/data.pkl");
    }
    for (const Entry &entry : entries) {
        if (!torch || entry.name.find("/data/") == std::string::npos)
            continue;
        if (!entry.stored) {
            weights.small += entry.size; // it is read in pieces
            continue;
        }
        const std::string header = file.read(entry.header, 30);
        if (!header.starts_with("PK\3\4"))
            throw file.broken(fmt::format("{} is not where it says", printable(entry.name)));
        file.add(weights,
                 entry.header + 30 + number_at<std::uint16_t>(header, 26) +
                     number_at<std::uint16_t>(header, 28),
                 entry.size);
    }
    return torch;
}

// Eight bytes with the size of a JSON text, the text, and the tensors.
bool add_safetensors(const File &file, Weights &weights) {
    constexpr std::uint64_t kMostHeader = 100'000'000; // as the format's own reader has it
    if (file.size() < 10)
        return false;
    const std::string start = file.read(0, 9);
    const auto size = number_at<std::uint64_t>(start, 0);
    if (start[8] != '{' || size < 2 || size > kMostHeader || size > file.size() - 8)
        return false;
    const Json header = Json::parse(file.read(8, size), nullptr, false);
    if (!header.is_object())
        return false;
    for (const auto &[name, tensor] : header.items()) {
        if (name == "__metadata__")
            continue;
        const Json offsets = tensor.is_object() ? tensor.value("data_offsets", Json()) : Json();
        if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
            !offsets[1].is_number_unsigned())
            return false;
        const auto begin = offsets[0].get<std::uint64_t>();
        const auto end = offsets[1].get<std::uint64_t>();
        if (end < begin || end > file.size())
            throw file.broken(fmt::format("tensor {} lies outside of it", printable(name)));
        file.add(weights, 8 + size + begin, end - begin);
    }
    return true;
}

bool add_npy(const File &file, Weights &weights) {
    constexpr std::string_view kMagic = "\x93NUMPY";
    if (file.size() < 12)
        return false;
    const std::string start = file.read(0, 12);
    if (!start.starts_with(kMagic))
        return false;
    const std::uint64_t header = start[6] == 1
                                     ? 10 + number_at<std::uint16_t>(start, 8)
                                     : 12 + std::uint64_t{number_at<std::uint32_t>(start, 8)};
    if (header > file.size())
        throw file.broken("its header is longer than the file");
    file.add(weights, header, file.size() - header);
    return true;
}

} // namespace

Weights weights_of(int fd, std::uint64_t size, const std::string &path) {
    const File file(fd, size, path);
    Weights weights;
    if (add_torch(file, weights))
        weights.kind = "tensors of torch";
    else if (add_safetensors(file, weights))
        weights.kind = "tensors of safetensors";
    else if (add_npy(file, weights))
        weights.kind = "an array of numpy";
    else
        file.add(weights, 0, size);
    return weights;
}

} // namespace upm::tool::cli
