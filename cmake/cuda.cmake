# Decides whether CUDA is built, with which compiler and for which architectures. Sets
#   cuda_built    what was built, for people: "nvcc 13.0.88 for 80, 90a"; empty if nothing was
#   why_no_cuda   the reason, if nothing was
set(cuda_built "")
set(why_no_cuda "")
set(how_to_get_it "install the CUDA toolkit, or set LAMINA_CUDA=pypi to let pip fetch the compiler, and run \
pip install --force-reinstall --no-cache-dir again")

if(NOT LAMINA_CUDA MATCHES "^(auto|on|off|pypi)$")
  message(FATAL_ERROR "LAMINA_CUDA is '${LAMINA_CUDA}'; expected auto, on, off or pypi")
endif()
if(LAMINA_CUDA STREQUAL off)
  set(why_no_cuda "it was built with LAMINA_CUDA=off (${how_to_get_it})")
  return()
endif()

include(CheckLanguage)
if(LAMINA_CUDA STREQUAL pypi)  # the wheels have a toolkit's layout, but for lib/ instead of lib64/
  execute_process(COMMAND ${Python_EXECUTABLE} -c "import nvidia; print(list(nvidia.__path__)[0])"
                  OUTPUT_VARIABLE nvidia_wheels OUTPUT_STRIP_TRAILING_WHITESPACE)
  set(CMAKE_CUDA_COMPILER ${nvidia_wheels}/cu13/bin/nvcc)
  set(CMAKE_CUDA_FLAGS_INIT "-L${nvidia_wheels}/cu13/lib")
endif()
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES OFF)  # they are given below, per target
endif()
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  if(NOT LAMINA_CUDA STREQUAL auto)
    message(FATAL_ERROR "LAMINA_CUDA is ${LAMINA_CUDA}, but there is no nvcc that works")
  endif()
  set(why_no_cuda "nvcc was not found (${how_to_get_it})")
  message(STATUS "Lamina: CPU only: ${why_no_cuda}")
  return()
endif()
enable_language(CUDA)
string(REPLACE -O3 -O1 CMAKE_CUDA_FLAGS_RELEASE "${CMAKE_CUDA_FLAGS_RELEASE}")  # of the host's half, which launches
set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")  # CMake before 3.25.2 does not know that nvcc has it

# Machine code for the architectures that are asked for, else for the GPU that is here. Where there is none, only PTX, which
# a GPU's driver compiles at first use: machine code for one architecture takes as long to build as all CPU kernels.
set(archs ${LAMINA_CUDA_ARCHS})
if(archs STREQUAL all)
  set(archs 80 86 89 90a 100 120)
elseif(NOT archs)
  execute_process(COMMAND nvidia-smi --query-gpu=compute_cap --format=csv,noheader
                  OUTPUT_VARIABLE capabilities ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE failure)
  if(failure EQUAL 0)
    string(REPLACE "." "" archs "${capabilities}")
    string(REPLACE "\n" ";" archs "${archs}")
    string(REPLACE "90" "90a" archs "${archs}")
    list(REMOVE_DUPLICATES archs)
  endif()
endif()
set(code ${archs})
list(TRANSFORM code APPEND "-real")
if(archs)
  list(GET archs 0 lowest)
  string(REPLACE "a" "" lowest ${lowest})
else()
  set(lowest 80)
endif()
list(APPEND code ${lowest}-virtual)

file(GLOB cuda_sources CONFIGURE_DEPENDS csrc/kernels/*/*.cu)
set(runtime_sources csrc/devices/cuda.cpp csrc/devices/tensor_map.cpp)
set_source_files_properties(${runtime_sources} PROPERTIES LANGUAGE CUDA)
add_library(lamina_cuda MODULE ${cuda_sources} ${runtime_sources})
# Random numbers are the same as on the CPU: no contraction to FMA.
set_source_files_properties(csrc/kernels/random/random.cu PROPERTIES COMPILE_OPTIONS -fmad=false)
if(NOT "90a" IN_LIST archs)  # Hopper's own instructions are in no other PTX
  set_source_files_properties(csrc/kernels/gemm/gemm_wgmma.cu PROPERTIES COMPILE_OPTIONS
                              "-gencode=arch=compute_90a,code=compute_90a")
endif()
set_target_properties(lamina_cuda PROPERTIES CUDA_STANDARD 20 CUDA_RUNTIME_LIBRARY Static
                      CUDA_ARCHITECTURES "${code}" CUDA_VISIBILITY_PRESET hidden)
target_include_directories(lamina_cuda PRIVATE csrc)
target_compile_definitions(lamina_cuda PRIVATE LAMINA_DEVICE=cuda)
target_compile_options(lamina_cuda PRIVATE --expt-relaxed-constexpr -Xptxas=--warn-on-spills -Xfatbin=-compress-all)
target_link_options(lamina_cuda PRIVATE -Wl,-s)
if(SKBUILD)
  install(TARGETS lamina_cuda DESTINATION lamina)
else()
  set_target_properties(lamina_cuda PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${LAMINA_OUTPUT_DIR})
endif()

list(TRANSFORM code REPLACE "-real" "" OUTPUT_VARIABLE code_text)
list(TRANSFORM code_text REPLACE "(.*)-virtual" "PTX of \\1")
list(JOIN code_text ", " code_text)
set(cuda_built "nvcc ${CMAKE_CUDA_COMPILER_VERSION} for ${code_text}")
message(STATUS "Lamina: CUDA by ${cuda_built}")
