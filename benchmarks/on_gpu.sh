#!/usr/bin/env bash
# All that waits for a GPU, in about four minutes, the most telling first:
#
#   bash benchmarks/on_gpu.sh OUT             # on a machine with one; OUT is a folder for results
#   bash benchmarks/on_gpu.sh --dry-run OUT   # on any machine: every line, tiny; proves nothing
#
# It needs python3 (or $PYTHON) with torch, triton, NumPy and tqdm; no network, no Jupyter, nothing
# installed. Each part keeps its log, result and time in OUT as it ends, and OUT/on_gpu.tar.gz holds
# them all. Run it again with the same OUT, and it goes on with the parts that have not ended well.
# `course gpu-results OUT/on_gpu.tar.gz` then turns the archive into benchmarks/results.
# The GPU's settings are left as they are.
set -uo pipefail

dry=()
if [ "${1:-}" = --dry-run ]; then
  dry=(--dry-run)
  export TRITON_INTERPRET=1
  shift
fi
[ $# -eq 1 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 2; }
mkdir -p "$1" && out=$(cd "$1" && pwd) || exit 2
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
python=${PYTHON:-python3}
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$out/triton} PYTHONUNBUFFERED=1

# part NAME SECONDS COMMAND...: run it, unless it has ended well before.
part() {
  local name=$1 limit=$2 begin=$SECONDS status
  [ ${#dry[@]} -eq 0 ] || limit=600 # a CPU may be slow, or busy
  shift 2
  if [ -e "$out/$name.done" ]; then
    echo "== $name: done before"
    return
  fi
  echo "== $name (at most $limit seconds)"
  timeout --kill-after 10 "$limit" "$@" >"$out/$name.log" 2>&1
  status=$?
  tail -n 20 "$out/$name.log"
  echo "$name: exit status $status after $((SECONDS - begin)) seconds" | tee -a "$out/parts.txt"
  [ $status -eq 0 ] && touch "$out/$name.done"
  (cd "$out" && tar -czf .new.tar.gz -- *.json *.log parts.txt 2>/dev/null && mv .new.tar.gz on_gpu.tar.gz)
}

check() { # check PART SECONDS
  part "gpu_$1" "$2" "$python" benchmarks/gpu_checks.py "$1" --out "$out/gpu_$1.json" "${dry[@]}"
}

chapter() { # chapter 7's cells that a GPU runs otherwise
  "$python" benchmarks/gpu_cells.py "$out/chapter_7.py" && "$python" "$out/chapter_7.py"
}

sanitized() { # one small call of each kernel, with every access to memory watched
  local command=("$python" benchmarks/gpu_checks.py small --out "$out/gpu_small.json" "${dry[@]}")
  if command -v compute-sanitizer >/dev/null && [ ${#dry[@]} -eq 0 ]; then
    compute-sanitizer --tool memcheck --error-exitcode 9 "${command[@]}"
  else
    echo "without compute-sanitizer, which is not here"
    "${command[@]}"
  fi
}
export -f chapter sanitized
export python out
# A function has no program that `timeout` could start, so bash is started on it.
run="dry=(${dry[*]:-})"

sizes=(--lengths 4096 16384 --rounds 10 --minutes 1.5)
[ ${#dry[@]} -eq 0 ] || sizes=(--dry-run)
check correct 90
check rules 40
part flash_gpu 150 "$python" benchmarks/flash_gpu.py --compile-ahead --no-flex "${sizes[@]}" \
  --out "$out/flash_gpu.json"
check decisions 60
part chapter_7 60 bash -c chapter
check model 60
part sanitizer 120 bash -c "$run; sanitized"

echo "== $out/on_gpu.tar.gz"
failed=0
for name in gpu_correct gpu_rules flash_gpu gpu_decisions chapter_7 gpu_model sanitizer; do
  [ -e "$out/$name.done" ] || { echo "$name did not end well; see $out/$name.log"; failed=1; }
done
exit $failed
