// SPDX-License-Identifier: MIT
//
// Who is a member of which domain. Each device has a file with the key of a domain, which
// is mounted into the container that has the device. The key is that of the pod's namespace
// on this node, or one of the container's own.
//
// A file is never written to: another one takes its place, so that a container that still
// runs keeps what it has and learns nothing of its successor.
#ifndef UPM_TOOLS_DEVICE_PLUGIN_KEYS_HPP
#define UPM_TOOLS_DEVICE_PLUGIN_KEYS_HPP

#include "tools/common/descriptor.hpp"

#include <mutex>
#include <set>
#include <string>
#include <string_view>

namespace upm::plugin {

class Keys {
  public:
    // Makes the folder, for this user only, and locks it. Throws Failure: it cannot be made,
    // or another plugin uses it.
    explicit Keys(std::string folder);

    // The file of a device, on the node.
    [[nodiscard]] std::string file(std::string_view device) const;
    // Returns false if no key can be written.
    [[nodiscard]] bool usable() const;

    // From now on the device stands for a domain that nobody else is in.
    void make_alone(const std::string &device);
    // From now on the device stands for the domain of the namespace, a DNS label.
    void make_member(const std::string &device, const std::string &name);
    // Forgets the keys of namespaces that were not among these, nor the last time: a
    // namespace that is made again is somebody else's.
    void keep_only(const std::set<std::string> &namespaces);

  private:
    [[nodiscard]] std::string namespace_file(std::string_view name) const;
    void put(const std::string &device, const std::string &key);

    std::string folder_;
    tool::Descriptor lock_;
    std::mutex mutex_;
    std::set<std::string> missed_; // namespaces that keep_only() did not see once
};

// Returns true for what Kubernetes takes as the name of a namespace.
bool is_namespace(std::string_view name);

} // namespace upm::plugin

#endif // UPM_TOOLS_DEVICE_PLUGIN_KEYS_HPP
