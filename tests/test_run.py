"""`python -m mnv2zoo.run SCRIPT`: scripts in the manner of timm's own `train.py` and `validate.py` take our names."""

import os
import subprocess
import sys

import pytest
from PIL import Image

# What timm's train.py does between its arguments and its first step, and validate.py after it, in their words.
SCRIPT = """
import argparse, sys
import torch
from torch.nn.parallel import DistributedDataParallel
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.models import create_model, resolve_model_input_args
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3, accuracy, distribute_bn, init_distributed_device
import neighbor

parser = argparse.ArgumentParser()
parser.add_argument("--data-dir")
parser.add_argument("--model")
parser.add_argument("--device", default="cpu")
for name, default in (("in_chans", None), ("num_classes", None), ("input_size", None), ("img_size", None)):
    parser.add_argument("--" + name.replace("_", "-"), type=int, default=default)
args = parser.parse_args()


def main():
    device = init_distributed_device(args)
    model = create_model(
        **resolve_model_input_args(args.model, vars(args), pretrained=False, num_classes=args.num_classes),
        drop_rate=0.1, drop_path_rate=None, drop_block_rate=None, global_pool=None, bn_momentum=None, bn_eps=None,
        scriptable=False, checkpoint_path="",
    ).to(device)
    config = resolve_data_config(vars(args), model=model)
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.01, weight_decay=1e-4, layer_decay=0.9)
    ema = ModelEmaV3(model, decay=0.9)
    if args.distributed:
        model = DistributedDataParallel(model)

    def loader(is_training):
        dataset = create_dataset("", root=args.data_dir, split="train", is_training=is_training)
        return create_loader(dataset, (3, 64, 64), 2, is_training=is_training, use_prefetcher=False, num_workers=1,
                             distributed=args.distributed, mean=config["mean"], std=config["std"], device=device)

    for images, classes in loader(True):
        torch.nn.functional.cross_entropy(model(images), classes).backward()
        optimizer.step()
        ema.update(model)
    if args.distributed:
        distribute_bn(model, args.world_size, True)
    with torch.inference_mode():
        top1 = [accuracy(ema.module.eval()(images), classes)[0].item() for images, classes in loader(False)]
    print("rank", args.rank, "of", args.world_size, args.model, "batches", len(top1), neighbor.WORD, flush=True)
    if args.distributed:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
    sys.exit(3)
"""


@pytest.fixture
def arguments(tmp_path):
    """The words behind `-m mnv2zoo.run`: a script with a module beside it, and eight photos in two classes."""
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "neighbor.py").write_text("WORD = 'hello'")
    for number in range(8):
        image = tmp_path / "data" / "train" / "ab"[number % 2] / f"{number}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (80, 70), (30 * number, 0, 200)).save(image)
    words = ("--data-dir", tmp_path / "data", "--model", "mnv2zoo_050", "--num-classes", "2")
    return [str(word) for word in (tmp_path / "train.py", *words)]


def run(*words):
    env = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return subprocess.run([sys.executable, "-m", *words], env=env, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_training_script_takes_our_names(arguments):
    done = run("mnv2zoo.run", *arguments)
    assert "rank 0 of 1 mnv2zoo_050 batches 4 hello" in done.stdout, done.stderr
    assert done.returncode == 3


@pytest.mark.slow
def test_it_does_so_under_torchrun(arguments):
    done = run("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "mnv2zoo.run", *arguments)
    for rank in (0, 1):
        assert f"rank {rank} of 2 mnv2zoo_050 batches 2 hello" in done.stdout, done.stderr
    assert "exitcode  : 3" in done.stderr


@pytest.mark.slow
def test_a_script_that_is_not_there_is_bad_usage(tmp_path):
    done = run("mnv2zoo.run", str(tmp_path / "none.py"))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: no such file: {tmp_path / 'none.py'}")
