// SPDX-License-Identifier: MIT
#include "tools/upm/layouts.hpp"

#include "tools/common/errors.hpp"
#include "tools/common/key.hpp"
#include "tools/common/table.hpp"
#include "tools/common/text.hpp"
#include "tools/upm/keyed_layout.hpp"
#include "tools/upm/read/mappings.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <fmt/format.h>
#include <optional>
#include <string_view>

namespace upm::tool::cli {

namespace {

constexpr std::array<const char *, 4> kNames = {"stock", "keyed", "fixed", "unknown"};

// Where the stack begins without randomisation (STACK_TOP of the kernel), and the bits that
// its default gives to mappings (CONFIG_ARCH_MMAP_RND_BITS).
#if defined(__x86_64__)
constexpr std::uint64_t kStackTop = (std::uint64_t{1} << 47U) - kLayoutPage;
constexpr unsigned kDefaultBits = 28;
#elif defined(__aarch64__)
constexpr std::uint64_t kStackTop = std::uint64_t{1} << 48U;
constexpr unsigned kDefaultBits = 18;
#else
constexpr std::uint64_t kStackTop = 0; // not known
constexpr unsigned kDefaultBits = 0;
#endif

const char *name_of(Layout layout) {
    return kNames.at(static_cast<std::size_t>(layout));
}

bool has_hook(const std::vector<Mapping> &mappings) {
    return std::ranges::any_of(mappings, [](const Mapping &mapping) {
        // The kernel says so behind the name of a file that was replaced.
        constexpr std::string_view kDeleted = " (deleted)";
        std::string_view path = mapping.name;
        if (path.ends_with(kDeleted))
            path.remove_suffix(kDeleted.size());
        return mapping.file() && is_hook(path);
    });
}

// Nothing: the process is gone, is no process, or is not this user's.
std::optional<HookedProgram> look_at(const Root &root, const std::string &name) {
    const auto pid = parse_integer<int>(name);
    if (!pid)
        return std::nullopt;
    try {
        const std::vector<Mapping> mappings = read_mappings(root, *pid);
        if (!has_hook(mappings))
            return std::nullopt;
        return HookedProgram{
            .pid = *pid, .command = command_name(root, *pid), .layout = layout_of(mappings)};
    } catch (const SystemError &) {
        return std::nullopt;
    }
}

} // namespace

Layout layout_of(const std::vector<Mapping> &mappings) {
    const auto stack =
        std::ranges::find_if(mappings, [](const Mapping &one) { return one.name == "[stack]"; });
    if (stack == mappings.end() || kStackTop == 0)
        return Layout::kUnknown;
    if (stack->end != kStackTop)
        return Layout::kStock;
    // The first thing that was mapped, and so the highest, is the program's dynamic linker.
    std::uint64_t top = 0;
    for (const Mapping &one : mappings)
        if (one.file() && one.end < stack->start)
            top = std::max(top, one.end);
    const std::uint64_t gap = kStackTop - top;
    return gap >= kLeastGap && gap <= kLeastGap + (kLayoutPage << kMapBits) ? Layout::kKeyed
                                                                            : Layout::kFixed;
}

std::vector<HookedProgram> hooked_programs(const Root &root) {
    std::vector<HookedProgram> programs;
    for (const std::string &name : root.names("/proc"))
        if (auto program = look_at(root, name))
            programs.push_back(std::move(*program));
    std::ranges::sort(programs, {}, &HookedProgram::pid);
    return programs;
}

unsigned bits_to_guess(const Root &root, Layout layout) {
    if (layout == Layout::kKeyed)
        return kMapBits;
    if (layout == Layout::kFixed || root.number("/proc/sys/kernel/randomize_va_space") == 0U)
        return 0;
    return root.number<unsigned>("/proc/sys/vm/mmap_rnd_bits").value_or(kDefaultBits);
}

Json programs_json(const Root &root) {
    Json programs = Json::array();
    for (const HookedProgram &program : hooked_programs(root)) {
        const bool known = program.layout != Layout::kUnknown;
        programs.push_back({{"pid", program.pid},
                            {"command", utf8(program.command)},
                            {"layout", name_of(program.layout)},
                            {"bits", known ? Json(bits_to_guess(root, program.layout)) : Json()}});
    }
    return programs;
}

std::string programs_text(const Json &programs) {
    constexpr std::size_t kMost = 20;
    if (programs.empty())
        return "";
    Table rows({{"PID"},
                {"PROGRAM", Table::Align::kLeft},
                {"LAYOUT", Table::Align::kLeft},
                {"PLACES TO GUESS"}});
    for (std::size_t i = 0; i < std::min(programs.size(), kMost); ++i) {
        const Json &one = programs[i];
        const std::string bits = one["bits"].is_null() ? "?" : "2^" + one["bits"].dump();
        rows.add({one["pid"].dump(), printable(one["command"].get<std::string>()),
                  one["layout"].get<std::string>(), bits == "2^0" ? "1" : bits});
    }
    std::string text = "\n" + rows.text();
    if (programs.size() > kMost)
        text += fmt::format("and {} more: --json has them all\n", programs.size() - kMost);
    return text;
}

Finding check_layouts(const Machine &machine) {
    std::array<unsigned, kNames.size()> counts = {};
    for (const HookedProgram &program : hooked_programs(machine.root))
        ++counts.at(static_cast<std::size_t>(program.layout));
    std::string found;
    for (const Layout layout : {Layout::kStock, Layout::kKeyed, Layout::kFixed}) {
        const unsigned count = counts.at(static_cast<std::size_t>(layout));
        if (count != 0)
            found += fmt::format("{}{} {} (2^{} places to guess)", found.empty() ? "" : ", ", count,
                                 name_of(layout), bits_to_guess(machine.root, layout));
    }
    if (found.empty())
        return skip("no program runs under the hook, as far as this user may see");
    found = "programs under the hook: " + found;
    if (counts.at(static_cast<std::size_t>(Layout::kFixed)) == 0)
        return ok(found);
    return warn(found, "start them by upm run --layout keyed: everybody knows the addresses of "
                       "the fixed ones");
}

} // namespace upm::tool::cli
