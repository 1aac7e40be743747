// SPDX-License-Identifier: MIT
//
// As much of the CUDA runtime as other hooks wrap: one function, in a library of its own.
extern "C" [[gnu::visibility("default")]] int cudaMalloc(void **memory, unsigned long bytes) {
    static char some[64];
    *memory = some;
    return bytes != 0 ? 0 : 1;
}
