"""Whole folders: memory, engines, and the preprocessing that is known before the network is."""

import csv
import json
import os
import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import mnv2zoo
from mnv2zoo.errors import ArgumentError, DeployError, DeviceError, ImageReadError, OutputError, TaskError
from mnv2zoo.inference import predict
from mnv2zoo.inference.predict import Settings
from mnv2zoo.models import pretrained
from mnv2zoo.models.names import describe
from mnv2zoo.tasks import find_task
from tests.conftest import save_photos

BUNDLED = "mnv2zoo_100_c20"  # weights that come with the package


@pytest.fixture
def photos(tmp_path):
    return save_photos(tmp_path / "photos", 7)


def resident():
    """Megabytes of memory that this process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tiny, tmp_path):
    folder = save_photos(tmp_path / "photos", 10, links=600)
    count, early = 0, 0.0
    for count, _ in enumerate(mnv2zoo.predict(folder, tiny, output=tmp_path / "rows.csv"), 1):
        if count == 2000:
            early = resident()
    assert count == 6000
    # The queue is bounded: the pixels of 4000 images alone would take 12 MB.
    assert resident() - early < 8


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_agree(tiny, photos, engine):
    pytest.importorskip(engine)
    wanted = list(mnv2zoo.predict(photos, tiny))
    found = list(mnv2zoo.predict(photos, tiny, engine=engine))
    assert [row["image"] for row in found] == [row["image"] for row in wanted]
    for row, other in zip(found, wanted, strict=True):
        assert [p["score"] for p in row["predictions"]] == pytest.approx(
            [p["score"] for p in other["predictions"]], abs=1e-4
        )


def test_what_the_engine_does_not_know_is_one_error(tiny, photos):
    with pytest.raises(DeployError, match="the engine torch does not support int8"):
        list(mnv2zoo.predict(photos, tiny, precision="int8", calibration=photos))
    with pytest.raises(DeployError, match="the engine torch does not support fp16"):
        list(mnv2zoo.predict(photos, tiny, precision="fp16"))


def test_an_engine_on_a_device_that_is_not_there_is_an_error(tiny, photos):
    with pytest.raises(DeviceError) as error:
        list(mnv2zoo.predict(photos, tiny, engine="torch", device="cuda:99"))
    assert error.value.problem == "cannot use the device 'cuda:99'"


def test_the_preprocessing_is_known_before_the_network_is(tiny):
    for name in (tiny, f"local-dir:{tiny}", BUNDLED, "mnv2zoo_100_c20.cifar100_coarse"):
        found = describe(name).preprocessing
        assert found is not None
        assert found == pretrained.load(name, "cpu").fast


@pytest.fixture
def calibrated(tiny, tmp_path):
    """The same network with a temperature."""
    folder = tmp_path / "calibrated"
    shutil.copytree(tiny, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"temperature": 0.25}))
    return str(folder)


def scores(rows):
    return [[p["score"] for p in row["predictions"]] for row in rows]


def with_temperature(rows, temperature):
    """The scores with the logits divided by a temperature."""
    powers = [[score ** (1 / temperature) for score in row] for row in scores(rows)]
    return [[power / sum(row) for power in row] for row in powers]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"exact": True},
        {"engine": "torch"},
        {"engine": "onnxruntime"},
        {"engine": "openvino"},
        {"engine": "onnxruntime", "cache": True},
    ],
    ids=str,
)
def test_the_temperature_of_a_run_divides_the_logits_on_every_engine(tiny, calibrated, photos, tmp_path, options):
    if "engine" in options and options["engine"] != "torch":
        pytest.importorskip(options["engine"])
    if "cache" in options:
        options = {**options, "cache": tmp_path / "cache"}
    plain = list(mnv2zoo.predict(photos, tiny, **options))
    found = list(mnv2zoo.predict(photos, calibrated, **options))
    for row, wanted in zip(scores(found), with_temperature(plain, 0.25), strict=True):
        assert row == pytest.approx(wanted, abs=2e-5)
    assert [[p["class"] for p in row["predictions"]] for row in found] == [
        [p["class"] for p in row["predictions"]] for row in plain
    ]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_rows_whose_top_score_is_too_low_are_rejected_in_every_format(tiny, photos, tmp_path, ending):
    plain = list(mnv2zoo.predict(photos, tiny))
    tops = sorted(row[0] for row in scores(plain))
    lowest = tops[len(tops) // 2]  # which is not under itself
    rejected = [row[0] < lowest for row in scores(plain)]
    assert True in rejected
    assert False in rejected
    file = tmp_path / f"rows.{ending}"
    found = list(mnv2zoo.predict(photos, tiny, reject_below=lowest, output=file))
    assert found == [row | ({"rejected": True} if own else {}) for row, own in zip(plain, rejected, strict=True)]
    if ending == "jsonl":
        assert [json.loads(line) for line in file.read_text().splitlines()] == found
    elif ending == "csv":
        with file.open(newline="") as open_file:
            rows = list(csv.DictReader(open_file))
        assert [row["rejected"] for row in rows] == [str(own).lower() for own in rejected]
        assert [float(row["score_1"]) for row in rows] == pytest.approx([row[0] for row in scores(plain)])
    else:
        table = pytest.importorskip("pyarrow.parquet").read_table(file)
        assert table["rejected"].to_pylist() == rejected
        assert [row[0]["label"] for row in table["predictions"].to_pylist()] == [
            row["predictions"][0]["label"] for row in plain
        ]
    describe = find_task("classify").describe
    assert [describe(row).splitlines()[0].endswith("  (rejected)") for row in found] == rejected


def test_without_a_limit_files_have_no_column_for_rejected_rows(tiny, photos, tmp_path):
    list(mnv2zoo.predict(photos, tiny, output=tmp_path / "rows.csv"))
    assert "rejected" not in (tmp_path / "rows.csv").read_text()


def test_an_unfinished_file_is_not_continued_with_another_limit(tiny, photos, tmp_path):
    begun = mnv2zoo.predict(photos, tiny, batch_size=1, reject_below=0.5, output=tmp_path / "rows.jsonl")
    next(begun)
    begun.close()
    with pytest.raises(OutputError) as error:
        list(mnv2zoo.predict(photos, tiny, reject_below=0.6, output=tmp_path / "rows.jsonl"))
    assert error.value.expected == "reject_below 0.5"


@pytest.mark.parametrize(
    ("task", "limit", "kind"),
    [("detect", 0.5, TaskError), ("segment", 0.5, TaskError), ("classify", 1.5, ArgumentError)],
)
def test_a_limit_that_makes_no_sense_is_an_error(tiny, task, limit, kind):
    with pytest.raises(kind) as error:
        Settings(tiny, task=task, reject_below=limit).find_task()
    assert error.value.where == "reject_below"


class Slow:
    """Predicts batches of numbers, the even ones slowly. It notes the threads and the most batches at the same time."""

    def __init__(self, engine):
        self.session, self.threads, self.running, self.most = SimpleNamespace(engine=engine), set(), 0, 0

    def __call__(self, files, prepared):
        self.threads.add(threading.get_ident())
        self.running += 1
        self.most = max(self.most, self.running)
        time.sleep(0.1 if prepared[0] % 2 == 0 else 0)
        self.running -= 1
        return [{"image": file, "value": 2 * value} for file, value in zip(files, prepared, strict=True)]


def batches(count):
    """Batches of a number and an image that cannot be read."""
    return [[(f"{n}.jpg", n), ("bad.jpg", ImageReadError("bad.jpg"))] for n in range(count)]


def test_two_batches_on_a_runtime_run_at_the_same_time_and_their_rows_stay_in_order():
    predictor = Slow("openvino")
    found = list(predict._in_turns(iter(batches(7)), predictor))
    assert [rows for _, rows in found] == [[{"image": f"{n}.jpg", "value": 2 * n}] for n in range(7)]
    assert [batch[0] for batch, _ in found] == [(f"{n}.jpg", n) for n in range(7)]
    assert predictor.most == predict.IN_TURNS


def test_batches_of_pytorch_run_one_after_another_in_the_same_thread():
    predictor = Slow("torch")
    assert len(list(predict._in_turns(iter(batches(4)), predictor))) == 4
    assert (predictor.threads, predictor.most) == ({threading.get_ident()}, 1)


def test_an_error_in_a_batch_comes_after_the_rows_before_it():
    class Failing(Slow):
        def __call__(self, files, prepared):
            if prepared[0] == 3:
                raise DeployError("the engine failed")
            return super().__call__(files, prepared)

    found = predict._in_turns(iter(batches(9)), Failing("openvino"))
    assert [next(found)[1][0]["value"] for _ in range(3)] == [0, 2, 4]
    with pytest.raises(DeployError, match="the engine failed"):
        next(found)


def test_rows_that_nobody_asks_for_are_not_computed():
    before, predictor = threading.active_count(), Slow("openvino")
    found = predict._in_turns(iter(batches(100)), predictor)
    next(found), next(found)
    found.close()
    assert threading.active_count() == before
