#!/usr/bin/env bash
# Trains mnv2zoo_100_c20 on CIFAR-100's 20 superclasses, and packs the result.
#
#   examples/cifar100/train.sh CIFAR100 WEIGHTS RUNS
#
# CIFAR100 holds train.tar and test.tar, WEIGHTS is Google's model.safetensors, from which the teacher starts, and RUNS
# takes the runs. What was interrupted goes on where it stopped. START names weights to go on from, such as those that the
# package has, in place of a first training from random ones.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
cifar100=$1 weights=$2 runs=$3

[ -e "$runs/data/coarse/test.tar" ] || python "$here/split.py" "$cifar100" "$runs/data"
train() {
    mnv2zoo finetune "$runs/data/$1" --model "$2" --recipe "$here/$3.toml" --out "$runs/$4" --resume "${@:5}"
}

# Two teachers: of the 100 fine classes, and of the superclasses.
train fine mnv2zoo_100 teacher teacher --init "$weights"
train coarse "$runs/teacher" coarse teacher-coarse

# The network: on the fine classes alone, then with their teacher, then on the superclasses with theirs.
if [ -z "${START:-}" ]; then
    train fine mnv2zoo_100_c20 fine fine
    START=$runs/fine
fi
train fine "$START" further further --teacher "$runs/teacher"
train coarse "$runs/further" coarse head
train coarse "$runs/head" superclasses coarse --teacher "$runs/teacher-coarse"
mnv2zoo weights pack "$runs/coarse" --name mnv2zoo_100_c20.cifar100_coarse --license Apache-2.0 --description \
    "CIFAR-100's 20 superclasses, from random initialisation, with a teacher that knew ImageNet; CIFAR-100 names no licence: free for research with citation"
