// SPDX-License-Identifier: MIT
#include "tests/kmod/support/sweep_trace.hpp"

#include "tests/support/file.hpp"
#include "tests/support/support.hpp"

#include <gtest/gtest.h>

#include <functional>
#include <set>
#include <sstream>
#include <string_view>

#include <sys/stat.h>
#include <unistd.h>

namespace upm::test {

namespace {

constexpr const char *kTracing = "/sys/kernel/tracing/";

// A line of a trace: `   kworker/1:2-34    [001] .....    56: event: its text`.
struct Event {
    std::string_view pid;
    std::string_view name;
    std::string_view text;
};

bool parse(std::string_view line, Event &event) {
    const auto processor = line.find(" [");
    const auto time =
        line.find(": ", processor == std::string_view::npos ? line.size() : processor);
    const auto name = line.find(": ", time == std::string_view::npos ? line.size() : time + 2);
    if (name == std::string_view::npos || line.starts_with('#'))
        return false;
    std::string_view who = line.substr(0, processor);
    who = who.substr(0, who.find_last_not_of(' ') + 1);
    event.pid = who.substr(who.rfind('-') + 1);
    event.name = line.substr(time + 2, name - time - 2);
    event.text = line.substr(name + 2);
    return true;
}

// Calls `visit` with each event, and whether it came after the mark.
void visit_events(const std::string &text, const std::string &mark,
                  const std::function<void(const Event &, bool since)> &visit) {
    std::istringstream lines(text);
    std::string line;
    bool since = false;
    while (std::getline(lines, line)) {
        Event event;
        if (!parse(line, event))
            continue;
        if (event.name == "tracing_mark_write")
            since = since || event.text == mark;
        else
            visit(event, since);
    }
    EXPECT_TRUE(since) << "no mark " << mark << " in the trace";
}

bool begins(const Event &event, std::string_view function) {
    return event.name == "workqueue_execute_start" &&
           event.text.ends_with("function " + std::string(function) + " [upm]");
}

} // namespace

SweepTrace::SweepTrace() {
    const std::string path =
        std::string(kTracing) + "instances/upm-test-" + std::to_string(::getpid()) + "/";
    if (::mkdir(path.c_str(), 0700) != 0)
        return;
    path_ = path;
    // One order for all processors, whose clocks are apart on an emulated machine that waits.
    EXPECT_EQ(write_file(path + "trace_clock", "counter"), 0);
    EXPECT_EQ(write_file(path + "events/workqueue/workqueue_execute_start/enable", "1"), 0);
    EXPECT_EQ(write_file(path + "events/upm/upm_sweep/enable", "1"), 0);
}

SweepTrace::~SweepTrace() {
    if (!path_.empty()) {
        EXPECT_EQ(::rmdir(path_.c_str()), 0) << path_;
    }
}

void SweepTrace::mark(const std::string &name) const {
    EXPECT_EQ(write_file(path_ + "trace_marker", name), 0);
}

SweepLog SweepTrace::read() const {
    return SweepLog(read_file(path_ + "trace"));
}

unsigned SweepLog::periods(const std::string &mark) const {
    unsigned begun = 0;
    visit_events(text_, mark, [&](const Event &event, bool since) {
        begun += since && begins(event, "sweep") ? 1 : 0;
    });
    return begun;
}

std::vector<Look> SweepLog::looks(const std::string &mark, std::uint64_t domain) const {
    const std::string prefix = "domain=" + std::to_string(domain) + " ";
    std::vector<Look> found;
    std::set<std::string, std::less<>> periodic; // workers that are, or were last, at one
    unsigned begun = 0;
    visit_events(text_, mark, [&](const Event &event, bool since) {
        if (begins(event, "sweep")) {
            periodic.emplace(event.pid);
            begun += since ? 1 : 0;
        } else if (event.name == "workqueue_execute_start") {
            periodic.erase(std::string(event.pid));
        } else if (since && event.name == "upm_sweep" && event.text.starts_with(prefix)) {
            const auto freed = event.text.find("freed=") + 6;
            found.push_back({.periodic = periodic.contains(event.pid),
                             .period = begun,
                             .freed = std::stoull(std::string(event.text.substr(freed)))});
        }
    });
    return found;
}

std::vector<Look> SweepLog::periodic_looks(const std::string &mark, std::uint64_t domain) const {
    std::vector<Look> found = looks(mark, domain);
    std::erase_if(found, [](const Look &look) { return !look.periodic; });
    return found;
}

} // namespace upm::test
