// SPDX-License-Identifier: MIT
//
// Arbitrary text against the parsers of /proc, of recordings, and against what makes
// names fit for a terminal, a page and gnuplot. With clang a libFuzzer target:
//
//   clang++ -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -DUPM_VERSION='"0"' -I.
//       -o parse_fuzz tests/tools/pss-report/read/parse_fuzz.cpp tools/common/*.cpp
//       tools/pss-report/*/*.cpp -lfmt -lncursesw -ltinfo
//
// The first byte of an input chooses what the rest goes to. Otherwise, with a main() of
// its own, a short run for ctest over texts of this machine, bent at random.
#include "tools/common/files.hpp"
#include "tools/common/text.hpp"
#include "tools/pss-report/model/report.hpp"
#include "tools/pss-report/read/containers.hpp"
#include "tools/pss-report/read/parse.hpp"
#include "tools/pss-report/read/recording.hpp"
#include "tools/pss-report/show/output.hpp"
#include "tools/pss-report/show/plot.hpp"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace {

using namespace upm::tool;
using namespace upm::tool::pss;

constexpr unsigned kTargets = 10;

void check(bool holds) {
    if (!holds)
        std::abort();
}

void smaps(std::string_view text) {
    const std::vector<MeasuredMapping> mappings = parse_smaps(text);
    const std::vector<Kind> kinds = classify(mappings);
    check(kinds.size() == mappings.size());
    for (std::size_t i = 0; i < kinds.size(); ++i) {
        check(static_cast<std::size_t>(kinds[i]) < kKinds);
        check(mappings[i].end >= mappings[i].start);
    }
}

void cgroup(std::string_view text) {
    const std::vector<std::string> paths = cgroup_paths(text);
    const std::string path = placement_of(paths, {}).cgroup;
    check(path.find('\n') == std::string::npos);
    const Container container = container_of(path, {{"web", "runc"}});
    check(container.runtime.empty() == container.id.empty());
}

void recording(std::string_view text) {
    std::vector<Snapshot> snapshots;
    try {
        snapshots = parse_recording(text, "input");
    } catch (const std::exception &) {
        return; // said what is wrong with it
    }
    check(!snapshots.empty());
    for (const Snapshot &snapshot : snapshots) {
        // What was read can be written, and reads the same.
        const Report report = make_report(snapshot, GroupBy::kProcess);
        const std::string written = dump(to_json(report, snapshot), -1);
        const Snapshot again = snapshot_from_json(Json::parse(written));
        check(again.processes.size() == snapshot.processes.size());
        check(make_report(again, GroupBy::kUser).total.usage == report.total.usage);
        (void)to_table(report, snapshot, default_fields(GroupBy::kProcess), {});
        (void)to_csv(report, snapshot);
        (void)to_prometheus(report, snapshot);
    }
}

void names(std::string_view text) {
    for (const char c : printable(text))
        check(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f);
    for (const char c : xml_escaped(text))
        check(c != '<' && c != '>' && c != '"');
    check(display_width(shortened(printable(text), 7)) <= 7);
    check(Json::accept(dump(Json(std::string(text)))));
}

// Every block of data ends where it should, whatever is in it.
void gnuplot(std::string_view text) {
    Figure figure;
    figure.title = figure.x_title = figure.y_title = text;
    figure.categories = {std::string(text)};
    figure.curves = {{std::string(text), 0, 1, {{0, 1}}}};
    std::size_t ends = 0, strings = 0;
    for_each_line(gnuplot_script(figure, Ground::kWhite), [&](std::string_view line) {
        ends += line == "END_OF_BLOCK";
        strings += line.starts_with('"');
    });
    check(ends == 3 && strings == 2);
}

void drive(unsigned target, std::string_view text) {
    switch (target % kTargets) {
    case 0:
        return smaps(text);
    case 1:
        return (void)parse_rollup(text);
    case 2:
        return (void)parse_status(text);
    case 3:
        return cgroup(text);
    case 4:
        return (void)parse_ksm_stat(text);
    case 5:
        return (void)parse_meminfo(text);
    case 6:
        return (void)parse_passwd(text);
    case 7:
        return recording(text);
    case 8:
        return names(text);
    default:
        return gnuplot(text);
    }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
    if (size != 0)
        drive(data[0], {reinterpret_cast<const char *>(data) + 1, size - 1});
    return 0;
}

#ifdef UPM_FUZZ_MAIN

namespace {

class Random {
  public:
    std::size_t below(std::size_t limit) {
        state_ = state_ * 6364136223846793005ULL + 1442695040888963407ULL;
        return static_cast<std::size_t>(state_ >> 33U) % limit;
    }

  private:
    std::uint64_t state_ = 1;
};

// Cut, doubled, and with some bytes put in place of others.
std::string bent(std::string text, Random &random) {
    constexpr std::string_view kOdd("\0\n\xff\x1b: \t-\"\\{}[],9", 16);
    for (std::size_t i = random.below(8); i != 0 && !text.empty(); --i) {
        const std::size_t at = random.below(text.size());
        const std::size_t length = random.below(64);
        switch (random.below(4)) {
        case 0:
            text[at] = kOdd[random.below(kOdd.size())];
            break;
        case 1:
            text.erase(at, length);
            break;
        case 2:
            text.insert(at, text.substr(random.below(text.size()), length));
            break;
        default:
            text[at] = static_cast<char>(random.below(256));
        }
    }
    return text;
}

std::string start_of(const std::string &path) {
    return read_file(path).substr(0, 6000);
}

std::string some_recording() {
    Snapshot snapshot;
    Process process;
    process.pid = 7;
    process.command = "a b";
    process.container = {"runc", "web"};
    process.usage.rss = process.usage.anon = 4096;
    process.kinds.emplace();
    (*process.kinds)[1] = {process.usage, 1, 4096};
    snapshot.processes = {process, process};
    snapshot.skipped.unreadable = {{9, "x", "no", 1}};
    snapshot.system.ksm = {{"run", 1}};
    return dump(to_json(make_report(snapshot, GroupBy::kProcess), snapshot), -1);
}

} // namespace

int main(int argc, char **argv) {
    const long runs = argc > 1 ? std::strtol(argv[1], nullptr, 10) : 2000;
    const std::string texts[kTargets] = {start_of("/proc/self/smaps"),
                                         start_of("/proc/self/smaps_rollup"),
                                         start_of("/proc/self/status"),
                                         "0::/docker/abc\n4:memory:/user.slice/a b.scope\n",
                                         "ksm_merging_pages 12\nksm_zero_pages 3\n",
                                         start_of("/proc/meminfo"),
                                         start_of("/etc/passwd"),
                                         some_recording(),
                                         "a <b> \xc3\xbc \x1b[1m & \"c\"",
                                         "x\nEND_OF_BLOCK\n\"`y`\\"};
    Random random;
    for (unsigned target = 0; target < kTargets; ++target)
        drive(target, texts[target]);
    for (long run = 0; run < runs; ++run)
        for (unsigned target = 0; target < kTargets; ++target)
            drive(target, bent(texts[target], random));
    std::printf("%ld runs of %u targets\n", runs, kTargets);
}

#endif
