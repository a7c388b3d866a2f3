#!/usr/bin/env bash
# Composes scenes from the Grocery Store photos, trains the classifier of mnv2zoo_100 on them with two losses, and
# measures both.
#
#   examples/multilabel/train.sh GROCERY WEIGHTS OUT
#
# GROCERY contains train.tar, val.tar, test.tar and classes.csv, WEIGHTS is Google's model.safetensors, and OUT is the
# folder for scenes and runs. Takes a few minutes on one core. Run the script again to resume.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
grocery=$1 weights=$(realpath "$2") out=$3

[ -d "$out/scenes" ] || python "$here/scenes.py" "$grocery" "$out/scenes"
for loss in bce asymmetric; do
    mnv2zoo finetune "$out/scenes" --recipe "$here/head.toml" --init "$weights" --loss $loss --out "$out/$loss" --resume
done
python "$here/results.py" bce="$out/bce" asymmetric="$out/asymmetric"
