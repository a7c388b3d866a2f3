#!/usr/bin/env bash
# Trains a 20-class model on CIFAR-100's 20 superclasses, from random initialization, and packs the result.
#
#   examples/cifar100/train.sh CIFAR100 RUNS
#
# CIFAR100 contains train.tar and test.tar, and RUNS is the output folder. Run the script again to resume. Set MODEL to
# mnv2zoo_050_c20 or mnv2zoo_140_c20 for another width. Set START to continue from weights, such as mnv2zoo_100_c20, the
# bundled ones, or from the folder of a run. Set ALL=1 to train on the held-out tenth too, when the recipes are final. Then no
# best epoch is chosen, and metrics on these images are meaningless. Arguments after RUNS, such as --device cuda
# --precision bf16, apply to each run.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
cifar100=$1 runs=$2 model=${MODEL:-mnv2zoo_100_c20}
shift 2
options=("$@")

# Memory in huge pages takes the processor less time to find.
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1

[ -e "$runs/data/all/coarse/test.tar" ] || python "$here/split.py" "$cifar100" "$runs/data"
train() {
    mnv2zoo finetune "$runs/data/${ALL:+all/}$1" --model "$2" --recipe "$here/$3.toml" ${ALL:+--keep last} \
        --out "$runs/$3" --resume "${options[@]}"
}

if [ -z "${START:-}" ]; then
    features=fine
    train fine "$model" fine
else
    features=further
    train fine "$START" further
fi
train coarse "$runs/$features" coarse
train coarse "$runs/coarse" superclasses
mnv2zoo weights pack "$runs/superclasses" --name "$model.cifar100_coarse" --license Apache-2.0 --description \
    "CIFAR-100's 20 superclasses, from random initialization; CIFAR-100 names no license: free for research with citation"
