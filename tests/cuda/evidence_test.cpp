// SPDX-License-Identifier: MIT
//
// What a kernel's name and PTX prove about its parameters.
#include "cuda-cow/hook/evidence.hpp"

#include <fstream>
#include <gmock/gmock.h>
#include <sstream>

namespace upm::cuda::hook {

namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr Use kR = Use::kRead;
constexpr Use kW = Use::kWritten;
constexpr Use kU = Use::kUnproven;

TEST(NameEvidence, ConstPointersAreRead) {
    EXPECT_THAT(uses_from_name("_Z5saxpyfPKfPfi"), ElementsAre(kR, kR, kU, kR));
    EXPECT_THAT(uses_from_name("_Z3fooPKPf"), ElementsAre(kR)) << "float *const *";
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

class PtxEvidence : public testing::Test {
  protected:
    PtxEvidence() {
        std::ifstream file(UPM_PTX_FILE);
        std::ostringstream text;
        text << file.rdbuf();
        kernels = uses_from_ptx(text.str());
    }
    std::map<std::string, std::vector<Use>> kernels;
};

TEST_F(PtxEvidence, FindsEveryKernel) {
    EXPECT_EQ(kernels.size(), 8U);
}

TEST_F(PtxEvidence, StoresAndAtomics) {
    EXPECT_THAT(kernels.at("saxpy"), ElementsAre(kR, kR, kW, kR));
    EXPECT_THAT(kernels.at("sum"), ElementsAre(kR, kW, kR));
    EXPECT_THAT(kernels.at("liar"), ElementsAre(kW));
    EXPECT_THAT(kernels.at("either"), ElementsAre(kW, kW, kR, kR));
}

// Where a value from memory is part of the address, nothing else is proven.
TEST_F(PtxEvidence, IndirectStoresProveNothingElse) {
    EXPECT_THAT(kernels.at("scatter"), ElementsAre(kU, kW, kU));
    EXPECT_THAT(kernels.at("table"), ElementsAre(kU, kU));
    EXPECT_THAT(kernels.at("by_call"), ElementsAre(kU, kU));
}

TEST_F(PtxEvidence, StructuresAreOneParameter) {
    EXPECT_THAT(kernels.at("by_struct"), ElementsAre(kW, kR));
}

TEST(PtxEvidenceText, StandsNonsense) {
    EXPECT_THAT(uses_from_ptx(""), IsEmpty());
    EXPECT_THAT(uses_from_ptx(".entry"), IsEmpty());
    EXPECT_THAT(uses_from_ptx(".entry foo("), IsEmpty());
    EXPECT_EQ(uses_from_ptx(".entry foo() { ret; ").size(), 1U);
}

} // namespace

} // namespace upm::cuda::hook
