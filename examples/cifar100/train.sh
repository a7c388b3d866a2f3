#!/usr/bin/env bash
# Trains mnv2zoo_100_c20 on CIFAR-100's 20 superclasses, from random initialisation, and packs the result.
#
#   examples/cifar100/train.sh CIFAR100 RUNS
#
# CIFAR100 holds train.tar and test.tar, RUNS takes the runs. What was interrupted goes on where it stopped.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
cifar100=$1 runs=$2

[ -e "$runs/data/coarse/test.tar" ] || python "$here/split.py" "$cifar100" "$runs/data"
mnv2zoo finetune "$runs/data/fine" --model mnv2zoo_100_c20 --recipe "$here/fine.toml" --out "$runs/fine" --resume
mnv2zoo finetune "$runs/data/coarse" --model "$runs/fine" --recipe "$here/coarse.toml" --out "$runs/coarse" --resume
mnv2zoo weights pack "$runs/coarse" --name mnv2zoo_100_c20.cifar100_coarse --license Apache-2.0 --description \
    "CIFAR-100's 20 superclasses, from random initialisation; CIFAR-100 names no licence: free for research with citation"
