"""Segmentation from data to predictions, in Python and on the command line."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from torch.nn import functional

import mnv2zoo
from mnv2zoo import deploy, segmentation
from mnv2zoo.data import decode, drawing
from mnv2zoo.data.masks import decode_mask
from mnv2zoo.errors import DataError, RecipeError
from mnv2zoo.model_dir.packaging import pack
from mnv2zoo.tasks.segment import Segment
from mnv2zoo.tasks.segment.upsampling import class_mask
from tests.photos import encoded
from tests.tasks.segment.scenes import NAMES, QUICK, VOID, add, fill, mask
from tests.training.runs import environment, equal, interrupted_after, process, rows, weights

MODEL = "mnv2zoo_035"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of scenes, a run on it, and its result."""
    folder = tmp_path_factory.mktemp("segment")
    data = fill(folder / "data")
    result = mnv2zoo.finetune(
        data, MODEL, folder / "run", task="segment", **{**QUICK, "epochs": 20, "input_size": 64, "ema_decay": 0.8}
    )
    return data, folder / "run", result


def predicted(run, file):
    """The class of each pixel, computed without the package's own loops."""
    config = json.loads((run / "config.json").read_text())["pretrained_cfg"]
    with Image.open(file) as image:
        size, pixels = image.size, image.convert("RGB").resize(config["input_size"][:0:-1], Image.Resampling.BILINEAR)
    mean, std = (np.array(config[key], np.float32) for key in ("mean", "std"))
    inputs = torch.from_numpy((np.asarray(pixels, np.float32) / 255 - mean) / std).permute(2, 0, 1)[None]
    with torch.inference_mode():
        logits = segmentation.load(run, "cpu")(inputs)
    return functional.interpolate(logits, size[::-1], mode="bilinear", antialias=True).argmax(1)[0].numpy()


def test_it_learns_scenes(trained):
    _, _, result = trained
    assert result.scores["val"].miou > 60
    assert result.class_names == NAMES
    assert result.epoch == 1 + int(np.argmax([row["val_miou"] for row in result.history]))


def test_the_metrics_are_those_of_the_pixels(trained):
    data, run, result = trained
    counts = np.zeros((3, 3), int)
    for file in sorted((data / "val/images").glob("*.png")):
        truth = np.array(Image.open(data / "val/masks" / file.name))
        np.add.at(counts, (truth[truth != VOID], predicted(run, file)[truth != VOID]), 1)
    hits = counts.diagonal()
    scores = result.scores["val"]
    assert np.abs(np.array(scores.confusion) - counts).sum() <= 4  # ties aside
    assert scores.miou == pytest.approx(100 * (hits / (counts.sum(0) + counts.sum(1) - hits)).mean(), abs=0.1)
    assert scores.pixel_accuracy == pytest.approx(100 * hits.sum() / counts.sum(), abs=0.1)
    assert scores.mean_accuracy == pytest.approx(100 * (hits / counts.sum(1)).mean(), abs=0.1)


def test_evaluate_gives_the_same(trained):
    data, run, result = trained
    scores = mnv2zoo.evaluate(data, run, batch_size=3)
    assert scores.measured == "4 val images that the run held out"
    assert scores.confusion == result.scores["val"].confusion


def test_predict_gives_the_masks_and_their_pixels(trained, tmp_path):
    data, run, _ = trained
    output = tmp_path / "rows.jsonl"
    found = list(mnv2zoo.predict(data / "val/images", str(run), files=tmp_path / "masks", output=output))
    assert [json.loads(line) for line in output.read_text().splitlines()] == found
    assert len(found) == 4
    for row in found:
        file = Path(row["image"])
        assert list(row) == ["image", "model", "mask", "pixels"]
        assert row["mask"] == str(tmp_path / "masks" / file.name)
        with Image.open(row["mask"]) as png:
            assert png.mode == "P"
            assert tuple(png.getpalette()[3:6]) == drawing.class_color(1)
        numbers = decode_mask(Path(row["mask"]).read_bytes())
        assert (numbers != predicted(run, file)).mean() < 0.002
        assert row["pixels"] == {NAMES[n]: int((numbers == n).sum()) for n in range(3) if (numbers == n).any()}


