"""The trainer. It trains any `Task`, and its methods stand in the order in which they run.

Hugging Face Accelerate handles devices and processes. Optimizers, schedules, augmentation and EMA come from timm. Every
random choice depends only on the seed, the epoch and the step, so a resumed run ends with the same weights as an
uninterrupted one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import operator
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import Dataset

from mnv2zoo import environment
from mnv2zoo.data import checks, split_file
from mnv2zoo.data import splits as data_splits
from mnv2zoo.data.copies import Copies, Smaller
from mnv2zoo.data.datasets import Data, Photos
from mnv2zoo.data.labels import classes_of
from mnv2zoo.data.sampler import Batches, balanced_weights, derive_seed, seed_everything
from mnv2zoo.data.split_file import SplitFile
from mnv2zoo.errors import DataError, RunError, ZooError
from mnv2zoo.model_dir import cards
from mnv2zoo.model_dir import split as splits
from mnv2zoo.model_dir.records import RECIPE, SPLIT
from mnv2zoo.models import pretrained
from mnv2zoo.models.names import Description
from mnv2zoo.system import memory, processes
from mnv2zoo.tasks import Metric, Scores, Task, find_task
from mnv2zoo.tasks import recipe as recipes
from mnv2zoo.tasks.initialization import Start, in_chans, preprocessing_of, set_training
from mnv2zoo.tasks.lookup import place_task
from mnv2zoo.tasks.recipe import Recipe
from mnv2zoo.tasks.tensors import channels_last, map_tensors, to_cpu
from mnv2zoo.training import accelerate_settings, artifacts, builders, failures, resume
from mnv2zoo.training.autocast import single_where_faster
from mnv2zoo.training.cached_features import Features, cache_features
from mnv2zoo.training.distributed import (
    of_worker,
    on_main,
    run_network,
    synchronize_norms,
)
from mnv2zoo.training.loaders import eval_loader, start_method, train_loader
from mnv2zoo.training.progress import Log
from mnv2zoo.training.run_dir import RunFolder


@dataclass(frozen=True)
class FinetuneResult:
    """The result of a training run.

    Attributes:
        run: The run folder. Load it with `timm.create_model("local-dir:...")` or `mnv2zoo predict --model`.
        model: The model with the saved weights, in evaluation mode.
        class_names: The class names in class order; empty for a task without classes.
        epoch: The epoch of the saved weights, from 1.
        history: A row of metrics per epoch.
        scores: The metrics of the saved weights by split, for `val` and `test` if the data has such images.
    """

    run: Path
    model: nn.Module
    class_names: tuple[str, ...]
    epoch: int
    history: list[dict[str, Any]]
    scores: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The epoch and the metrics by split, as `json.dumps` takes them."""
        return {"epoch": self.epoch} | {split: scores.to_json() for split, scores in self.scores.items()}


def run(
    place: str | Path,
    model_name: str | None,
    out: str | Path,
    given: Mapping[str, Any],
    task: str | Task | type[Task] | None = None,
    resumes: bool = False,
    log: Log | None = None,
    device: str | None = None,
    shared: Shared | None = None,
) -> FinetuneResult:
    """Trains a model; see `mnv2zoo.finetune`.

    Everything that can be checked is checked before the run folder is created. A run that fails before its first
    checkpoint removes the files it created. A resumed run takes its recipe from its `recipe.json`.

    Args:
        place: The data.
        model_name: The model; None for the default, or for the model of the resumed run.
        out: The run folder.
        given: The given fields of `Recipe`.
        task: The task; None for the default task of the data, or for the task of the resumed run.
        resumes: Whether to resume the run in the folder, if there is one.
        log: The log.
        device: The device; by default the accelerator if there is one.
        shared: State that the folds of a cross-validation share. The first fold fills it.

    Returns:
        The result.
    """
    folder = RunFolder(Path(out))
    recorded = folder.inspect(resumes)
    if recorded is None:
        found = find_task(place_task(place) if task is None else task)
        recipe, model_name = recipes.make(**{**found.defaults, **given}), model_name or recipes.MODEL
    else:
        found = resume.find_run_task(recorded, task, folder.path)
        recipe, model_name = resume.resumed(recorded, given, model_name)
    found.check(recipe)
    builders.check(recipe)
    accelerator = accelerate_settings.start(recipe, device)
    if recipe.workers:
        processes.check_start(start_method(accelerator.device))
    log = log or Log()
    log.active = accelerator.is_main_process
    try:
        if recorded is not None:
            on_main(accelerator, folder.lock)
        with (
            memory.kept() if accelerator.device.type == "cpu" else contextlib.nullcontext(),
            accelerate_settings.current(accelerator.device),
            accelerate_settings.algorithms(recipe, sizes_differ=found.gather_objects),
        ):
            return Trainer(accelerator, found, place, model_name, folder, recipe, log, recorded, shared).run()
    except ZooError as error:
        raise of_worker(error) from error.__cause__
    finally:
        log.close()
        folder.close()


