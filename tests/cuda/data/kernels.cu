// SPDX-License-Identifier: MIT
//
// Kernels whose PTX (kernels.ptx, committed so that the test needs no nvcc) the write
// detection is tested on:
//   nvcc -ptx -arch=sm_80 -o kernels.ptx kernels.cu
extern "C" {

__global__ void saxpy(float a, const float *x, float *y, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        y[i] += a * x[i];
}

// Nothing says const, and yet x is only read.
__global__ void sum(float *x, float *total, int n) {
    __shared__ float part[256];
    part[threadIdx.x] = threadIdx.x < n ? x[threadIdx.x] : 0;
    __syncthreads();
    if (threadIdx.x == 0)
        for (int i = 1; i < 256; ++i)
            part[0] += part[i];
    if (threadIdx.x == 0)
        atomicAdd(total, part[0]);
}

// const, and yet written through.
__global__ void liar(const float *x) {
    const_cast<float *>(x)[threadIdx.x] = 1;
}

// The index is from memory, so the store could be anywhere in principle.
__global__ void scatter(const int *index, float *y, const float *x) {
    y[index[threadIdx.x]] = x[threadIdx.x];
}

// The target itself is from memory.
__global__ void table(float **rows, const float *x) {
    rows[blockIdx.x][threadIdx.x] = x[threadIdx.x];
}

struct Pair {
    const float *from;
    float *to;
};

__global__ void by_struct(Pair pair, float *other) {
    pair.to[threadIdx.x] = pair.from[threadIdx.x] + other[0];
}

__device__ __noinline__ void store(float *to, float value) {
    *to = value;
}

__global__ void by_call(float *to, float *other) {
    store(to + threadIdx.x, other[0]);
}

// Two addresses, one pointer: chosen at run time.
__global__ void either(float *a, float *b, float *c, int which) {
    float *const to = which != 0 ? a : b;
    to[threadIdx.x] = c[threadIdx.x];
}
}
