/* SPDX-License-Identifier: MIT
 *
 * libupm-cuda for other languages: a buffer, its advise, and declared writes. What the
 * calls do is said in upm/cuda.hpp. Errors are errno values; upm_cuda_error() has the
 * text of this thread's last one.
 */
#ifndef UPM_CUDA_H
#define UPM_CUDA_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct upm_cuda_buffer;

/* As upm::cuda::AdviseCounts. */
struct upm_cuda_counts {
    uint64_t extents, merged, published, already, refused, different, bytes;
};

/* As upm::cuda::BufferStats. */
struct upm_cuda_stats {
    uint64_t extents, shared, private_bytes, shared_bytes, copies, copied_bytes, rolled_back;
};

/* 1 if device `device` belongs to the driver for tests, whose memory the processor can use
 * as well; 0 if it is a GPU's; a negative errno if there is none. */
__attribute__((visibility("default"))) int upm_cuda_is_fake(int device);

/* Memory of a device, cleared. `extent_bytes` 0: chosen by the library, or rounded up to
 * what the device allows. NULL: failed. */
__attribute__((visibility("default"))) struct upm_cuda_buffer *
upm_cuda_allocate(int device, size_t bytes, size_t extent_bytes, const char *name);
/* Waits for the device. */
__attribute__((visibility("default"))) void upm_cuda_free(struct upm_cuda_buffer *buffer);
__attribute__((visibility("default"))) uint64_t
upm_cuda_address(const struct upm_cuda_buffer *buffer);
__attribute__((visibility("default"))) int upm_cuda_advise(struct upm_cuda_buffer *buffer,
                                                           struct upm_cuda_counts *counts);
__attribute__((visibility("default"))) int upm_cuda_get_stats(const struct upm_cuda_buffer *buffer,
                                                              struct upm_cuda_stats *stats);

/* Makes private and writable what the range covers of any buffer of this process. */
__attribute__((visibility("default"))) int upm_cuda_will_write(uint64_t address, size_t length);

__attribute__((visibility("default"))) const char *upm_cuda_error(void);

#ifdef __cplusplus
}
#endif

#endif /* UPM_CUDA_H */