def test_pictures_show_the_masks(trained, tmp_path):
    data, run, _ = trained
    file = data / "val/images/08.png"
    (row,) = mnv2zoo.predict(file, str(run), save_images=tmp_path / "drawn")
    assert (row["mask"], list(row)) == (None, ["image", "model", "mask", "pixels"])
    (row,) = mnv2zoo.predict(file, str(run), files=tmp_path / "masks")
    wanted = drawing.draw_mask(decode.read(file), decode_mask(Path(row["mask"]).read_bytes()), NAMES)
    assert (tmp_path / "drawn/08.jpg").read_bytes() == encoded(wanted, "JPEG", quality=92)


def test_a_prediction_that_stops_is_continued(trained, tmp_path):
    data, run, _ = trained
    output, files = tmp_path / "rows.jsonl", tmp_path / "masks"
    options = {"files": files, "output": output, "batch_size": 1}
    wanted = list(mnv2zoo.predict(data / "train/images", str(run), files=files))
    shutil.rmtree(files)
    first = mnv2zoo.predict(data / "train/images", str(run), **options)
    begun = [next(first) for _ in range(3)]
    first.close()
    assert begun == wanted[:3]
    assert not output.exists()
    with pytest.warns(UserWarning, match="resuming an unfinished run after 3 images"):
        rest = list(mnv2zoo.predict(data / "train/images", str(run), **options))
    assert rest == wanted[3:]
    assert [json.loads(line) for line in output.read_text().splitlines()] == wanted
    assert sorted(file.name for file in files.iterdir()) == [f"{number:02}.png" for number in range(8)]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_tables_of_rows(trained, tmp_path, ending):
    data, run, _ = trained
    output = tmp_path / f"rows.{ending}"
    found = list(mnv2zoo.predict(data / "val/images", str(run), output=output))
    if ending == "csv":
        lines = output.read_text().splitlines()
        assert lines[0] == "image,model,mask,pixels"
        assert len(lines) == 5
    else:
        table = pytest.importorskip("pyarrow.parquet").read_table(output).to_pylist()
        assert [dict(row["pixels"]) for row in table] == [row["pixels"] for row in found]


def test_large_rotated_photos_get_masks_as_people_see_them(trained, tmp_path):
    _, run, _ = trained
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = Image.fromarray(
        np.kron(np.asarray(Image.new("RGB", (40, 30), (90, 90, 90))), np.ones((40, 40, 1), np.uint8))
    )
    photo.save(tmp_path / "photo.jpg", exif=exif)  # 1600 x 1200 as it is stored
    for exact in (False, True):
        (row,) = mnv2zoo.predict(tmp_path / "photo.jpg", str(run), files=tmp_path / "masks", exact=exact)
        assert decode_mask(Path(row["mask"]).read_bytes()).shape == (1600, 1200)
        assert sum(row["pixels"].values()) == 1600 * 1200


@pytest.mark.parametrize("head", ["deeplabv3", "smp:Unet", "smp:DeepLabV3Plus"])
def test_other_heads(trained, tmp_path, head):
    data, _, _ = trained
    values = {**QUICK, "head": head, "epochs": 1, "keep": "last"}
    result = mnv2zoo.finetune(data, MODEL, tmp_path / "run", task="segment", **values)
    loaded = segmentation.load(tmp_path / "run", "cpu")
    own = result.model.state_dict()
    assert loaded.state_dict().keys() == own.keys()
    assert all(torch.equal(tensor, own[name]) for name, tensor in loaded.state_dict().items())
    assert (loaded.head, loaded.label_names) == ({"name": head}, NAMES)
    scores = mnv2zoo.evaluate(data, tmp_path / "run")
    assert scores.confusion == result.scores["val"].confusion
    (row,) = mnv2zoo.predict(data / "val/images/08.png", str(tmp_path / "run"))
    assert sum(row["pixels"].values()) == 48 * 36


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"head": "lrasp"}, "head"),
        ({"head": "smp:Nothing"}, "head"),
        ({"output_stride": 16}, "output_stride"),
        ({"head": "deeplabv3", "output_stride": 12}, "output_stride"),
        ({"loss": "bce"}, "loss"),
        ({"mixup": 0.2}, "mixup"),
        ({"auto_augment": "rand-m7"}, "auto_augment"),
        ({"iou_crop": 0.5}, "iou_crop"),
        ({"train_dir": "train"}, "train_dir"),
        ({"layer_decay": 0.7}, "layer_decay"),
        ({"train": "Bottleneck_99"}, "train"),
        ({"start_input_size": 64}, "start_input_size"),
    ],
    ids=str,
)
def test_bad_values_are_refused_before_anything_is_written(trained, tmp_path, values, where):
    data, _, _ = trained
    with pytest.raises(RecipeError) as error:
        mnv2zoo.finetune(data, MODEL, tmp_path / "run", task="segment", **{**QUICK, **values})
    assert error.value.where == where
    assert not (tmp_path / "run").exists()


