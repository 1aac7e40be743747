// SPDX-License-Identifier: MIT
//
// What nvcc made of tag.cu, as bytes of the library.
asm(".section .rodata\n"
    ".balign 16\n"
    ".global upm_cuda_fatbin\n"
    ".hidden upm_cuda_fatbin\n"
    "upm_cuda_fatbin:\n"
    ".incbin \"" UPM_CUDA_FATBIN "\"\n"
    ".previous\n");
