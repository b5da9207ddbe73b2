#!/usr/bin/env bash
# Unpacks the Triton server from the nvidia-pytriton wheel, and creates the Python environment its models run in.
# Usage: infra/triton/install.sh [FOLDER]   (default: $KEEL_TRITON_HOME, else .serving in the checkout that contains it)
# PYTHON names the interpreter. A stamp holds the hash of the folder's inputs: a second run does nothing.
#
#   FOLDER/triton/pytriton/tritonserver/   server, python backend, and the stub for this Python
#   FOLDER/triton/nvidia_pytriton.libs/    the server's libraries, found next to pytriton/ by its RPATH
#   FOLDER/venv/                           numpy < 2 (with numpy 2 the stub returns 0 bytes) and onnxruntime
#   FOLDER/lib/libpython3.11.so.1.0        the interpreter as a library, which the stub is linked against
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
target=${1:-${KEEL_TRITON_HOME:-$root/.serving}}
wheel=nvidia-pytriton==0.7.0
wheel_sha256=21f063ff93bb426d0c06b7a55e7eb9efcfe62c0dddd9a908e9877e18710128df
numpy=numpy==1.26.4
needed_mb=900

say() { printf '%s\n' "$*" >&2; }
fail() { say "Triton set-up stopped: $*"; exit 1; }

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" "$root/.boot/bin/python" python3.11 python3; do
        if ! command -v "${candidate:-none-given}" >/dev/null 2>&1; then continue; fi
        if [ "$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = 3.11 ]; then
            command -v "$candidate"
            return
        fi
    done
    fail "Python 3.11 was not found. Install it, on Debian 12 with 'apt-get install python3.11 python3.11-venv', or name one: PYTHON=/path/to/python3.11."
}

check_machine() {
    [ "$(uname -sm)" = "Linux x86_64" ] ||
        fail "the wheel contains a server for Linux on x86_64, but this machine is $(uname -sm). Run Triton from its container and set KEEL_TRITON_GRPC=host:port."
    local free_mb
    mkdir -p "$target"
    free_mb=$(df -Pk "$target" | awk 'NR==2 {printf "%d", $4/1024}')
    [ "$free_mb" -ge "$needed_mb" ] || fail "the server and its environment need $needed_mb MB and $target has $free_mb MB free."
}

library_of_python() { # prints the path of libpython3.11.so.1.0, or an empty line
    "$python" - <<'PYTHON'
import pathlib, sys, sysconfig

folders = (sysconfig.get_config_var("LIBDIR"), f"{sys.base_prefix}/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/local/lib")
paths = (pathlib.Path(f) / "libpython3.11.so.1.0" for f in folders if f)
print(next((str(p) for p in paths if p.is_file()), ""))
PYTHON
}

link_library() {
    local library
    library=$(library_of_python)
    if [ -z "$library" ]; then
        if ! command -v apt-get >/dev/null 2>&1 || [ "$(id -u)" != 0 ]; then
            fail "libpython3.11.so.1.0 is missing, which Triton's Python backend is linked against. Install the package libpython3.11 (on Debian: apt-get install libpython3.11) and run this again."
        fi
        say "installing libpython3.11 (Triton's Python backend is linked against it)"
        { apt-get install -y -qq libpython3.11 || { apt-get update -qq && apt-get install -y -qq libpython3.11; }; } >/dev/null 2>&1 ||
            fail "apt-get could not install libpython3.11. Is the network up? Run 'apt-get update && apt-get install libpython3.11' to see why."
        library=$(library_of_python)
        [ -n "$library" ] || fail "libpython3.11 was installed, but libpython3.11.so.1.0 is not in any of the usual folders; 'dpkg -L libpython3.11' lists where it is."
    fi
    mkdir -p "$target/lib"
    ln -sfn "$library" "$target/lib/libpython3.11.so.1.0"
}

unpack_server() {
    local download=$target/download server=$target/triton/pytriton/tritonserver
    rm -rf "$target/triton" "$download"
    mkdir -p "$target/triton" "$download"
    printf '%s --hash=sha256:%s\n' "$wheel" "$wheel_sha256" > "$download/requirements.txt"
    "$pip_python" -m pip download -q --no-deps --only-binary=:all: --require-hashes -d "$download" -r "$download/requirements.txt" ||
        fail "pip could not fetch $wheel (55 MB). Is the package index reachable from here? The server needs glibc 2.35 or newer (Debian 12, Ubuntu 22.04)."
    "$python" -m zipfile -e "$download"/nvidia_pytriton-*.whl "$target/triton"
    rm -rf "$download"
    cp "$server/python_backend_stubs/3.11/triton_python_backend_stub" "$server/backends/python/"
    rm -rf "$server/python_backend_stubs"
    chmod +x "$server/bin/tritonserver" "$server/backends/python/triton_python_backend_stub"
}

make_environment() {
    rm -rf "$target/venv"
    if [ -x "$root/.boot/bin/uv" ]; then
        if [ -z "${UV_FIND_LINKS:-}" ] && [ -d "${PIP_FIND_LINKS:-}" ]; then export UV_FIND_LINKS=$PIP_FIND_LINKS; fi
        "$root/.boot/bin/uv" venv -q --python "$python" "$target/venv"
        "$root/.boot/bin/uv" pip install -q --python "$target/venv/bin/python" "$numpy" "$onnxruntime" || fail "$why_no_packages"
    else
        "$python" -m venv "$target/venv" || fail "Python's venv module is missing (on Debian: apt-get install python3.11-venv)."
        "$target/venv/bin/python" -m pip install -q "$numpy" "$onnxruntime" || fail "$why_no_packages"
    fi
}

prove() {
    "$target/venv/bin/python" -c 'import numpy, onnxruntime; assert numpy.__version__ < "2"' ||
        fail "numpy and onnxruntime do not load together in $target/venv; remove $target and run this again."
    local file missing server=$target/triton/pytriton/tritonserver
    for file in "$server/bin/tritonserver" "$server/backends/python/triton_python_backend_stub"; do
        missing=$(LD_LIBRARY_PATH=$target/lib ldd "$file" 2>&1 | grep 'not found' | head -n 1 | xargs || true)
        [ -z "$missing" ] || fail "a library that $(basename "$file") needs is missing: $missing"
    done
}

python=$(find_python)
pip_python=$target/venv/bin/python # a virtual environment has its own pip, a system Python may not
if [ -x "$root/.boot/bin/python" ]; then pip_python=$root/.boot/bin/python; fi
# the same runtime as in process, so that both return the same bits
onnxruntime=$(grep '^onnxruntime==' "$root/constraints.txt") || fail "constraints.txt does not pin onnxruntime."
why_no_packages="$numpy and $onnxruntime could not be installed into $target/venv. Is the package index reachable from here?"
stamp=$({ cat "${BASH_SOURCE[0]}"; echo "$onnxruntime"; "$python" -VV; } | sha256sum | cut -c1-64)
if [ "$(cat "$target/installed" 2>/dev/null)" = "$stamp" ]; then exit 0; fi
check_machine
say "unpacking the Triton server into $target"
rm -f "$target/installed"
link_library
make_environment
unpack_server
prove
printf '%s' "$stamp" > "$target/installed"
