// SPDX-License-Identifier: MIT
#include "tools/device-plugin/options.hpp"

#include "libupm/base/broker_socket.hpp"
#include "tools/common/command_line.hpp"
#include "tools/common/errors.hpp"
#include "tools/common/text.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <sys/un.h>

namespace upm::plugin {

namespace {

using tool::UsageError;

// The kubelet takes lists of 4 MiB; this one has half of that.
constexpr std::uint32_t kMostDevices = 65'536;
constexpr unsigned kWhole = 100; // percent

cxxopts::Options description() {
    cxxopts::Options options("upm-device-plugin",
                             "Gives containers of Kubernetes the hook and a domain of their "
                             "namespace; see upm-device-plugin(8).\n");
    options.custom_help("[OPTION...]");
    const auto text = [](const char *fallback) {
        return cxxopts::value<std::string>()->default_value(fallback);
    };
    options.add_options()                                                                 //
        ("devices", "containers on the node that can have the resource at one time",      //
         text("1024"), "N")                                                               //
        ("namespaces", "namespaces whose pods share, one a line; * is all; read anew",    //
         text("/etc/upm/namespaces"), "FILE")                                             //
        ("hook", "the hook, on the node and here", text(UPM_HOOK), "FILE")                //
        ("broker", "socket of upmd, on the node and here", text(kSystemSocket), "SOCKET") //
        ("layout",
         "upm-layout, on the node and here: containers that upm-runc starts get a "            //
         "keyed layout",                                                                       //
         text(""), "FILE")                                                                     //
        ("module", "pass /dev/upm in as well")                                                 //
        ("cdi", "write a specification of CDI there, and name its devices to the kubelet",     //
         text(""), "DIR")                                                                      //
        ("state", "folder for keys, on the node and here", text("/run/upm-device-plugin"),     //
         "DIR")                                                                                //
        ("labels", "write labels of the node there, for node-feature-discovery", text(""),     //
         "FILE")                                                                               //
        ("start-below-free", "what upmd was told, for the labels",                             //
         text("100"), "PERCENT")                                                               //
        ("resource", "what pods ask for", text("upm.dev/share"), "NAME")                       //
        ("kubelet", "folder of the kubelet's socket", text("/var/lib/kubelet/device-plugins"), //
         "DIR")                                                                                //
        ("pod-resources", "the kubelet's socket that tells which pod has which device",        //
         text("/var/lib/kubelet/pod-resources/kubelet.sock"), "SOCKET")                        //
        ("version", "print the version")("h,help", "this text");
    return options;
}

bool is_resource(std::string_view name) {
    const auto allowed = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '/';
    };
    constexpr std::size_t kLongest = 128;
    const std::size_t slash = name.find('/');
    return name.size() <= kLongest && std::ranges::all_of(name, allowed) && slash != 0 &&
           slash != std::string_view::npos && slash == name.rfind('/') && slash + 1 < name.size();
}

void check_path(const char *option, const std::string &path) {
    // The kubelet gets some of them, in protocol buffers that hold only UTF-8.
    if (!path.starts_with("/") || path.ends_with("/") || tool::utf8(path) != path)
        throw UsageError(
            fmt::format("--{} takes a full path, not '{}'", option, tool::printable(path)));
}

void check_socket(const char *option, const std::string &path) {
    if (path.size() >= sizeof(sockaddr_un::sun_path))
        throw UsageError(fmt::format("--{}: the path of the socket '{}' is longer than {} bytes",
                                     option, tool::printable(path),
                                     sizeof(sockaddr_un::sun_path) - 1));
}

void check(const Options &options) {
    if (!is_resource(options.resource))
        throw UsageError(fmt::format("--resource takes a name such as upm.dev/share, not '{}'",
                                     tool::printable(options.resource)));
    for (const auto &[option, path] : {std::pair{"kubelet", &options.kubelet},
                                       {"pod-resources", &options.pod_resources},
                                       {"hook", &options.hook},
                                       {"broker", &options.broker},
                                       {"state", &options.state},
                                       {"namespaces", &options.namespaces}})
        check_path(option, *path);
    for (const auto &[option, path] :
         {std::pair{"cdi", &options.cdi}, {"layout", &options.layout}, {"labels", &options.labels}})
        if (!path->empty())
            check_path(option, *path);
    check_socket("kubelet", options.kubelet + "/" + options.endpoint());
    check_socket("pod-resources", options.pod_resources);
    check_socket("broker", options.broker);
}

Options taken(const tool::CommandLine &given) {
    const auto text = [&](const char *name) { return given.parsed()[name].as<std::string>(); };
    Options options{.kubelet = text("kubelet"),
                    .pod_resources = text("pod-resources"),
                    .resource = text("resource"),
                    .devices = static_cast<std::uint32_t>(
                        tool::number_of_option("devices", text("devices"), 1, kMostDevices)),
                    .hook = text("hook"),
                    .broker = text("broker"),
                    .state = text("state"),
                    .namespaces = text("namespaces"),
                    .cdi = text("cdi"),
                    .layout = text("layout"),
                    .labels = text("labels"),
                    .start_below_free = static_cast<unsigned>(tool::number_of_option(
                        "start-below-free", text("start-below-free"), 1, kWhole)),
                    .module = given.has("module")};
    check(options);
    return options;
}

} // namespace

std::string Options::endpoint() const {
    std::string name = resource + ".sock";
    std::ranges::replace(name, '/', '-');
    return name;
}

std::optional<Options> parse_options(int argc, char **argv) {
    cxxopts::Options known = description();
    const tool::CommandLine given(known, argc, argv);
    if (given.has("help")) {
        fmt::print("{}", known.help());
        return std::nullopt;
    }
    if (given.has("version")) {
        fmt::print("upm-device-plugin {}\n", UPM_VERSION);
        return std::nullopt;
    }
    return taken(given);
}

} // namespace upm::plugin
