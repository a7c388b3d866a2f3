"""Fine-tuning, in the order in which things happen.

Devices and processes are Hugging Face Accelerate's; optimizers, schedules, augmentation and the moving
average are timm's. What is decided at random depends on the seed, the epoch and the step alone, so that a
run that was interrupted anywhere ends as if it had not been.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from PIL import Image
from timm.data import create_transform
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mnv2zoo.data import datasets as data_module
from mnv2zoo.data.datasets import Data, Photos
from mnv2zoo.data.sampler import Batches, derive_seed, seed_everything
from mnv2zoo.errors import DataError, RunError, ZooError
from mnv2zoo.model_dir import split as splits
from mnv2zoo.models import names
from mnv2zoo.system import memory
from mnv2zoo.tasks import initialization as start_module
from mnv2zoo.tasks import recipe as recipes
from mnv2zoo.tasks.classify import report
from mnv2zoo.tasks.classify.distillation import Teacher
from mnv2zoo.tasks.classify.metrics import Scores, score, worst_mistakes
from mnv2zoo.tasks.initialization import Start
from mnv2zoo.tasks.recipe import Recipe
from mnv2zoo.training import accelerate_settings, artifacts
from mnv2zoo.training.builders import (
    check,
    learning_rate,
    make_criterion,
    make_mixup,
    make_optimizer,
    make_scheduler,
    side_of_epoch,
    training_transform,
)
from mnv2zoo.training.cached_features import Head, cache_features
from mnv2zoo.training.distributed import give_way, of_worker, on_main, predict, test_loader
from mnv2zoo.training.progress import Log
from mnv2zoo.training.run_dir import RECIPE, SPLIT, RunFolder


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
    place: str | Path,
    model_name: str | None,
    out: str | Path,
    given: Mapping[str, Any],
    resume: bool = False,
    log: Log | None = None,
) -> FinetuneResult:
    """Trains a network; see `mnv2zoo.finetune`.

    Everything that can be checked is checked before the run folder is made, and what a failed start made is
    removed. A resumed run takes everything that decides its result from its `recipe.json`.

    Args:
        place: The data.
        model_name: The network; None for the default, or that of the run that is resumed.
        out: The run folder.
        given: Fields of `Recipe` that are not to have their defaults.
        resume: Go on with the run in the folder, if there is one.
        log: What is shown meanwhile.

    Returns:
        What the training gave.
    """
    folder = RunFolder(Path(out))
    recorded = folder.inspect(resume)
    if recorded is None:
        recipe, model_name = recipes.make(**given), model_name or recipes.MODEL
    else:
        recipe, model_name = start_module.resumed(recorded, given, model_name)
    check(recipe)
    accelerator = accelerate_settings.start(recipe)
    log = log or Log()
    log.active = accelerator.is_main_process
    try:
        if recorded is not None:
            on_main(accelerator, folder.lock)
        with memory.kept():
            return Training(accelerator, place, model_name, folder, recipe, log, recorded).run()
    except ZooError as error:
        raise of_worker(error) from error.__cause__
    finally:
        log.close()
        folder.close()


class Training:
    """A training, as methods in the order in which things happen.

    Args:
        accelerator: The device and the other processes.
        place: The data.
        model_name: The network.
        folder: The run folder.
        recipe: How to train.
        log: What is shown meanwhile.
        recorded: The `recipe.json` of a run that is resumed; None for a new one.
    """

    data: Data
    start: Start
    optimizer: Any
    loader: Any
    val_loader: Any

    def __init__(
        self,
        accelerator: Accelerator,
        place: str | Path,
        model_name: str,
        folder: RunFolder,
        recipe: Recipe,
        log: Log,
        recorded: dict[str, Any] | None,
    ) -> None:
        self.accelerator, self.place, self.model_name, self.folder = accelerator, place, model_name, folder
        self.recipe, self.log, self.recorded = recipe, log, recorded
        self.progress = Progress()

    def run(self) -> FinetuneResult:
        """Trains."""
        target, source = start_module.find(self.model_name, self.recipe)
        self.find_images()
        self.build_network(target, source)
        self.build_optimizer()
        self.check_what_is_recorded()
        self.restore()
        try:
            self.begin()
            self.build_batches()
            while self.progress.epoch < self.recipe.epochs:
                self.train_epoch()
                self.end_epoch()
        except BaseException:
            self.log.close()
            self.folder.discard()  # in the main process alone is there anything to remove
            raise
        return self.finish()

    def find_images(self) -> None:
        """Which images, in which classes."""
        self.data, self.found = on_main(self.accelerator, self._prepare_data)
        for note in self.data.notes:
            self.log.say(f"note: {note}")
        counts = ", ".join(f"{len(samples)} {split}" for split, samples in self.data.splits.items())
        self.log.say(f"{len(self.data.class_names)} classes; images: {counts}")

    def _prepare_data(self) -> tuple[Data, int]:
        """Finds the images, checks them and splits them; an interrupted run gets the split that it wrote."""
        self.folder.outside(self.place)
        data = data_module.find(self.place, layout=self.recipe.images())
        if "train" not in data.splits:
            raise DataError(
                "no images to train on", expected="a folder named train", found=", ".join(data.splits), where=self.place
            )
        found = sum(map(len, data.splits.values()))
        if self.recorded is not None:
            artifacts.check_classes(self.recorded, data, self.place)
            data = data_module.restrict(data, self.folder.read_json(SPLIT))
            return artifacts.with_note_of_added(self.recorded, data, found), found
        with self.log.stage("checking images", found) as stage:
            data = data_module.check(data, self.recipe.skip_bad_images, stage.advance)
        weights = {"pretrained": self.model_name, "random": None}.get(self.recipe.init, self.recipe.init)
        known = splits.learned(weights)
        data = data_module.with_validation(data, self.recipe.val_fraction, self.recipe.seed, known)
        return splits.with_notes_of_learned(data, known, weights), found

    def build_network(self, target: names.Description, source: names.Description | Path | None) -> None:
        """Which network, what of it is trained, and who teaches it; from here on they stay on the device."""
        recipe, device = self.recipe, self.accelerator.device
        self.start = start_module.build(target, source, recipe, self.data.class_names, self.data.splits["train"])
        self.architecture = target.config.name
        self.model = self.start.model.to(device)
        self.frozen = start_module.freeze(self.model, recipe.train)
        if recipe.keep_statistics:
            self.frozen += start_module.norms(self.model)
        if recipe.loss_before_act:
            start_module.skip_last_activation_in_training(self.model)
        if recipe.channels_last:
            self.model.to(memory_format=torch.channels_last)
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        self.log.say(
            f"{self.model_name} from {self.start.origin}: training {trained / 1e6:.2f} M of its parameters on {device}"
        )
        self.trainee: nn.Module = self.model
        if recipe.train == "head" and recipe.cache_features:
            self.trainee, self.frozen = Head(self.model), []
        self.teacher = None
        if recipe.teacher is not None:
            made = Teacher(recipe.teacher, self.data.class_names, recipe, self.start.preprocessing)
            self.teacher = made.to(device)

    def build_optimizer(self) -> None:
        """How the weights change."""
        recipe = self.recipe
        self.batches = Batches(len(self.data.splits["train"]), recipe.batch_size, recipe.seed)
        self.lr = learning_rate(recipe)
        layer_decay = None if isinstance(self.trainee, Head) else recipe.layer_decay
        self.optimizer = make_optimizer(self.trainee, recipe, self.lr, layer_decay)
        self.scheduler = make_scheduler(self.optimizer, recipe, self.lr, self.batches.steps)
        self.mixup = make_mixup(recipe, len(self.data.class_names))
        self.criterion = make_criterion(recipe)
        self.ema = ModelEmaV3(self.trainee, decay=recipe.ema_decay, use_warmup=True) if recipe.ema_decay else None
        # The weights that are evaluated: the moving average, where there is one.
        self.kept = self.trainee if self.ema is None else self.ema.module
        self.test_transform = create_transform(**self.start.test_preprocessing)
        self.training_transform = training_transform(self.start, recipe)

    def check_what_is_recorded(self) -> None:
        """Makes sure that a resumed run starts from what it started from; describes a new one."""
        teacher = None if self.teacher is None else self.teacher.fingerprint
        self.description = artifacts.describe_run(
            self.place, self.model_name, self.recipe, self.lr, self.start, teacher, self.data, self.found
        ) | {"processes": self.accelerator.num_processes}
        if self.recorded is not None:
            artifacts.check_unchanged(self.recorded, self.description, self.folder.path / RECIPE)
            self.description = self.description | self.recorded

    def restore(self) -> None:
        """Where an earlier process stopped."""
        checkpoint = self.folder.load_checkpoint() if self.recorded is not None else None
        if checkpoint is None:
            return
        try:
            self.progress = Progress(**{name: checkpoint[name] for name in Progress.__annotations__})
            self.trainee.load_state_dict(checkpoint["trainee"])
            self.optimizer.load_state_dict(checkpoint["optimizer"])
            if self.ema is not None:
                self.ema.module.load_state_dict(checkpoint["ema"])
        except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise self.folder.bad_checkpoint(error) from error
        self.log.say(f"resuming after epoch {self.progress.epoch}, step {self.progress.step}")

    def begin(self) -> None:
        """Makes the folder of a new run, now that all is built."""
        if self.recorded is None:
            on_main(
                self.accelerator, lambda: self.folder.begin({SPLIT: splits.record(self.data), RECIPE: self.description})
            )
        self.log.open_tensorboard(self.folder.path / "tensorboard", self.progress.epoch)

    def build_batches(self) -> None:
        """How images become batches; with the head alone, features take the place of images."""
        recipe = self.recipe
        datasets: dict[str, Dataset[Any]] = {s: Photos(own, self.test_transform) for s, own in self.data.splits.items()}
        workers = recipe.workers
        if isinstance(self.trainee, Head):
            workers = 0
            for split in ("train", "val"):
                if split in datasets:
                    datasets[split] = cache_features(self.accelerator, self.model, datasets[split], recipe, self.log)
        else:
            datasets["train"] = Photos(self.data.splits["train"], self.training_transform)
        loader = DataLoader(
            datasets["train"],
            batch_sampler=self.batches,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=give_way if self.accelerator.device.type == "cpu" else None,
        )
        self.net, self.optimizer, self.loader = self.accelerator.prepare(self.trainee, self.optimizer, loader)
        val_loader = test_loader(datasets["val"], recipe, workers) if "val" in datasets else None
        self.val_loader = self.accelerator.prepare(val_loader) if val_loader is not None else None

    def train_epoch(self) -> None:
        """The steps of an epoch that are left."""
        recipe, progress, batches = self.recipe, self.progress, self.batches
        batches.epoch, batches.first = progress.epoch, progress.step
        start_module.set_training(self.net, self.frozen)
        began, self.epoch_images = time.monotonic(), len(batches) * recipe.batch_size
        title = f"epoch {progress.epoch + 1}/{recipe.epochs}"
        with self.log.stage(title, self.epoch_images) as stage:
            for images, targets in self.loader:
                loss = self.step(images, targets)
                progress.step += 1
                if self.ema is not None:
                    self.ema.update(self.trainee, progress.epoch * batches.steps + progress.step)
                progress.loss_sum += self.accelerator.reduce(loss.detach(), "mean").item()
                stage.advance(recipe.batch_size)
                if recipe.checkpoint_steps and progress.step % recipe.checkpoint_steps == 0:
                    self.save()
        self.seconds = time.monotonic() - began

    def step(self, images: Tensor, targets: Tensor) -> Tensor:
        """Changes the weights by one batch, and gives its loss."""
        recipe, progress, accelerator = self.recipe, self.progress, self.accelerator
        seed_everything(derive_seed(recipe.seed, progress.epoch, progress.step, accelerator.process_index, 1))
        self.scheduler.step_update(progress.epoch * self.batches.steps + progress.step)
        side = side_of_epoch(recipe, progress.epoch, self.start.preprocessing["input_size"][-1])
        if images.ndim == 4 and side < images.shape[-1]:
            images = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
        if self.mixup is not None:
            images, targets = self.mixup(images, targets)
        if recipe.channels_last and images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        logits = self.net(images)
        loss: Tensor = self.criterion(logits, targets)
        if self.teacher is not None:
            loss = torch.lerp(loss, self.teacher(images, logits), recipe.teacher_weight)
        accelerator.backward(loss)
        if recipe.clip_grad is not None:
            accelerator.clip_grad_norm_(self.net.parameters(), recipe.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss

    def end_epoch(self) -> None:
        """How good the weights are after an epoch, which are the best, and a checkpoint."""
        progress = self.progress
        row: dict[str, Any] = {"epoch": progress.epoch + 1, "train_loss": progress.loss_sum / self.batches.steps}
        row |= {"lr": max(group["lr"] for group in self.optimizer.param_groups)}
        if not math.isfinite(row["train_loss"]):
            raise RunError(
                "the loss is no longer finite",
                found=row["train_loss"],
                where=f"epoch {row['epoch']}",
                fix="Begin a new run with a lower --lr, or with --clip-grad.",
            )
        if self.val_loader is not None:
            scores = score(*predict(self.accelerator, self.kept, self.val_loader), self.data.class_names)
            row |= {"val_loss": scores.loss, "val_top1": scores.top1, "val_top5": scores.top5}
        row |= {"images_per_second": self.epoch_images / self.seconds, "seconds": self.seconds}
        progress.history.append(row)
        top1 = row.get("val_top1", math.inf)
        if top1 > progress.best_top1 or self.recipe.keep == "last" or self.val_loader is None:
            progress.best_top1, progress.best_epoch = top1, row["epoch"]
            progress.best = {name: tensor.detach().cpu().clone() for name, tensor in self.kept.state_dict().items()}
        progress.epoch, progress.step, progress.loss_sum = progress.epoch + 1, 0, 0.0
        self.save()
        on_main(self.accelerator, lambda: self.folder.write_rows("metrics.jsonl", progress.history))
        self.log.epoch(row, self.recipe.epochs)

    def save(self) -> None:
        """Replaces the checkpoint."""
        state = {
            **vars(self.progress),
            "trainee": self.trainee.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        if self.ema is not None:
            state["ema"] = self.kept.state_dict()
        on_main(self.accelerator, lambda: self.folder.save_checkpoint(on_cpu(state)))

    def finish(self) -> FinetuneResult:
        """What is kept, how good it is, and what is said about it."""
        accelerator, recipe, progress, data = self.accelerator, self.recipe, self.progress, self.data
        accelerator.unwrap_model(self.net, keep_fp32_wrapper=False)
        self.trainee.load_state_dict(progress.best)
        self.model.eval()
        outputs: dict[str, tuple[Tensor, Tensor]] = {}
        for split in [split for split in data.splits if split != "train"]:
            loader = test_loader(Photos(data.splits[split], self.test_transform), recipe, recipe.workers)
            outputs[split] = predict(accelerator, self.model, accelerator.prepare(loader))
        scores_of = {split: score(*output, data.class_names) for split, output in outputs.items()}

        def finish_run() -> None:
            artifacts.write_model(self.folder, self.model, self.start, data.class_names)
            artifacts.write_results(self.folder, progress.best_epoch, scores_of)
            card = artifacts.card(
                self.description["model"], self.architecture, self.start.origin, self.description, scores_of
            )
            self.folder.write("README.md", card)
            for split in outputs:
                report_of_split(self.folder, split, progress, data, outputs[split], scores_of[split], self.log)

        on_main(accelerator, finish_run)
        for split, own in scores_of.items():
            self.log.say(f"{split}: top-1 {own.top1:.2f} %, top-5 {own.top5:.2f} %, of {own.images} images")
        self.log.say(f"weights of epoch {progress.best_epoch} are in {self.folder.path}")
        return FinetuneResult(
            self.folder.path, self.model, data.class_names, progress.best_epoch, list(progress.history), scores_of
        )


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


def on_cpu(state: Any) -> Any:
    """The same containers with their tensors on the CPU, so that a checkpoint is of no device."""
    if isinstance(state, Tensor):
        return state.detach().cpu()
    if isinstance(state, Mapping):
        return {key: on_cpu(value) for key, value in state.items()}
    return type(state)(map(on_cpu, state)) if isinstance(state, list | tuple) else state
