#!/usr/bin/env bash
# Trains mnv2zoo_100_c20 on CIFAR-100's 20 superclasses, from random initialization, and packs the result.
#
#   examples/cifar100/train.sh CIFAR100 RUNS
#
# CIFAR100 contains train.tar and test.tar, and RUNS is the output folder. Run the script again to resume. Set START to
# initial weights that replace the first run, such as mnv2zoo_100_c20, the bundled ones. Set ALL=1 to train on the
# held-out tenth too, when the recipes are final. Then no best epoch is chosen, and metrics on these images are
# meaningless.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
cifar100=$1 runs=$2

# Memory in huge pages takes the processor less time to find.
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1

[ -e "$runs/data/all/coarse/test.tar" ] || python "$here/split.py" "$cifar100" "$runs/data"
train() {
    mnv2zoo finetune "$runs/data/${ALL:+all/}$1" --model "$2" --recipe "$here/$3.toml" ${ALL:+--keep last} \
        --out "$runs/$3" --resume
}

if [ -z "${START:-}" ]; then
    train fine mnv2zoo_100_c20 fine
    START=$runs/fine
fi
train fine "$START" further
train coarse "$runs/further" coarse
train coarse "$runs/coarse" superclasses
mnv2zoo weights pack "$runs/superclasses" --name mnv2zoo_100_c20.cifar100_coarse --license Apache-2.0 --description \
    "CIFAR-100's 20 superclasses, from random initialization; CIFAR-100 names no license: free for research with citation"
