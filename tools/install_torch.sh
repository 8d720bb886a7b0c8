#!/usr/bin/env bash
# Install the build of torch that fits this machine: CUDA's where an NVIDIA GPU answers, else the CPU's.
# Usage: install_torch.sh PYTHON VERSION CPU_INDEX
#
# The public package index has the CUDA build under the plain version number, so without a GPU the index of CPU builds is
# asked first, for ten seconds at most: in a network that reaches only its own index, that one decides.
set -euo pipefail
python=$1 version=$2 cpu_index=$3

has_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; }
install() { "$python" -m pip --disable-pip-version-check install -q "$@" "torch==$version"; }
found() { "$python" -c "import importlib.metadata as m; print(m.version('torch').split('+')[0] == '$version')" 2>/dev/null; }
answers() {
    [ -n "$cpu_index" ] && timeout 10 "$python" - "$cpu_index" "$version" 2>/dev/null <<'PYTHON'
import sys, urllib.request
page = urllib.request.urlopen(sys.argv[1].rstrip("/") + "/torch/", timeout=5).read().decode()
sys.exit(f"torch-{sys.argv[2]}" not in page)
PYTHON
}

if [ "$(found)" = True ]; then
    exit 0
fi
if has_gpu; then
    install
    exit 0
fi
if answers; then
    install --index-url "$cpu_index"
else
    install
fi
cuda=$("$python" -W ignore -c 'import torch; print(torch.version.cuda or "")')
if [ -n "$cuda" ]; then
    echo "note: torch $version is the CUDA $cuda build although no NVIDIA GPU was found: neither ${cpu_index:-an index of CPU builds}" \
        "nor the configured index gave a CPU build. It works; make clean setup TORCH_INDEX=<address> takes another index."
fi