def test_the_size_follows_the_aspect_of_the_images(trained, tmp_path):
    _, run, _ = trained
    assert json.loads((run / "config.json").read_text())["pretrained_cfg"]["input_size"] == [3, 64, 88]
    assert json.loads((run / "recipe.json").read_text())["recipe"]["input_size"] == 64
    for number in range(4):
        add(tmp_path / "tall", number, size=(32, 64))
    (tmp_path / "tall/classes.txt").write_text("\n".join(NAMES))
    mnv2zoo.finetune(tmp_path / "tall", MODEL, tmp_path / "run", task="segment", **{**QUICK, "epochs": 1})
    found = json.loads((tmp_path / "run/config.json").read_text())["pretrained_cfg"]["input_size"]
    assert found == [3, 64, 32]


def test_a_run_is_a_start_for_others(trained, tmp_path):
    data, run, _ = trained
    still = {**QUICK, "epochs": 1, "lr": 1e-9, "ema_decay": 0.0, "weight_decay": 0.0, "init": str(run)}
    mnv2zoo.finetune(data, MODEL, tmp_path / "same", task="segment", **still)
    was, same = weights(run), weights(tmp_path / "same")
    assert all(torch.allclose(was[name], same[name], atol=1e-6) for name in was if name.endswith(("weight", "bias")))
    mnv2zoo.finetune(data, MODEL, tmp_path / "other", task="segment", head="smp:Linknet", **still)
    other = weights(tmp_path / "other")
    assert torch.allclose(
        was["net.backbone.taps.conv_stem.weight"], other["net.encoder.model.conv_stem.weight"], atol=1e-6
    )


def test_smaller_batches_are_crops_in_which_objects_keep_their_size():
    mask_of = torch.randint(11, (1, 64, 88), dtype=torch.uint8).expand(2, 64, 88)
    images = mask_of[:, None].float().expand(2, 3, 64, 88)
    corners = set()
    for seed in range(20):
        torch.manual_seed(seed)
        inputs, targets = Segment().shrink(images, mask_of, 32, 64)
        assert (inputs.shape, targets.shape, targets.dtype) == ((2, 3, 32, 48), (2, 32, 48), torch.uint8)
        assert torch.equal(inputs, targets[:, None].float().expand(2, 3, 32, 48))
        windows = mask_of[0].unfold(0, 32, 1).unfold(1, 48, 1)
        found = (windows == targets[0]).all(-1).all(-1).nonzero().tolist()
        assert len(found) == 1
        corners.add(tuple(found[0]))
    assert len(corners) > 15


def test_batches_of_masks():
    images = [torch.zeros(3, 4, 6)] * 2
    _, stacked = Segment.collate([(image, torch.zeros(4, 6)) for image in images])
    assert stacked.shape == (2, 4, 6)
    inputs, several = Segment.collate([(images[0], torch.zeros(4, 6)), (images[1], torch.zeros(8, 5))])
    assert inputs.shape == (2, 3, 4, 6)
    assert [mask.shape for mask in several] == [(4, 6), (8, 5)]


def test_masks_of_another_numbering_are_measured_by_name(trained, tmp_path):
    data, run, result = trained
    other = tmp_path / "other"
    (other / "val/masks").mkdir(parents=True)
    (other / "val/images").symlink_to(data / "val/images")
    for file in (data / "val/masks").glob("*.png"):
        numbers = np.array(Image.open(file))
        Image.fromarray(np.where(numbers == VOID, VOID, 2 - numbers).astype(np.uint8)).save(
            other / "val/masks" / file.name
        )
    (other / "classes.txt").write_text("\n".join(NAMES[::-1]))
    assert mnv2zoo.evaluate(other, run, split="all").confusion == result.scores["val"].confusion
    (other / "classes.txt").write_text("car\nroad\nheaven\n")
    with pytest.raises(DataError) as error:
        mnv2zoo.evaluate(other, run, split="all")
    assert error.value.found == "heaven"


