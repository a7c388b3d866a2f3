#!/usr/bin/env bash
# Trains mnv2zoo_100 on the Grocery Store photos in three ways, and once more with the validation photos.
#
#   examples/grocery/train.sh GROCERY WEIGHTS RUNS
#
# GROCERY contains train.tar, val.tar and test.tar, WEIGHTS is Google's model.safetensors, and RUNS is the output folder.
# Run the script again to resume.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
grocery=$(realpath "$1") weights=$2 runs=$3

mnv2zoo finetune "$grocery" --recipe "$here/head.toml" --init "$weights" --out "$runs/head" --resume
for way in partial full; do
    mnv2zoo finetune "$grocery" --model "$runs/head" --recipe "$here/$way.toml" --out "$runs/$way" --resume
done

# The values were chosen on the validation photos by now, so these can be learned from as well. They choose no epoch then.
both=$runs/both
mkdir -p "$both/training"
tar -xf "$grocery/val.tar" --strip-components=1 -C "$both/training"
ln -sf "$grocery"/{train,val,test}.tar "$both"
mnv2zoo finetune "$both" --model "$runs/head" --recipe "$here/full.toml" --keep last --out "$runs/all" --resume

python "$here/results.py" "$grocery" head="$runs/head" partial="$runs/partial" full="$runs/full" all="$runs/all"
