#!/bin/sh
# Tests the Python package: types, stubs and behaviour.
#
#   bindings/python/tests/run.sh PATH/TO/lib_dwcp.so [pytest's arguments]
#
# The library is what `cargo build -p dwcp-python` makes. The tools are installed into
# `target/python-tests` (or $DWCP_TEST_DIR) when they are not there yet.
set -eu

library=${1:?the path of lib_dwcp.so, which cargo build -p dwcp-python makes}
shift
here=$(cd "$(dirname "$0")" && pwd)
package=$(dirname "$here")
root=$(cd "$package/../.." && pwd)
work=${DWCP_TEST_DIR:-$root/target/python-tests}
python=$work/venv/bin/python

# Renamed into place: a process that has the old one loaded keeps it.
cp "$library" "$package/dwcp/_dwcp.abi3.so.new"
mv "$package/dwcp/_dwcp.abi3.so.new" "$package/dwcp/_dwcp.abi3.so"

mkdir -p "$work"
if ! "$python" -c "import mypy, pytest" 2>/dev/null; then
    "${PYTHON:-python3}" -m venv --clear "$work/venv"
    "$python" -m pip install --quiet --disable-pip-version-check "mypy>=1.8" "pytest>=7"
fi

export PYTHONPATH="$package"
export PYTHONDONTWRITEBYTECODE=1
cd "$package"

"$python" -m mypy --cache-dir "$work/mypy" dwcp tests/*.py
MYPYPATH="$root/examples/python/guide" "$python" -m mypy --cache-dir "$work/mypy-examples" \
    "$root"/examples/python/*.py "$root"/examples/python/guide/*.py \
    "$root"/bindings/conformance/testees/python/testee.py "$root"/benches/bindings/bench.py
"$python" -m mypy.stubtest dwcp._dwcp
exec "$python" -m pytest -o cache_dir="$work/pytest" "$@"
