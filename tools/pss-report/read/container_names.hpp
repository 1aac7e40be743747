// SPDX-License-Identifier: MIT
//
// What people call containers and pods: runtimes keep that in files of their own, where
// this program may read them.
#ifndef UPM_TOOLS_PSS_REPORT_READ_CONTAINER_NAMES_HPP
#define UPM_TOOLS_PSS_REPORT_READ_CONTAINER_NAMES_HPP

#include "tools/common/root.hpp"
#include "tools/pss-report/model/snapshot.hpp"

#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace upm::tool::pss {

class ContainerNames {
  public:
    explicit ContainerNames(Root root);

    // Fills in `name` and `pod_name`; empty where nothing is known. Asks once for each
    // container. `cgroup` tells whose it is: users have runtimes of their own.
    void add(Container &container, std::string_view cgroup = {});

  private:
    using Names = std::map<std::string, std::string>;

    void add_home(std::string_view cgroup);
    [[nodiscard]] std::string docker_name(const std::string &id) const;
    // Name and pod of a container that a kubelet started, by its OCI bundle.
    [[nodiscard]] std::pair<std::string, std::string> bundle_names(const std::string &id) const;

    Root root_;
    Names podman_;                    // by id
    Names nerdctl_;                   // by id
    Names pods_;                      // "namespace/name" by uid
    std::vector<std::string> docker_; // folders
    std::set<std::string> homes_;     // of these users, by uid, were looked at
    std::map<std::string, std::pair<std::string, std::string>> known_;
};

} // namespace upm::tool::pss

#endif // UPM_TOOLS_PSS_REPORT_READ_CONTAINER_NAMES_HPP
