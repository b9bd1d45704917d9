#!/usr/bin/env bash
# Builds with a sanitizer and runs the tests under it; any report fails the run.
#
#   tests/sanitize.sh address|undefined|thread [arguments of pytest]
#
# Works on a copy of the package, so the build in the working copy stays as it is. LAMINA_ISAS chooses the levels
# (default: avx2). With `--device sim` among the arguments it is the CUDA kernels that are instrumented, on the
# simulator, and lamina is the one that is installed. Leaks are not looked for: the interpreter itself leaves memory
# behind.
set -euo pipefail
cd "$(dirname "$0")/.."
kind=$1
shift
if [[ " $* " == *" --device sim "* ]]; then
  build=$PWD/build/sim-$kind
  cmake -S csrc/simt -B "$build" -G Ninja -DLAMINA_SANITIZE="$kind" >/dev/null
  ninja -C "$build"
  export LAMINA_SIM_LIBRARY=$build/liblamina_sim.so
else
  build=$PWD/build/sanitize-$kind
  mkdir -p "$build/python"
  cmake -S . -B "$build" -G Ninja -DPython_EXECUTABLE="$(command -v python)" -DLAMINA_SANITIZE="$kind" \
    -DLAMINA_CUDA=off -DLAMINA_ISAS="${LAMINA_ISAS:-avx2}" -DLAMINA_OUTPUT_DIR="$build/python/lamina" >/dev/null
  cp -r python/lamina "$build/python/"
  rm -f "$build"/python/lamina/{_C*,liblamina_kernels}.so
  ninja -C "$build"
  export PYTHONPATH=$build/python
fi

case $kind in
  address) runtime=libasan.so ;;
  undefined) runtime=libubsan.so ;;
  thread) runtime=libtsan.so ;;
esac
export PYTHONMALLOC=malloc OPENBLAS_NUM_THREADS=1  # the threads of NumPy's BLAS synchronise unseen
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1
echo 'race:_dl_deallocate_tls' >"$build/suppressions"  # glibc frees what threads that have ended leave, ordered unseen
export TSAN_OPTIONS=report_signal_unsafe=0:die_after_fork=0:suppressions=$build/suppressions
export LD_PRELOAD="$(g++ -print-file-name=$runtime) $(g++ -print-file-name=libstdc++.so)"
python -m pytest -p no:cacheprovider -n 0 "$@"
