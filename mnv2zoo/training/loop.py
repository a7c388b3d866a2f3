"""Fine-tuning, in the order in which things happen.

Devices and processes are Hugging Face Accelerate's; optimizers, schedules, augmentation and the moving
average are timm's. What is decided at random depends on the seed, the epoch and the step alone, so that a
run that was interrupted anywhere ends as if it had not been.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.state import AcceleratorState
from PIL import Image
from timm.data import create_transform
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mnv2zoo.errors import DataError, RecipeError, RunError
from mnv2zoo.training import data as data_module
from mnv2zoo.training import finish, memory, report
from mnv2zoo.training import split as splits
from mnv2zoo.training import start as start_module
from mnv2zoo.training.data import Batches, Data, Photos, derive_seed, seed_everything
from mnv2zoo.training.folder import RunFolder
from mnv2zoo.training.head import Head, cache_features
from mnv2zoo.training.ingredients import (
    learning_rate,
    make_criterion,
    make_mixup,
    side_of_epoch,
    training_transform,
)
from mnv2zoo.training.log import Log
from mnv2zoo.training.metrics import Scores, score, worst_mistakes
from mnv2zoo.training.processes import give_way, on_main, predict, test_loader
from mnv2zoo.training.recipe import Recipe
from mnv2zoo.training.teacher import Teacher


@dataclass(frozen=True)
class FinetuneResult:
    """What a training gave.

    Attributes:
        run: The run folder, which `timm.create_model("local-dir:...")` and `mnv2zoo predict` read.
        model: The network with the weights that were kept, in evaluation mode.
        class_names: Names of its classes in class order.
        epoch: The epoch, from 1, that the weights are of.
        history: A row of figures an epoch.
        scores: Figures of the kept weights by `val` and `test`, as far as the data has these.
    """

    run: Path
    model: nn.Module
    class_names: tuple[str, ...]
    epoch: int
    history: list[dict[str, Any]]
    scores: Mapping[str, Scores]


def run(
    place: str | Path, model_name: str, out: str | Path, recipe: Recipe, resume: bool = False, log: Log | None = None
) -> FinetuneResult:
    """Trains a network; see `mnv2zoo.finetune`.

    Args:
        place: The data.
        model_name: The network.
        out: The run folder.
        recipe: How to train.
        resume: Go on with the run in the folder, if there is one.
        log: What is shown meanwhile.

    Returns:
        What the training gave.
    """
    AcceleratorState._reset_state()  # an earlier run in this process may have had another precision
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # said aloud, else Accelerate knows no processes on CPUs
        mixed_precision="bf16" if recipe.precision == "bf16" else "no",
        dataloader_config=DataLoaderConfiguration(split_batches=True, use_seedable_sampler=False),
        step_scheduler_with_optimizer=False,
    )
    if recipe.batch_size % accelerator.num_processes:
        raise RecipeError(
            "the batch does not divide",
            expected=f"a multiple of the {accelerator.num_processes} processes",
            found=recipe.batch_size,
            where="batch_size",
        )
    log = log or Log()
    log.active = accelerator.is_main_process
    folder = RunFolder(Path(out))
    on_main(accelerator, lambda: folder.open(resume))
    try:
        with memory.kept():
            return _run(accelerator, place, model_name, folder, recipe, log)
    finally:
        log.close()
        folder.close()


def _run(
    accelerator: Accelerator, place: str | Path, model_name: str, folder: RunFolder, recipe: Recipe, log: Log
) -> FinetuneResult:
    target, source = start_module.find(model_name, recipe)

    # Which images, in which classes.
    data = on_main(accelerator, lambda: prepare_data(place, model_name, folder, recipe, log))
    for note in data.notes:
        log.say(f"note: {note}")
    counts = ", ".join(f"{len(samples)} {split}" for split, samples in data.splits.items())
    log.say(f"{len(data.class_names)} classes; images: {counts}")

    # Which network, and what of it is trained.
    start = start_module.build(target, source, recipe, data.class_names, data.splits["train"])
    model = start.model
    frozen = start_module.freeze(model, recipe.train)
    if recipe.keep_statistics:
        frozen += start_module.norms(model)
    if recipe.loss_before_act:
        start_module.skip_last_activation_in_training(model)
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    log.say(
        f"{model_name} from {start.origin}: training {trained / 1e6:.2f} M of its parameters on {accelerator.device}"
    )
    lr = learning_rate(recipe)
    description = finish.describe_run(place, model_name, recipe, lr, start)
    on_main(accelerator, lambda: folder.write_json("recipe.json", description))

    # How images become batches. With the head alone, features take the place of images.
    test_transform = create_transform(**start.test_preprocessing)
    datasets: dict[str, Dataset[Any]] = {split: Photos(s, test_transform) for split, s in data.splits.items()}
    trainee: nn.Module = model
    if recipe.train == "head" and recipe.cache_features:
        for split in ("train", "val"):
            if split in datasets:
                datasets[split] = cache_features(accelerator, model, datasets[split], recipe, log)
        trainee, frozen = Head(model), []
    else:
        datasets["train"] = Photos(data.splits["train"], training_transform(start, recipe))
    workers = 0 if isinstance(trainee, Head) else recipe.workers
    batches = Batches(len(data.splits["train"]), recipe.batch_size, recipe.seed)
    loader = DataLoader(
        datasets["train"],
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=give_way if accelerator.device.type == "cpu" else None,
    )
    val_loader = test_loader(datasets["val"], recipe, workers) if "val" in datasets else None

    # How the weights change.
    optimizer = create_optimizer_v2(
        trainee,
        opt=recipe.opt,
        lr=lr,
        weight_decay=recipe.weight_decay,
        momentum=recipe.momentum,
        layer_decay=None if isinstance(trainee, Head) else recipe.layer_decay,
    )
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched=recipe.sched,
        num_epochs=recipe.epochs,
        warmup_epochs=min(recipe.warmup_epochs, recipe.epochs / 2),  # type: ignore[arg-type]  # a part of one will do
        warmup_lr=0.01 * lr,
        min_lr=recipe.min_lr * lr,
        step_on_epochs=False,
        updates_per_epoch=batches.steps,
    )
    mixup = make_mixup(recipe, len(data.class_names))
    criterion = make_criterion(recipe)
    teacher = None
    if recipe.teacher is not None:
        teacher = Teacher(recipe.teacher, data.class_names, recipe, start.preprocessing).to(accelerator.device)
    kept = trainee  # the weights that are evaluated: the moving average, where there is one
    ema = ModelEmaV3(trainee, decay=recipe.ema_decay, use_warmup=True) if recipe.ema_decay else None
    if ema is not None:
        kept = ema.module

    # Where an earlier process stopped.
    progress = Progress()
    checkpoint = folder.load_checkpoint()
    if checkpoint is not None:
        progress = Progress(**{name: checkpoint[name] for name in Progress.__annotations__})
        trainee.load_state_dict(checkpoint["trainee"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        if ema is not None:
            ema.module.load_state_dict(checkpoint["ema"])
        log.say(f"going on behind epoch {progress.epoch}, step {progress.step}")
    log.open_tensorboard(folder.path / "tensorboard", progress.epoch)

    def save() -> None:
        state = {**vars(progress), "trainee": trainee.state_dict(), "optimizer": optimizer.state_dict()}
        if ema is not None:
            state["ema"] = kept.state_dict()
        on_main(accelerator, lambda: folder.save_checkpoint(state))

    net, optimizer, loader = accelerator.prepare(trainee, optimizer, loader)
    val_loader = accelerator.prepare(val_loader) if val_loader is not None else None

    # The epochs.
    while progress.epoch < recipe.epochs:
        batches.epoch, batches.first = progress.epoch, progress.step
        start_module.set_training(net, frozen)
        began, epoch_images = time.monotonic(), len(batches) * recipe.batch_size
        side = side_of_epoch(recipe, progress.epoch, start.preprocessing["input_size"][-1])
        title = f"epoch {progress.epoch + 1}/{recipe.epochs}"
        with log.stage(title, epoch_images) as stage:
            for images, targets in loader:
                seed_everything(derive_seed(recipe.seed, progress.epoch, progress.step, accelerator.process_index, 1))
                scheduler.step_update(progress.epoch * batches.steps + progress.step)
                if images.ndim == 4 and side < images.shape[-1]:
                    images = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
                if mixup is not None:
                    images, targets = mixup(images, targets)
                if recipe.channels_last and images.ndim == 4:
                    images = images.contiguous(memory_format=torch.channels_last)
                logits = net(images)
                loss = criterion(logits, targets)
                if teacher is not None:
                    loss = torch.lerp(loss, teacher(images, logits), recipe.teacher_weight)
                accelerator.backward(loss)
                if recipe.clip_grad is not None:
                    accelerator.clip_grad_norm_(net.parameters(), recipe.clip_grad)
                optimizer.step()
                optimizer.zero_grad()
                progress.step += 1
                if ema is not None:
                    ema.update(trainee, progress.epoch * batches.steps + progress.step)
                progress.loss_sum += accelerator.reduce(loss.detach(), "mean").item()
                stage.advance(recipe.batch_size)
                if recipe.checkpoint_steps and progress.step % recipe.checkpoint_steps == 0:
                    save()

        seconds = time.monotonic() - began
        row: dict[str, Any] = {"epoch": progress.epoch + 1, "train_loss": progress.loss_sum / batches.steps}
        row |= {"lr": max(group["lr"] for group in optimizer.param_groups)}
        if not math.isfinite(row["train_loss"]):
            raise RunError(
                "the loss is no longer finite",
                found=row["train_loss"],
                where=f"epoch {row['epoch']}",
                fix="Begin a new run with a lower --lr, or with --clip-grad.",
            )
        if val_loader is not None:
            scores = score(*predict(accelerator, kept, val_loader), data.class_names)
            row |= {"val_loss": scores.loss, "val_top1": scores.top1, "val_top5": scores.top5}
        row |= {"images_per_second": epoch_images / seconds, "seconds": seconds}
        progress.history.append(row)
        is_best = row.get("val_top1", math.inf) > progress.best_top1 or recipe.keep == "last" or val_loader is None
        if is_best:
            progress.best_top1, progress.best_epoch = row.get("val_top1", math.inf), row["epoch"]
            progress.best = copy.deepcopy(kept.state_dict())
        progress.epoch, progress.step, progress.loss_sum = progress.epoch + 1, 0, 0.0
        save()
        on_main(accelerator, lambda: folder.write_rows("metrics.jsonl", progress.history))
        log.epoch(row, recipe.epochs)

    # What is kept, how good it is, and what is said about it.
    accelerator.unwrap_model(net, keep_fp32_wrapper=False)
    trainee.load_state_dict(progress.best)
    model.eval()
    outputs = {
        split: predict(
            accelerator, model, accelerator.prepare(test_loader(Photos(s, test_transform), recipe, recipe.workers))
        )
        for split, s in data.splits.items()
        if split != "train"
    }
    scores_of = {split: score(*output, data.class_names) for split, output in outputs.items()}

    def finish_run() -> None:
        finish.write_model(folder, model, start, data.class_names)
        finish.write_results(folder, progress.best_epoch, scores_of)
        folder.write("README.md", finish.card(model_name, model.config.name, start.origin, description, scores_of))
        for split in outputs:
            report_of_split(folder, split, progress, data, outputs[split], scores_of[split], log)

    on_main(accelerator, finish_run)
    for split, own in scores_of.items():
        log.say(f"{split}: top-1 {own.top1:.2f} %, top-5 {own.top5:.2f} %, of {own.images} images")
    log.say(f"weights of epoch {progress.best_epoch} are in {folder.path}")
    return FinetuneResult(folder.path, model, data.class_names, progress.best_epoch, list(progress.history), scores_of)


@dataclass
class Progress:
    """How far a training is, and what it has found; all of it is in the checkpoint."""

    epoch: int = 0  # epochs done
    step: int = 0  # steps done in the epoch after those
    loss_sum: float = 0.0  # over these steps
    best_epoch: int = 0
    best_top1: float = -1.0
    best: dict[str, Tensor] = field(default_factory=dict)  # the weights to keep
    history: list[dict[str, Any]] = field(default_factory=list)  # a row an epoch


def prepare_data(place: str | Path, model_name: str, folder: RunFolder, recipe: Recipe, log: Log) -> Data:
    """Finds the images, checks them and splits them; an interrupted run gets the split that it wrote."""
    data = data_module.find(place, layout=recipe.images())
    if "train" not in data.splits:
        raise DataError(
            "no images to train on", expected="a folder named train", found=", ".join(data.splits), where=place
        )
    if (folder.path / "split.json").exists():
        return data_module.restrict(data, folder.read_json("split.json"))
    with log.stage("checking images", sum(map(len, data.splits.values()))) as stage:
        data = data_module.check(data, recipe.skip_bad_images, stage.advance)
    start = {"pretrained": model_name, "random": None}.get(recipe.init, recipe.init)
    known = splits.learned(start)
    data = data_module.with_validation(data, recipe.val_fraction, recipe.seed, known)
    data = splits.with_notes_of_learned(data, known, start)
    folder.write_json("split.json", splits.record(data))
    return data


def report_of_split(
    folder: RunFolder,
    split: str,
    progress: Progress,
    data: Data,
    output: tuple[Tensor, Tensor],
    scores: Scores,
    log: Log,
) -> None:
    """Writes the report on a split's images, and shows its figures in TensorBoard."""
    samples = data.splits[split]
    mistakes = worst_mistakes(*output)

    def read(index: int) -> Image.Image:
        return samples[index].read()

    report.write(folder.path / "report" / split, progress.history, scores, mistakes, read, f"{split} images")
    log.figure(f"{split}/confusion", report.confusion_figure(scores), progress.epoch)
    if mistakes:
        log.figure(f"{split}/mistakes", report.mistakes_figure(mistakes, read, scores.label_names), progress.epoch)
