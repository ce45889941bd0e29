#!/usr/bin/env bash
# What only a GPU can show: see fwp_rl/bench/gpu.py, whose flags these are.
cd "$(dirname "$0")/.." && exec "${PYTHON:-python3}" -m fwp_rl.bench.gpu "$@"