def test_the_ignored_number_is_that_of_the_run_unless_another_is_given(trained, tmp_path):
    data, run, result = trained
    other = tmp_path / "other"
    shutil.copytree(data, other)
    for file in other.glob("*/masks/*.png"):
        numbers = np.array(Image.open(file))
        Image.fromarray(np.where(numbers == VOID, 9, numbers).astype(np.uint8)).save(file)
    scores = mnv2zoo.evaluate(other, run, ignore_index=9)
    assert scores.confusion == result.scores["val"].confusion
    values = {**QUICK, "epochs": 1, "ignore_index": 9}
    trained_on_other = mnv2zoo.finetune(other, MODEL, tmp_path / "run", task="segment", **values)
    assert mnv2zoo.evaluate(other, tmp_path / "run").confusion == trained_on_other.scores["val"].confusion
    (other / "val/masks/08.png").write_bytes(b"nothing")
    with pytest.raises(DataError) as error:
        mnv2zoo.evaluate(other, tmp_path / "run")
    unreadable = "masks that cannot be read, such as with 'an unknown image format': 1 (val/images/08.png)"
    assert error.value.found == unreadable  # and no word of the number 9, which is still ignored


def test_a_package_is_loaded_evaluated_and_predicts(trained, tmp_path):
    data, run, result = trained
    made = pack(run, f"{MODEL}.streets", "MIT", tmp_path / "package")
    assert made.index_entry() == {}  # by a name of the index, a classifier would be built
    assert made.beyond["head"] == {"name": "lraspp"}
    loaded = segmentation.load(tmp_path / "package", "cpu")
    own = result.model.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in loaded.state_dict().items())
    scores = mnv2zoo.evaluate(data, tmp_path / "package", split="val")
    assert scores.confusion == result.scores["val"].confusion
    (row,) = mnv2zoo.predict(data / "val/images/08.png", str(tmp_path / "package"))
    assert row["pixels"]
    card = ModelCard.load(tmp_path / "package/README.md")
    assert card.data.pipeline_tag == "image-segmentation"
    assert "mnv2zoo.segmentation.load" in card.text


def test_a_run_that_is_interrupted_resumes_bit_for_bit(trained, tmp_path, monkeypatch):
    data, _, _ = trained
    values = {**QUICK, "workers": 1, "checkpoint_steps": 1, "start_input_size": 32, "input_size": 48, "epochs": 3}
    values |= {"class_weights": "balanced", "region_loss": "lovasz", "rotate": 0.5, "ema_decay": 0.9}
    mnv2zoo.finetune(data, MODEL, tmp_path / "whole", task="segment", **values)
    with interrupted_after(monkeypatch, 1, 1):
        mnv2zoo.finetune(data, MODEL, tmp_path / "cut", task="segment", **values)
    mnv2zoo.finetune(data, out=tmp_path / "cut", resume=True)
    assert equal(tmp_path / "whole", tmp_path / "cut")
    assert [row["train_loss"] for row in rows(tmp_path / "whole")] == [
        row["train_loss"] for row in rows(tmp_path / "cut")
    ]
    record = json.loads((tmp_path / "cut/recipe.json").read_text())
    assert len(record["class_weights"]) == 3


def test_class_weights_come_from_a_file_by_the_names_of_the_classes(trained, tmp_path):
    data, _, _ = trained
    file = tmp_path / "weights.json"
    file.write_text('{"car": 4, "sky": 1, "road": 0.5}')
    values = {**QUICK, "epochs": 1, "class_weights": str(file)}
    mnv2zoo.finetune(data, MODEL, tmp_path / "run", task="segment", **values)
    assert json.loads((tmp_path / "run/recipe.json").read_text())["class_weights"] == [1, 0.5, 4]
    mnv2zoo.finetune(data, MODEL, tmp_path / "plain", task="segment", **{**values, "class_weights": None})
    assert rows(tmp_path / "run")[0]["train_loss"] != rows(tmp_path / "plain")[0]["train_loss"]
    file.write_text('{"car": 4, "sky": 1}')
    with pytest.raises(RecipeError) as raised:
        mnv2zoo.finetune(data, MODEL, tmp_path / "other", task="segment", **values)
    assert raised.value.found == "no weight for road"
    assert not (tmp_path / "other").exists()


