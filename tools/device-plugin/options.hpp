// SPDX-License-Identifier: MIT
//
// The command line of upm-device-plugin.
#ifndef UPM_TOOLS_DEVICE_PLUGIN_OPTIONS_HPP
#define UPM_TOOLS_DEVICE_PLUGIN_OPTIONS_HPP

#include <cstdint>
#include <optional>
#include <string>

namespace upm::plugin {

struct Options {
    std::string kubelet;       // folder of the kubelet's socket and the plugin's
    std::string pod_resources; // the kubelet's socket that tells which pod has which device
    std::string resource;      // upm.dev/share
    std::uint32_t devices = 0;
    std::string hook;                // on the node, and by the same path here
    std::string broker;              // socket of upmd, likewise
    std::string state;               // folder for keys, likewise
    std::string namespaces;          // file with the namespaces whose pods share
    std::string cdi;                 // folder for a specification; empty: none
    std::string layout;              // upm-layout, on the node and here; empty: containers get none
    std::string labels;              // file for labels of the node; empty: none
    unsigned start_below_free = 100; // percent, as upmd has it; 100: no condition
    bool module = false;

    // Of the plugin's socket, in the folder of the kubelet's.
    [[nodiscard]] std::string endpoint() const;
};

// Nothing if the text that was asked for has been printed. Throws UsageError.
std::optional<Options> parse_options(int argc, char **argv);

} // namespace upm::plugin

#endif // UPM_TOOLS_DEVICE_PLUGIN_OPTIONS_HPP