@dataclass
class Shared:
    """State that the runs of a cross-validation share.

    Attributes:
        split: The `split.json` of the first fold. All folds use its folds and test images.
        features: If only the head is trained, the features of the images of all folds, in the order of the folds.
    """

    split: Mapping[str, Any] | None = None
    features: Features | None = None


@dataclass
class Progress:
    """The progress of a run. The checkpoint contains all of it."""

    epoch: int = 0  # epochs done
    step: int = 0  # steps done in the epoch after those
    loss_sum: float = 0.0  # over these steps
    best_epoch: int = 0
    best_metric: float | None = None  # of that epoch
    best: dict[str, Tensor] = field(default_factory=dict)  # the weights to save
    history: list[dict[str, Any]] = field(default_factory=list)  # a row per epoch

    @classmethod
    def load(cls, checkpoint: Mapping[str, Any]) -> Progress:
        """Loads the progress from a checkpoint. Earlier versions named the metric `best_top1`."""
        renamed = {"best_metric": checkpoint["best_top1"]} if "best_top1" in checkpoint else {}
        return cls(**{name: {**checkpoint, **renamed}[name] for name in cls.__annotations__})


class Trainer:
    """Trains a model. The methods stand in the order in which they run.

    Args:
        accelerator: The device and the other processes.
        task: The task.
        place: The data.
        model_name: The model.
        folder: The run folder.
        recipe: The recipe.
        log: The log.
        recorded: The `recipe.json` of a resumed run; None for a new run.
        shared: State that the folds of a cross-validation share.
    """

    preprocessing: Mapping[str, Any]  # of training images
    copies: Copies | None = None  # the cache of downscaled training images
    data: Data
    folds: list[list[str]]  # names of the images of each fold, where there are folds
    start: Start
    optimizer: Any
    loader: Any
    val_loader: Any

    def __init__(
        self,
        accelerator: Accelerator,
        task: Task,
        place: str | Path,
        model_name: str,
        folder: RunFolder,
        recipe: Recipe,
        log: Log,
        recorded: dict[str, Any] | None,
        shared: Shared | None = None,
    ) -> None:
        self.accelerator, self.task, self.place, self.model_name = accelerator, task, place, model_name
        self.folder, self.recipe, self.log, self.recorded = folder, recipe, log, recorded
        self.shared = shared or Shared()
        self.progress = Progress()
        self.losses: list[Tensor] = []  # losses that have not been added to the progress yet

    def run(self) -> FinetuneResult:
        """Trains."""
        target, source = self.task.find_model(self.model_name, self.recipe)
        self.layout = replace(self.recipe.images(), in_chans=in_chans(target, self.recipe))
        self.preprocessing = preprocessing_of(target, source, self.recipe, test=False)
        try:
            self.setup_data()
            self.setup_model(target, source)
            self.setup_optimizer()
            self.setup_run()
            self.load_checkpoint()
            return self.train()
        finally:
            if self.copies is not None:
                self.copies.close()

    def train(self) -> FinetuneResult:
        """Runs the remaining steps, and writes the results."""
        try:
            self.begin()
            self.setup_batches()
            while self.progress.epoch < self.recipe.epochs and not self.has_stopped():
                with single_where_faster(self.model, self.accelerator):  # not when validating, as after the last epoch
                    self.train_epoch()
                self.end_epoch(self.validate())
        except BaseException as error:
            self.log.close()
            self.folder.discard()  # only the main process has anything to remove
            if pretrained.is_out_of_memory(error):
                where = f"outside of a step, on {self.accelerator.device}"
                raise failures.out_of_memory(error, self.recipe, self.accelerator.num_processes, where) from error
            raise
        return self.finish()

    @cached_property
    def reader(self) -> Smaller | None:
        """How training images are downscaled when read; None for full size."""
        found = getattr(self.task.transforms(self.preprocessing, self.recipe), "reader", None)
        return found if isinstance(found, Smaller) else None

    def setup_data(self) -> None:
        """Finds the images and their targets."""
        self.data, self.found, self.folds = on_main(self.accelerator, self._find_data)
        self.copies = self.copies or self._copies(self.data)
        for note in self.data.notes:
            self.log.say(f"note: {note}")
        self.log.say(self.task.found(self.data))

    def _find_data(self) -> tuple[Data, int, list[list[str]]]:
        """Finds, checks and splits the images. A resumed run uses its recorded split."""
        self.folder.outside(self.place)
        recipe = self.recipe
        data = self.task.find_data(self.place, self.layout)
        if "train" not in data.splits:
            raise DataError(
                "the data contains no training images",
                expected="a folder named train",
                found=", ".join(data.splits),
                where=self.place,
                fix="Name the folder of the training images with --train-dir.",
            )
        found = sum(map(len, data.splits.values()))
        if self.recorded is not None:
            resume.check_classes(self.recorded, data, self.place)
            written = self.folder.read_json(SPLIT)
            data = data_splits.restrict(data, written)
            return resume.with_note_of_added(self.recorded, data, found), found, written.get("folds", [])
        listed = (
            SplitFile.read(recipe.split_file) if recipe.split_file is not None and self.shared.split is None else None
        )
        if listed is not None:
            data = split_file.apply(data, listed, recipe.skip_bad_images)
        self.copies = self._copies(data)
        with self.log.stage("checking images", found) as stage:
            data = checks.check(data, recipe.skip_bad_images, stage.advance, self.reader, self.copies)
        weights = {"pretrained": self.model_name, "random": None}.get(recipe.init, recipe.init)
        known = splits.learned(weights)
        data, folds = self._held_out(data, listed, known)
        return splits.with_notes_of_learned(data, known, weights), found, folds

    def _copies(self, data: Data) -> Copies | None:
        """Opens the cache of downscaled training images; None if each image is read only once."""
        recipe = self.recipe
        once = recipe.train == "head" and recipe.cache_features
        reader = None if once else self.reader
        return Copies.open(recipe.cache_images, environment.home(), reader, len(data.splits["train"]))

    def _held_out(self, data: Data, listed: SplitFile | None, known: frozenset[str]) -> tuple[Data, list[list[str]]]:
        """Holds out validation images or a fold. Returns the data and the folds, if there are any."""
        recipe = self.recipe
        if self.shared.split is not None:
            folds, tests = self.shared.split["folds"], self.shared.split.get("test", [])
            added = sum(map(len, data.splits.values())) - len(tests) - sum(map(len, folds))
            data = data_splits.restrict(data, {"train": [name for own in folds for name in own], "test": tests})
            if added > 0:
                note = f"{added} images were added since the first fold; they are ignored"
                data = dataclasses.replace(data, notes=(*data.notes, note))
            return data_splits.of_fold(data, folds, recipe.fold), folds
        groups = None if recipe.group_by is None else split_file.group_names(data, recipe.group_by, listed)
        if recipe.folds:
            folds = data_splits.folds(data, recipe.folds, recipe.seed, groups)
            return data_splits.of_fold(data, folds, recipe.fold), folds
        if groups is not None:
            return data_splits.with_grouped_validation(data, recipe.val_fraction, recipe.seed, groups), []
        return data_splits.with_validation(data, recipe.val_fraction, recipe.seed, known), []

    def setup_model(self, target: Description, source: Description | Path | None) -> None:
        """Builds the model, freezes the part that is not trained, and moves it to the device."""
        recipe, device = self.recipe, self.accelerator.device
        self.start = self.task.build_model(target, source, recipe, self.data)
        self.architecture = target.config.name
        self.model: Any = self.start.model.to(device)
        self.frozen = self.task.freeze(self.model, recipe)
        if self.accelerator.num_processes > 1 and device.type != "cpu":
            synchronize_norms(self.model)
        if recipe.channels_last:
            self.model.to(memory_format=torch.channels_last)
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        self.log.say(
            f"training {trained / 1e6:.2f} M parameters of {self.model_name} from {self.start.origin} on {device}"
        )
        # The module to train: the whole model, or the head on cached features.
        self.trainee: nn.Module = self.model
        self.backbone: nn.Module | None = None
        parts = self.task.split_head(self.model) if recipe.train == "head" and recipe.cache_features else None
        if parts is not None:
            (self.backbone, self.trainee), self.frozen = parts, []
        self.task.setup(recipe, self.data, self.start, device)

    def setup_optimizer(self) -> None:
        """Creates the optimizer, the learning rate schedule and the EMA."""
        recipe = self.recipe
        samples = self.data.splits["train"]
        balanced = recipe.sampler == "balanced"
        weights = balanced_weights([classes_of(sample.target) for sample in samples]) if balanced else None
        self.batches = Batches(len(samples), recipe.batch_size, recipe.seed, weights)
        self.lr = builders.learning_rate(recipe)
        layer_decay = recipe.layer_decay if self.backbone is None else None
        backbone = self.task.backbone(self.model) if recipe.backbone_lr != 1 else None
        self.optimizer = builders.make_optimizer(self.trainee, recipe, self.lr, layer_decay, backbone)
        self.updates = math.ceil(self.batches.steps / recipe.accumulate)  # per epoch
        self.scheduler = builders.make_scheduler(self.optimizer, recipe, self.lr, self.updates)
        self.ema = ModelEmaV3(self.trainee, decay=recipe.ema_decay, use_warmup=True) if recipe.ema_decay else None
        # The weights to evaluate: the EMA if there is one.
        self.kept = self.trainee if self.ema is None else self.ema.module

    def setup_run(self) -> None:
        """Describes the run, and checks that the data and initial weights of a resumed run have not changed."""
        self.description = artifacts.describe_run(
            self.place, self.model_name, self.recipe, self.lr, self.start, self.task, self.data, self.found
        ) | {"processes": self.accelerator.num_processes}
        if self.recorded is not None:
            resume.check_unchanged(self.recorded, self.description, self.folder.path / RECIPE)
            self.description = self.description | self.recorded

    def load_checkpoint(self) -> None:
        """Loads the last checkpoint of a resumed run."""
        checkpoint = self.folder.load_checkpoint() if self.recorded is not None else None
        if checkpoint is None:
            return
        try:
            self.progress = Progress.load(checkpoint)
            self.trainee.load_state_dict(checkpoint["trainee"])
            self.optimizer.load_state_dict(checkpoint["optimizer"])
            if self.ema is not None:
                self.ema.module.load_state_dict(checkpoint["ema"])
            if self.accelerator.scaler is not None:
                self.accelerator.scaler.load_state_dict(checkpoint["scaler"])
        except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise self.folder.bad_checkpoint(error) from error
        self.log.say(f"resuming after epoch {self.progress.epoch}, step {self.progress.step}")

    def begin(self) -> None:
        """Creates the folder of a new run, after everything has been built."""
        if self.recorded is None:
            on_main(
                self.accelerator,
                lambda: self.folder.begin({SPLIT: splits.record(self.data, self.folds), RECIPE: self.description}),
            )
        self.log.open_tensorboard(self.folder.path / "tensorboard", self.progress.epoch)

    def setup_batches(self) -> None:
        """Creates the data loaders, with cached features in place of images if only the head is trained."""
        recipe, task = self.recipe, self.task
        datasets: dict[str, Dataset[Any]] = {split: self._evaluated(split) for split in self.data.splits}
        workers, collate = recipe.workers, task.collate
        if self.backbone is None:
            transforms = task.transforms(self.start.preprocessing, recipe)
            datasets["train"] = Photos(self.data.splits["train"], transforms=transforms, copies=self.copies)
        else:
            workers, collate = 0, Features.collate
            if self.folds:
                datasets |= self._features_of_fold()
            for split in [split for split in ("train", "val") if split in datasets and not self.folds]:
                datasets[split] = cache_features(
                    self.accelerator, task, self.backbone, datasets[split], recipe, self.log
                )
        device = self.accelerator.device
        loader = train_loader(datasets["train"], self.batches, collate, workers, device, pins=self.backbone is None)
        # Not the optimizer: Accelerate would move its step counters to the device, and each read would synchronize.
        self.net, self.optimizer, self.loader = self.accelerator.prepare(
            self.trainee, self.optimizer, loader, device_placement=[True, False, True]
        )
        if recipe.compile:
            # In place, so that the names in the state dict do not change.
            for part in [self.trainee] if self.backbone is not None else task.compiled_parts(self.model):
                part.compile()
        self.val_loader = None
        if "val" in datasets:
            val_loader = eval_loader(datasets["val"], recipe.batch_size, collate, workers, device, repeated=True)
            self.val_loader = self.accelerator.prepare(val_loader)

    def _features_of_fold(self) -> dict[str, Dataset[Any]]:
        """The features of the fold's images.

        The features of all folds are computed together and in one order, so that the result of a fold does not depend
        on which folds were trained before it.
        """
        known = {sample.name: sample for split in ("train", "val") for sample in self.data.splits[split]}
        names = [name for fold in self.folds for name in fold]
        if self.shared.features is None:
            transforms = self.task.transforms(self.start.test_preprocessing)
            photos = Photos([known[name] for name in names], transforms=transforms)
            assert self.backbone is not None
            self.shared.features = cache_features(
                self.accelerator, self.task, self.backbone, photos, self.recipe, self.log
            )
        place = {name: number for number, name in enumerate(names)}
        splits = {split: [place[sample.name] for sample in self.data.splits[split]] for split in ("train", "val")}
        return {split: self.shared.features.take(indices) for split, indices in splits.items()}

    def _evaluated(self, split: str) -> Photos:
        """A dataset of a split without augmentation."""
        transforms = self.task.transforms(self.start.test_preprocessing)
        return Photos(self.data.splits[split], transforms=transforms, copies=self.copies if split == "val" else None)

    def train_epoch(self) -> None:
        """Runs the remaining steps of an epoch."""
        recipe, progress, batches = self.recipe, self.progress, self.batches
        batches.epoch, batches.first = progress.epoch, progress.step
        set_training(self.net, self.frozen)
        began, self.epoch_images = time.monotonic(), len(batches) * recipe.batch_size
        title = f"epoch {progress.epoch + 1}/{recipe.epochs}"
        with self.log.stage(title, self.epoch_images) as stage:
            for inputs, targets in self.loader:
                try:
                    loss = self.step(inputs, targets)
                except Exception as error:
                    explained = self.explained(error, inputs, targets)
                    if explained is None:
                        raise
                    raise explained from error
                progress.step += 1
                self.losses.append(loss.detach())
                if self.accelerator.device.type == "cpu":
                    self.add_losses()  # a small tensor from each step would split up the memory that steps reuse
                stage.advance(recipe.batch_size)
                if recipe.checkpoint_steps and progress.step % (recipe.checkpoint_steps * recipe.accumulate) == 0:
                    self.save()
            self.add_losses()
        self.seconds = time.monotonic() - began

    def explained(self, error: Exception, inputs: Any, targets: Any) -> RunError | None:
        """Explains an error in a step. If memory ran out, suggests a batch size that fits."""
        recipe, processes = self.recipe, self.accelerator.num_processes
        where = f"epoch {self.progress.epoch + 1}, step {self.progress.step + 1}, on {self.accelerator.device}"
        if not pretrained.is_out_of_memory(error):
            return failures.explained(error, recipe, where)

        def passes(count: int) -> None:
            self.optimizer.zero_grad()
            first = operator.itemgetter(slice(count))
            part = [first(own) if self.task.gather_objects else map_tensors(first, own) for own in (inputs, targets)]
            self.accelerator.backward(self.task.training_step(self.net, *part))

        self.losses.clear()
        return failures.out_of_memory(error, recipe, processes, where, passes if processes == 1 else None)

    def add_losses(self) -> None:
        """Adds the losses of the latest steps to their sum. This waits for the device."""
        if self.losses:
            for loss in self.accelerator.reduce(torch.stack(self.losses), "mean").cpu().tolist():
                self.progress.loss_sum += loss
            self.losses.clear()

    def step(self, inputs: Any, targets: Any) -> Tensor:
        """Accumulates the gradient of a batch, and updates the weights after the last batch of a group."""
        recipe, progress, accelerator = self.recipe, self.progress, self.accelerator
        seed_everything(derive_seed(recipe.seed, progress.epoch, progress.step, accelerator.process_index, 1))
        if self.backbone is None:
            inputs, targets = self.task.augment(inputs, targets)
        full = min(self.start.preprocessing["input_size"][1:])
        side = builders.side_of_epoch(recipe, progress.epoch, full)
        if side < full and self.backbone is None:
            inputs, targets = self.task.shrink(inputs, targets, side, full)
        if recipe.channels_last:
            inputs = channels_last(inputs)
        # The batches of an epoch, all of one size, form groups of `accumulate`; the last group may be shorter.
        first = progress.step // recipe.accumulate * recipe.accumulate
        group = min(recipe.accumulate, self.batches.steps - first)
        completes = progress.step == first + group - 1
        with contextlib.nullcontext() if completes else accelerator.no_sync(self.net):
            loss = self.task.training_step(self.net, inputs, targets)
            accelerator.backward(loss / group)
        if completes:
            self.update(progress.epoch * self.updates + progress.step // recipe.accumulate)
        return loss

    def update(self, number: int) -> None:
        """Runs the optimizer step with this number, counted from 0."""
        recipe, accelerator = self.recipe, self.accelerator
        self.scheduler.step_update(number)
        if recipe.clip_grad is not None:
            accelerator.clip_grad_norm_(self.net.parameters(), recipe.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update(self.trainee, number + 1)

    def validate(self) -> Scores | None:
        """Evaluates the weights on the validation images, if there are any."""
        loss = self.progress.loss_sum / self.batches.steps
        if not math.isfinite(loss):
            raise RunError(
                "the training loss is not finite",
                expected="a finite loss",
                found=loss,
                where=f"epoch {self.progress.epoch + 1}",
                fix="Start a new run with a lower --lr, or with --clip-grad.",
            )
        if self.val_loader is None:
            return None
        metric = self.task.metrics(self.data.class_names)
        with self.evaluating():
            run_network(self.accelerator, self.task, self.kept, self.val_loader, metric.update)
        return metric.compute()

    def evaluating(self) -> contextlib.AbstractContextManager[Any]:
        """Runs compiled parts in eager mode, because compiling them for evaluation takes longer than it saves."""
        plain = getattr(torch.compiler, "set_stance", None) if self.recipe.compile else None  # since PyTorch 2.6
        return contextlib.nullcontext() if plain is None else plain("force_eager")

    def end_epoch(self, scores: Scores | None) -> None:
        """Adds the epoch to the history, stores its weights if they are the best, and saves a checkpoint."""
        progress = self.progress
        row: dict[str, Any] = {"epoch": progress.epoch + 1, "train_loss": progress.loss_sum / self.batches.steps}
        row |= {"lr": max(group["lr"] for group in self.optimizer.param_groups)}
        if scores is not None:
            row |= {f"val_{name}": value for name, value in scores.metrics().items()}
        row |= {"images_per_second": self.epoch_images / self.seconds, "seconds": self.seconds}
        progress.history.append(row)
        value = None if scores is None else self.task.measured(self.monitor, scores)
        if self.recipe.keep == "last" or value is None or self._is_best(value):
            progress.best_metric, progress.best_epoch = value, row["epoch"]
            progress.best = {name: tensor.detach().cpu().clone() for name, tensor in self.kept.state_dict().items()}
        progress.epoch, progress.step, progress.loss_sum = progress.epoch + 1, 0, 0.0
        self.save()
        on_main(self.accelerator, lambda: self.folder.write_rows("metrics.jsonl", progress.history))
        self.log.epoch(row, self.recipe.epochs, [] if scores is None else scores.epoch_line())

    def _is_best(self, value: float) -> bool:
        best = self.progress.best_metric
        return best is None or self.task.is_better(self.monitor, value, best)

    @property
    def monitor(self) -> str:
        """The metric that decides the best epoch."""
        return self.recipe.monitor or self.task.metric

    def has_stopped(self) -> bool:
        """Whether the metric has not improved for `patience` epochs."""
        patience, best, stale = self.recipe.patience, None, 0
        for row in self.progress.history:
            value = row.get(f"val_{self.monitor}")
            if value is None:
                return False
            better = best is None or self.task.is_better(self.monitor, value, best)
            best, stale = (value, 0) if better else (best, stale + 1)
        return bool(patience) and stale >= patience

    def save(self) -> None:
        """Replaces the checkpoint."""
        self.add_losses()
        state = {
            **vars(self.progress),
            "trainee": self.trainee.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        if self.ema is not None:
            state["ema"] = self.kept.state_dict()
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        on_main(self.accelerator, lambda: self.folder.save_checkpoint(to_cpu(state)))

    def finish(self) -> FinetuneResult:
        """Evaluates the best weights, and writes the model, its card, its metrics and its report."""
        accelerator, progress, data = self.accelerator, self.progress, self.data
        accelerator.unwrap_model(self.net, keep_fp32_wrapper=False)
        # From the main process, because batch statistics differ between processes.
        self.trainee.load_state_dict(on_main(accelerator, lambda: progress.best))
        self.model.eval()
        metrics: dict[str, Metric] = {}
        for split in [split for split in data.splits if split != "train"]:
            loader = eval_loader(
                self._evaluated(split),
                self.recipe.batch_size,
                self.task.collate,
                self.recipe.workers,
                accelerator.device,
            )
            metrics[split] = self.task.metrics(data.class_names)
            with self.evaluating():
                run_network(accelerator, self.task, self.model, accelerator.prepare(loader), metrics[split].update)
        temperature = self.task.calibrate(metrics["val"]) if "val" in metrics else None
        for metric in metrics.values():
            metric.temperature = temperature
        scores = {split: metric.compute() for split, metric in metrics.items()}
        on_main(accelerator, lambda: self._write(metrics, scores))
        if progress.epoch < self.recipe.epochs:
            stale = f"{self.monitor} has not improved for {self.recipe.patience} epochs"
            self.log.say(f"stopped after epoch {progress.epoch}: {stale}")
        for name, own in scores.items():
            self.log.say(f"{name}: {own.summary()}")
        self.log.say(f"saved the weights of epoch {progress.best_epoch} to {self.folder.path}")
        return FinetuneResult(
            self.folder.path, self.model, data.class_names, progress.best_epoch, list(progress.history), scores
        )

    def _write(self, metrics: Mapping[str, Metric], scores: Mapping[str, Scores]) -> None:
        """Writes the files of a finished run."""
        preprocessing = artifacts.preprocessing_of(self.start)
        files = self.task.model_files(self.model, preprocessing, self.data.class_names)
        for name, content in files.items():
            self.folder.write(name, content)
        artifacts.write_results(self.folder, self.progress.best_epoch, scores)
        card = self.task.model_card(
            self.description["model"], self.architecture, self.start.origin, self.description, scores
        )
        self.folder.write("README.md", cards.with_libraries(card, json.loads(files["config.json"])))
        for split, metric in metrics.items():
            figures = self.task.write_report(
                self.folder.path / "report" / split,
                self.progress.history,
                metric,
                scores[split],
                self.data.splits[split],
                f"{split} images",
            )
            for name, figure in figures.items():
                self.log.figure(f"{split}/{name}", figure, self.progress.epoch)
