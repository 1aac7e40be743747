// SPDX-License-Identifier: MIT
#include "libupm/api/catalog.hpp"

#include "libupm/backends/kmod.hpp"
#include "libupm/backends/ksm.hpp"
#include "libupm/backends/none.hpp"
#include "libupm/store/backend.hpp"

namespace upm {

namespace {

constinit KernelDevice kernel_device;
constinit KmodBackend kmod_backend{kernel_device};
constinit KsmBackend ksm_backend;
constinit StoreBackend store_backend;
constinit NoneBackend none_backend;

constinit const CatalogRow kCatalog[] = {
    {"kmod", &kmod_backend},
    {"store", &store_backend},
    {"ksm", &ksm_backend},
    {"none", &none_backend},
};

} // namespace

Catalog default_catalog() noexcept {
    return kCatalog;
}

} // namespace upm
