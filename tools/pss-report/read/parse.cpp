// SPDX-License-Identifier: MIT
#include "tools/pss-report/read/parse.hpp"

#include "tools/common/text.hpp"

#include <algorithm>
#include <array>

namespace upm::tool::pss {

namespace {

struct FigureName {
    std::string_view name;
    std::uint64_t Figures::*member;
};

// The order is the kernel's, so that a search that goes on where the last one ended
// finds its line at once.
constexpr std::array<FigureName, 15> kFigures = {{
    {"Size", &Figures::size},
    {"Rss", &Figures::rss},
    {"Pss", &Figures::pss},
    {"Shared_Clean", &Figures::shared_clean},
    {"Shared_Dirty", &Figures::shared_dirty},
    {"Private_Clean", &Figures::private_clean},
    {"Private_Dirty", &Figures::private_dirty},
    {"Anonymous", &Figures::anonymous},
    {"KSM", &Figures::ksm},
    {"AnonHugePages", &Figures::anon_huge},
    {"Shared_Hugetlb", &Figures::shared_hugetlb},
    {"Private_Hugetlb", &Figures::private_hugetlb},
    {"Swap", &Figures::swap},
    {"SwapPss", &Figures::swap_pss},
    {"Locked", &Figures::locked},
}};

// "   123 kB" as bytes; 0 for anything else.
std::uint64_t kilobytes(std::string_view text) {
    std::size_t at = text.find_first_not_of(" \t");
    std::uint64_t value = 0;
    for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at) {
        if (value > UINT64_MAX / 16384)
            return 0;
        value = value * 10 + static_cast<std::uint64_t>(text[at] - '0');
    }
    return value << 10U;
}

// "Name:  value": the two halves; an empty name if there is no colon.
struct Pair {
    std::string_view name;
    std::string_view value;
};
Pair halves(std::string_view line) {
    const std::size_t colon = line.find(':');
    if (colon == std::string_view::npos)
        return {};
    return {line.substr(0, colon), line.substr(colon + 1)};
}

class FigureReader {
  public:
    // Whether the line was one of the figures.
    bool read(const Pair &line, Figures &figures) {
        for (std::size_t i = 0; i < kFigures.size(); ++i) {
            const std::size_t at = (next_ + i) % kFigures.size();
            if (kFigures[at].name != line.name)
                continue;
            figures.*kFigures[at].member = kilobytes(line.value);
            next_ = at + 1;
            return true;
        }
        return false;
    }

  private:
    std::size_t next_ = 0;
};

MappingFlags parse_flags(std::string_view text) {
    MappingFlags flags;
    const std::array<std::pair<std::string_view, bool *>, 9> known = {{
        {"mm", &flags.mixed},
        {"mg", &flags.mergeable},
        {"io", &flags.io},
        {"pf", &flags.pfn},
        {"ht", &flags.hugetlb},
        {"dd", &flags.dont_dump},
        {"wf", &flags.wipe},
        {"sh", &flags.shared},
        {"ms", &flags.may_share},
    }};
    for (std::string_view word = take_word(text); !word.empty(); word = take_word(text))
        for (const auto &[name, flag] : known)
            if (word == name)
                *flag = true;
    return flags;
}

bool is_hex_digit(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
}

// A mapping's first line starts with a hexadecimal number in lower case and a dash;
// every other line with a capital letter.
bool starts_mapping(std::string_view line) {
    return !line.empty() && is_hex_digit(line[0]);
}

std::string unescaped_name(std::string_view text) {
    std::string name;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '\\' && i + 1 < text.size() && (text[i + 1] == 'n' || text[i + 1] == '\\'))
            name += text[++i] == 'n' ? '\n' : '\\';
        else
            name += text[i];
    }
    return name;
}

std::vector<std::string_view> words_of(std::string_view text) {
    std::vector<std::string_view> words;
    while (!text.empty()) {
        text.remove_prefix(std::min(text.find_first_not_of(" \t"), text.size()));
        const std::size_t length = std::min(text.find_first_of(" \t"), text.size());
        if (length != 0)
            words.push_back(text.substr(0, length));
        text.remove_prefix(length);
    }
    return words;
}

} // namespace

std::vector<MeasuredMapping> parse_smaps(std::string_view text) {
    std::vector<MeasuredMapping> mappings;
    FigureReader reader;
    bool known = false; // the lines belong to mappings.back()
    for_each_line(text, [&](std::string_view line) {
        if (starts_mapping(line)) {
            auto mapping = parse_mapping(line);
            known = mapping.has_value();
            if (known)
                mappings.push_back({std::move(*mapping), {}, {}});
        } else if (known) {
            const Pair pair = halves(line);
            if (pair.name == "VmFlags")
                mappings.back().flags = parse_flags(pair.value);
            else
                (void)reader.read(pair, mappings.back().figures);
        }
    });
    return mappings;
}

Figures parse_rollup(std::string_view text) {
    Figures figures;
    FigureReader reader;
    for_each_line(text, [&](std::string_view line) { (void)reader.read(halves(line), figures); });
    return figures;
}

Status parse_status(std::string_view text) {
    Status status;
    for_each_line(text, [&](std::string_view line) {
        const auto [name, value] = halves(line);
        if (name == "Name") {
            // One tab, then the name, which may begin and end with blanks.
            status.name = unescaped_name(value.substr(value.starts_with('\t') ? 1 : 0));
        } else if (name == "State") {
            const std::string_view state = trimmed(value);
            status.state = state.empty() ? '?' : state[0];
        } else if (name == "PPid") {
            status.ppid = parse_integer<int>(trimmed(value)).value_or(0);
        } else if (name == "Uid") {
            const std::vector<std::string_view> ids = words_of(value);
            if (ids.size() >= 2)
                status.uid = parse_integer<std::uint32_t>(ids[1]).value_or(0);
        } else if (name == "Kthread") {
            status.kernel_thread = trimmed(value) == "1";
        } else if (name == "VmRSS") {
            status.has_memory = true;
            status.rss = kilobytes(value);
        } else if (name == "RssShmem") {
            status.rss_shmem = kilobytes(value);
        } else if (name == "VmSwap") {
            status.swap = kilobytes(value);
        }
    });
    return status;
}

KsmStat parse_ksm_stat(std::string_view text) {
    KsmStat stat;
    for_each_line(text, [&](std::string_view line) {
        const std::vector<std::string_view> words = words_of(line);
        if (words.size() != 2)
            return;
        const std::uint64_t value = parse_integer<std::uint64_t>(words[1]).value_or(0);
        if (words[0] == "ksm_merging_pages")
            stat.merging_pages = value;
        else if (words[0] == "ksm_zero_pages")
            stat.zero_pages = value;
    });
    return stat;
}

std::map<std::string, std::uint64_t> parse_meminfo(std::string_view text) {
    std::map<std::string, std::uint64_t> values;
    for_each_line(text, [&](std::string_view line) {
        const auto [name, value] = halves(line);
        if (!name.empty())
            values[std::string(name)] = kilobytes(value);
    });
    return values;
}

std::map<std::uint32_t, std::string> parse_passwd(std::string_view text) {
    std::map<std::uint32_t, std::string> users;
    for_each_line(text, [&](std::string_view line) {
        const std::vector<std::string> fields = split(line, ':');
        if (fields.size() < 3 || fields[0].empty())
            return;
        if (const auto uid = parse_integer<std::uint32_t>(fields[2]))
            users.emplace(*uid, fields[0]); // the first one of an id counts
    });
    return users;
}

} // namespace upm::tool::pss
