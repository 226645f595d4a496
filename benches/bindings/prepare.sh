#!/bin/sh
# Builds the program of a language for `cargo xtask bench bindings`:
#
#     benches/bindings/prepare.sh LANGUAGE LIBRARY FOLDER
#
# The library is that of an optimised build. All that is made is in the folder, and its `run` starts the program.
set -eu

usage="usage: $0 LANGUAGE LIBRARY FOLDER"
language=${1:?"$usage"}
library=$(realpath "${2:?"$usage"}")
folder=${3:?"$usage"}
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
rm -rf "$folder"
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

run() {
    printf '#!/bin/sh\nexec %s "$@"\n' "$1" > "$folder/run"
    chmod +x "$folder/run"
}

case $language in
c)
    cc -std=c11 -D_DEFAULT_SOURCE -O2 -Wall -Wextra -I"$root/include" "$here/bench.c" \
        -o "$folder/bench" "$library" -lm -ldl -lpthread
    run "'$folder/bench'"
    ;;
python)
    mkdir "$folder/dwcp"
    cp "$root"/bindings/python/dwcp/*.py "$folder/dwcp"
    cp "$library" "$folder/dwcp/_dwcp.abi3.so"
    run "env PYTHONPATH='$folder' ${PYTHON:-python3} '$here/bench.py'"
    ;;
node)
    package=$root/bindings/node
    [ -e "$package/node_modules/typescript" ] ||
        (cd "$package" && npm ci --ignore-scripts --loglevel=error)
    node "$package/node_modules/typescript/bin/tsc" -p "$package" --outDir "$folder/dist"
    cp "$package/package.json" "$folder"
    cp "$library" "$folder/dwcp.linux-x64-gnu.node"
    run "node '$here/bench.mjs' '$folder/dist/index.js'"
    ;;
go)
    target=${CARGO_TARGET_DIR:-$root/target}
    GOROOT=$(sh "$root/bindings/go/toolchain.sh")
    export GOROOT
    PATH=$GOROOT/bin:$PATH
    export PATH
    export GOFLAGS=-mod=mod GOPROXY=off GOTOOLCHAIN=local GOTELEMETRY=off CGO_ENABLED=1
    export GOCACHE=$target/go-cache GOPATH=$target/go-path
    # A copy: the package's own archive is that of its tests.
    mkdir -p "$folder/sdk/lib/linux_amd64" "$folder/program"
    cp "$root"/bindings/go/*.go "$root/bindings/go/go.mod" "$root/bindings/go/dwcp.h" "$folder/sdk"
    rm "$folder"/sdk/*_test.go
    cp "$library" "$folder/sdk/lib/linux_amd64/libdwcp.a"
    cp "$here/go/main.go" "$folder/program"
    sed 's|=> .*|=> ../sdk|' "$here/go/go.mod" > "$folder/program/go.mod"
    (cd "$folder/program" && go build -o "$folder/bench" .)
    run "'$folder/bench'"
    ;;
*)
    echo "there is no language '$language'" >&2
    exit 2
    ;;
esac
