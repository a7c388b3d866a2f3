"""Steps that fail: out of memory, without a deterministic algorithm, without a compiler."""

import pytest
import torch

import mnv2zoo
from mnv2zoo.errors import RunError
from mnv2zoo.tasks.classify import Classify
from mnv2zoo.tasks.detect import Detect
from mnv2zoo.tasks.recipe import Recipe
from mnv2zoo.training import failures
from tests.photos import QUICK
from tests.tasks.detect import scenes
from tests.training.runs import MODEL

STEP = {**QUICK, "epochs": 1}


class Small(Classify):
    """Classification on a device whose memory holds five images."""

    def training_step(self, model, inputs, targets):
        loss = super().training_step(model, inputs, targets)
        if len(inputs) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore of it.")
        assert len(targets) == len(inputs)
        return loss


class SmallDetect(Detect):
    """Detection on such a device."""

    def training_step(self, model, inputs, targets):
        if len(inputs) > 5:
            raise torch.OutOfMemoryError("out of memory")
        assert len(targets) == len(inputs)
        return super().training_step(model, inputs, targets)


class Tiny(Classify):
    """Classification on a device whose memory holds nothing."""

    def training_step(self, model, inputs, targets):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.")


def test_out_of_memory_names_the_batch_that_fits_and_leaves_no_new_run(photos, tmp_path):
    with pytest.raises(RunError) as error:
        mnv2zoo.finetune(photos, MODEL, tmp_path / "run", task=Small, device="cpu", **STEP)
    assert error.value.problem == "the device is out of memory"
    assert error.value.expected == "--batch-size 4: 4 images fit in memory"
    assert error.value.found == "CUDA out of memory. Tried to allocate 2.00 GiB."
    assert error.value.where == "epoch 1, step 1, on cpu"
    assert "--batch-size 4 --accumulate 2" in error.value.fix
    assert not (tmp_path / "run").exists()
    result = mnv2zoo.finetune(photos, MODEL, tmp_path / "run", task=Small, **{**STEP, "batch_size": 4, "accumulate": 2})
    assert result.epoch == 1


def test_lists_of_images_are_tried_in_parts_too(tmp_path):
    data = scenes.fill_coco(tmp_path / "cells", 6, 2)
    values = {**scenes.QUICK, "epochs": 1, "batch_size": 6, "task": SmallDetect}
    with pytest.raises(RunError) as error:
        mnv2zoo.finetune(data, MODEL, tmp_path / "run", **values)
    assert error.value.expected == "--batch-size 3: 3 images fit in memory"


def test_the_checkpoint_of_a_run_that_ran_out_of_memory_is_resumed(photos, tmp_path):
    whole = mnv2zoo.finetune(photos, MODEL, tmp_path / "whole", **{**STEP, "epochs": 2})
    steps = []

    class Shrinking(Classify):
        name = "classify"

        def training_step(self, model, inputs, targets):
            steps.append(len(inputs))
            if len(steps) == 3:
                raise torch.OutOfMemoryError("out of memory")
            return super().training_step(model, inputs, targets)

    with pytest.raises(RunError, match="out of memory"):
        mnv2zoo.finetune(photos, MODEL, tmp_path / "run", task=Shrinking(), checkpoint_steps=1, **{**STEP, "epochs": 2})
    assert steps == [8, 8, 8, 4]
    again = mnv2zoo.finetune(photos, out=tmp_path / "run", resume=True)
    assert again.history[-1]["train_loss"] == whole.history[-1]["train_loss"]


def test_memory_that_holds_no_two_images_asks_for_smaller_ones(photos, tmp_path):
    with pytest.raises(RunError) as error:
        mnv2zoo.finetune(photos, MODEL, tmp_path / "run", task=Tiny, **STEP)
    assert error.value.problem == "the device is out of memory, even for two images"
    assert "--input-size" in error.value.fix


def test_several_processes_are_told_of_half_of_the_batch():
    found = failures.out_of_memory(torch.OutOfMemoryError("full"), Recipe(batch_size=64), 2, "epoch 1")
    assert found.expected == "--batch-size 32: 16 images may fit in memory"
    assert "--batch-size 32 --accumulate 2" in found.fix


def test_mixed_images_come_in_pairs():
    recipe = Recipe(batch_size=12, mixup=0.2)
    found = failures.out_of_memory(torch.OutOfMemoryError("full"), recipe, 1, "", lambda count: None)
    assert found.expected == "--batch-size 6: 6 images fit in memory"
    recipe = Recipe(batch_size=14, mixup=0.2)
    found = failures.out_of_memory(torch.OutOfMemoryError("full"), recipe, 1, "", lambda count: None)
    assert found.expected == "--batch-size 6: 6 images fit in memory"


def test_an_operation_without_a_deterministic_algorithm_is_named():
    error = RuntimeError("nll_loss2d does not have a deterministic implementation, but you set it.\nMore.")
    found = failures.explained(error, Recipe(deterministic=True), "epoch 1")
    assert found.found == "nll_loss2d does not have a deterministic implementation, but you set it."
    assert failures.explained(error, Recipe(), "epoch 1") is None
    assert failures.explained(RuntimeError("anything else"), Recipe(deterministic=True), "epoch 1") is None


def test_a_compiler_that_is_missing_is_named():
    from torch._inductor.exc import InvalidCxxCompiler

    found = failures.explained(InvalidCxxCompiler(), Recipe(compile=True), "epoch 1")
    assert found.problem == "torch.compile failed to compile the model"
    assert failures.explained(InvalidCxxCompiler(), Recipe(), "epoch 1") is None
