#!/bin/sh
# Prepares Go and runs all that belongs to the Go package:
#
#     bindings/go/test.sh PATH_OF_libdwcp.a
#
# The archive is that of `cargo build -p dwcp-ffi`, or of
# `cargo rustc -p dwcp-ffi --release --crate-type staticlib`. toolchain.sh says which go is used; QUICK=1
# leaves out the race detector, the repetitions and the story on KVM.
set -eu

archive=$(realpath "${1:?"usage: $0 PATH_OF_libdwcp.a"}")
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}

step() { printf '\n== %s\n' "$*"; }

step "go"
. "$here/toolchain.sh"
go version

step "the archive"
mkdir -p "$here/lib/linux_amd64"
cmp -s "$archive" "$here/lib/linux_amd64/libdwcp.a" || cp "$archive" "$here/lib/linux_amd64/libdwcp.a"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

step "the testee and the story, for the judge"
mkdir -p "$target/go"
(cd "$root/bindings/conformance/testees/go" && go build -o "$target/go/testee" .)
(cd "$root/examples/go" && go build -o "$target/go/story" ./story)

step "format and vet"
cd "$root"
unformatted=$(gofmt -l bindings/go bindings/conformance/testees/go examples/go benches/bindings/go)
[ -z "$unformatted" ] || { echo "not formatted: $unformatted"; exit 1; }
for module in bindings/go bindings/conformance/testees/go examples/go benches/bindings/go; do
    (cd "$module" && go vet ./...)
done

step "tests"
cd "$here"
go test -count=1 ./...
GOEXPERIMENT=cgocheck2 go test -count=1 -short ./...

step "from an empty module, with the archive in the package"
empty() {
    dir=$scratch/$1
    mkdir "$dir"
    cat > "$dir/go.mod" <<EOF
module empty

go 1.21

require github.com/novacron/dwcp-sdk-go v0.0.0

replace github.com/novacron/dwcp-sdk-go => $2
EOF
    cat > "$dir/main.go" <<'EOF'
package main

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/novacron/dwcp-sdk-go"
)

func main() {
	node, err := dwcp.StartNode(context.Background(), dwcp.NodeConfig{Name: "empty", Backend: "sim"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(node.Name(), dwcp.Version())
	if err := node.Shutdown(context.Background(), time.Second); err != nil {
		log.Fatal(err)
	}
}
EOF
}
empty static "$here"
(cd "$scratch/static" && go run .)

step "from an empty module, with pkg-config"
# A copy of the package without the archive, so that only pkg-config can find it.
mkdir -p "$scratch/package" "$scratch/prefix/lib" "$scratch/prefix/include"
cp "$here"/*.go "$here/go.mod" "$here/dwcp.h" "$scratch/package"
ln -s "$archive" "$scratch/prefix/lib/libdwcp.a"
cp "$root/include/dwcp.h" "$scratch/prefix/include"
cat > "$scratch/prefix/dwcp.pc" <<EOF
prefix=$scratch/prefix
Name: dwcp
Description: VMs on KVM, moved live
Version: 3.0.0
Cflags: -I\${prefix}/include
Libs: -L\${prefix}/lib -ldwcp -lm -ldl -lpthread
EOF
empty pkgconfig "$scratch/package"
(
    cd "$scratch/pkgconfig"
    if go build -o none . 2> "$scratch/none.log"; then
        echo "it was linked without a library"; exit 1
    fi
    PKG_CONFIG_PATH=$scratch/prefix go run -tags dwcp_pkgconfig .
)

step "the snippets of the guide"
cd "$root/examples/go"
go test -count=1 ./...

step "the story"
go build -o "$scratch/story" ./story
DWCP_BACKEND=sim "$scratch/story" > "$scratch/sim.log" || { cat "$scratch/sim.log"; exit 1; }
tail -n 1 "$scratch/sim.log"
if [ -z "${QUICK:-}" ] && [ -e /dev/kvm ]; then
    DWCP_BACKEND=kvm "$scratch/story" > "$scratch/kvm.log" || { cat "$scratch/kvm.log"; exit 1; }
    tail -n 3 "$scratch/kvm.log"
fi

if [ -z "${QUICK:-}" ]; then
    step "the race detector"
    cd "$here"
    go test -count=1 -race -short ./...
    step "fifty times"
    go test -count=50 -short ./...
fi

step "ok"
