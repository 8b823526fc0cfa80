#!/usr/bin/env bash
# Install PyTorch into the environment of the given interpreter: the CPU build unless an NVIDIA GPU answers.
# On Linux, plain `pip install torch` brings several GB of CUDA libraries, which a machine without a GPU never uses.
# Usage: scripts/install_torch.sh path/to/python
set -euo pipefail

version=2.13.0  # the release that the tables in docs/ were made with
cpu_index=https://download.pytorch.org/whl/cpu
python=${1:?usage: scripts/install_torch.sh path/to/python}

pip() { "$python" -m pip --disable-pip-version-check "$@"; }

if "$python" -c 'import torch' 2>/dev/null; then
    exit 0
fi
if [ "$(uname -s)" != Linux ]; then
    echo "Installing PyTorch $version"
    pip install "torch==$version"
elif command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
    echo "Installing PyTorch $version with CUDA, for the GPU that nvidia-smi lists"
    pip install "torch==$version"
elif pip install --no-index --no-deps "torch==$version+cpu" >/dev/null 2>&1; then
    echo "Installed PyTorch $version for the CPU from a folder of wheels in pip's configuration"
elif pip install --dry-run --no-deps --retries 0 --timeout 15 --index-url "$cpu_index" \
    "torch==$version+cpu" >/dev/null 2>&1; then
    echo "Installing PyTorch $version for the CPU"
    # Without its dependencies: those come from the usual index, together with the rest of the project's.
    pip install --no-deps --index-url "$cpu_index" "torch==$version+cpu"
else
    echo "No CPU build of PyTorch $version at $cpu_index (not reachable, or not made for this Python);"
    echo "installing the usual build instead, which on Linux is several GB"
    pip install "torch==$version"
fi
