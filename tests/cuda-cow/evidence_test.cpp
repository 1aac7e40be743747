// SPDX-License-Identifier: MIT
//
// What a kernel's name says of its parameters.
#include "cuda-cow/hook/evidence.hpp"

#include <gmock/gmock.h>

namespace upm::cuda::hook {

namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr Use kR = Use::kRead;
constexpr Use kU = Use::kUnproven;

TEST(NameEvidence, ConstPointersAreRead) {
    EXPECT_THAT(uses_from_name("_Z5saxpyfPKfPfi"), ElementsAre(kR, kR, kU, kR));
    EXPECT_THAT(uses_from_name("_Z3fooPPKf"), ElementsAre(kU)) << "const float **";
    EXPECT_THAT(uses_from_name("_Z3barv"), IsEmpty());
}

TEST(NameEvidence, TemplatesAndStructures) {
    // void run<float, Op<int> >(float const*, Op<int>, float*)
    EXPECT_THAT(uses_from_name("_Z3runIf2OpIiEEvPKT_T0_PS2_"), ElementsAre(kR, kU, kU));
    // void f<(lambda)>(…) of namespaces, with a bracket inside the name
    EXPECT_THAT(uses_from_name("_ZN12_GLOBAL__N_13fooEPKhPh"), ElementsAre(kR, kU));
}

TEST(NameEvidence, NamesOfCAreNone) {
    EXPECT_THAT(uses_from_name("saxpy"), IsEmpty());
    EXPECT_THAT(uses_from_name(""), IsEmpty());
}

// Kernels that write, by names as they are met: nothing of them may count as read.
TEST(NameEvidence, WhatPointsToPointersIsUnproven) {
    EXPECT_THAT(uses_from_name("_Z1kPKPf"), ElementsAre(kU)) << "float *const *";
    EXPECT_THAT(uses_from_name("_Z1kPKfPi"), ElementsAre(kR, kU));
    EXPECT_THAT(uses_from_name("_Z15rms_norm_kernelPfPKfS1_fi"), ElementsAre(kU, kR, kR, kR, kR));
    EXPECT_THAT(
        uses_from_name("_ZN7cutlass13device_kernelINS_4gemm6kernel13GemmUniversalIiiiiEEEEvNT_"
                       "6ParamsE"),
        ElementsAre(kU));
    EXPECT_THAT(uses_from_name("_ZN2at6native29vectorized_elementwise_kernelILi4ENS0_11FillFunctor"
                               "IfEESt5arrayIPcLm1EEEEviT0_T1_"),
                ElementsAre(kR, kU, kU));
    EXPECT_THAT(uses_from_name("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize64x64x64"),
                IsEmpty());
}

} // namespace

} // namespace upm::cuda::hook
