// simt_mutants                                           lists the mutants: kernel, number, where seen, what
// simt_mutants <kernel> <number> <schedule> <async> <seed> …   runs one under each configuration: "ok" or what is wrong
#include <cstdio>
#include <cstdlib>

#include "mutants.h"

#if defined(LAMINA_SIM)
#include "simt/engine.h"
#endif

int main(int argc, char** argv) {
  using namespace lamina;
  using namespace lamina::LAMINA_DEVICE;
  const MutatedKernel* kernels[] = {&reduction,   &sgemm,     &mma_gemm,    &wgmma_gemm,
                                    &cluster_sum, &multicast, &grid_barrier};
  constexpr const char* names[] = {"plain", "asan", "tsan", "nowhere"};
  if (argc < 3) {
    for (const MutatedKernel* k : kernels)
      for (size_t i = 0; i < k->mutants.size(); ++i)
        std::printf("%s\t%zu\t%s\t%s\n", k->name, i + 1, names[int(k->mutants[i].seen)], k->mutants[i].what);
    return 0;
  }
  for (const MutatedKernel* k : kernels) {
    if (std::strcmp(k->name, argv[1]) != 0) continue;
    for (int i = 3; i + 2 < argc; i += 3) {
#if defined(LAMINA_SIM)
      if (!simt_configure(argv[i], argv[i + 1], std::strtoull(argv[i + 2], nullptr, 10))) return 2;
#endif
      std::string error;
      try {
        error = k->run(std::atoi(argv[2]));
      } catch (const std::exception& e) {
        error = e.what();
      }
      for (char& c : error)
        if (c == '\n') c = '|';
      std::printf("%s\n", error.empty() ? "ok" : error.c_str());
    }
    return 0;
  }
  return 2;
}