def test_bf16(trained, tmp_path):
    data, _, _ = trained
    values = {**QUICK, "precision": "bf16", "region_loss": "dice"}
    result = mnv2zoo.finetune(data, MODEL, tmp_path / "run", task="segment", **values)
    assert all(np.isfinite(row["train_loss"]) for row in result.history)
    assert 0 < result.scores["val"].pixel_accuracy < 100


@pytest.mark.slow
def test_a_run_that_is_killed_resumes_bit_for_bit(tmp_path):
    data = fill(tmp_path / "data", 16, 4)
    values = {**QUICK, "task": "segment", "epochs": 4, "workers": 1, "checkpoint_steps": 1}
    flags = [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    words = ["finetune", str(data), "--model", MODEL, *flags, "--out"]
    done = process(*words, str(tmp_path / "whole"))
    assert done.returncode == 0, done.stderr
    run = tmp_path / "killed"
    child = subprocess.Popen(
        [sys.executable, "-m", "mnv2zoo", *words, str(run)], env=environment(), stdout=subprocess.DEVNULL
    )
    seen = set()
    while len(seen) < 7 and child.poll() is None:
        if (run / "checkpoints/last.pt").exists():
            seen.add((run / "checkpoints/last.pt").stat().st_mtime_ns)
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    assert child.wait(timeout=60) == -signal.SIGKILL
    done = process("finetune", str(data), "--out", str(run), "--resume")
    assert done.returncode == 0, done.stderr
    assert "resuming after epoch" in done.stdout
    assert equal(tmp_path / "whole", run)


@pytest.mark.slow
def test_two_processes_measure_every_image_once(tmp_path):
    data = fill(tmp_path / "data", 8, 5)
    values = {**QUICK, "task": "segment"}
    flags = [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    launcher = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")
    done = process("finetune", str(data), "--model", MODEL, *flags, "--out", str(tmp_path / "run"), launcher=launcher)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "run/results.json").read_text())["val"]
    scores = mnv2zoo.evaluate(data, tmp_path / "run")
    assert written == {key: value for key, value in scores.to_json().items() if key != "measured"}
    labeled = sum(int((mask(number) != VOID).sum()) for number in range(8, 13))
    assert sum(row["pixels"] for row in written["classes"].values()) == labeled


@pytest.mark.slow
def test_the_command_line(trained, tmp_path):
    data, run, result = trained
    done = process("evaluate", str(data), "--model", str(run), "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["miou"] == pytest.approx(result.scores["val"].miou, abs=1e-4)
    assert list(document["classes"]) == list(NAMES)
    done = process("evaluate", str(data), "--model", str(run))
    assert done.stdout.splitlines()[-1].startswith(f"4 images: mIoU {result.scores['val'].miou:.2f} %")
    file = data / "val/images/08.png"
    done = process("predict", str(file), "--model", str(run), "--files", str(tmp_path / "masks"))
    lines = done.stdout.splitlines()
    assert lines[0] == str(file)
    assert lines[-1] == f"  mask: {tmp_path / 'masks/08.png'}"


@pytest.mark.slow
def test_a_quantized_segmenter_sees_calibration_images_as_it_was_trained(trained):
    data, run, _ = trained
    photo, folder = data / "val/images/08.png", data / "train/images"
    (row,) = mnv2zoo.predict(photo, str(run), engine="openvino", precision="int8", calibration=folder)
    network = Segment().load_model(str(run), "cpu")
    images = torch.stack([network.fast.tensor(decode.read(file)) for file in sorted(folder.iterdir())])
    example = network.fast.tensor(decode.read(photo))[None]
    fast = deploy.optimize(network.model, example, "openvino", "int8", calibration=images)
    counts = np.bincount(class_mask(fast(example)[0].numpy(), (48, 36)).ravel(), minlength=3)
    assert [row["pixels"].get(name, 0) for name in NAMES] == pytest.approx(counts.tolist(), abs=10)
