#!/usr/bin/env bash
# Write requirements.lock: one version of every package of the extra `all`, with the hashes of its files.
# PyTorch is left out, with the CUDA libraries of its usual build: which build is right depends on the machine
# (scripts/install_torch.sh). Needs uv. Usage: scripts/lock.sh [--upgrade]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

uv=${UV:-uv}
"$uv" pip compile pyproject.toml --extra all --universal --python-version 3.11 --generate-hashes --no-emit-package torch \
    --excludes <(printf '%s\n' triton cuda-bindings cuda-toolkit nvidia-{cublas,cudnn-cu13,cusparselt-cu13,nccl-cu13,nvshmem-cu13}) \
    --output-file requirements.lock --custom-compile-command "make lock" --quiet "$@"
