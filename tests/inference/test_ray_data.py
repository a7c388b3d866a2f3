"""The Ray pipeline, on a Ray of this machine."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

import mnv2zoo
from mnv2zoo.cli import main
from mnv2zoo.errors import ImageReadError, OutputError
from mnv2zoo.inference.predict import Settings
from tests.conftest import ROOT, save_photos

pytest.importorskip("ray")
import pyarrow.parquet
import ray

from mnv2zoo.inference import ray_data as on_ray

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    """Ray with two cores, for two workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
        yield
        ray.shutdown()


def children(parent):
    """The processes below one."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, ppid = int(stat.parent.name), int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
        if ppid == parent:
            found += [pid, *children(pid)]
    return found


def workers():
    """Processes of this Ray that hold the network, by Ray's name for them."""

    def title(pid):
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return b""

    return [pid for pid in children(os.getpid()) if title(pid).startswith(b"ray::") and b"(Worker)" in title(pid)]


def test_nothing_is_lost_or_twice_when_a_worker_is_killed(cluster, tiny, tmp_path):
    photos = save_photos(tmp_path / "photos", 20, links=20)
    (photos / "00003.jpg").unlink()
    (photos / "00003.jpg").write_text("no image")
    partial, output = tmp_path / ".rows.partial", tmp_path / "rows"
    told = []
    job = threading.Thread(
        target=lambda: told.extend(
            on_ray.predict([str(photos)], str(output), Settings(tiny, topk=2), batch_size=4, workers=2)
        )
    )
    job.start()
    while not any(partial.glob("*.parquet")):  # rows have been written
        assert job.is_alive()
        time.sleep(0.01)
    both = workers()
    os.kill(both[0], signal.SIGKILL)
    assert not output.exists()
    job.join()

    assert len(both) == 2
    assert not partial.exists()
    rows = pyarrow.parquet.read_table(output).to_pylist()
    assert sorted(row["image"] for row in rows) == sorted(map(str, photos.iterdir()))
    (error,) = told
    assert Path(error.where).name == "00003.jpg"
    predicted = mnv2zoo.predict(photos, tiny, topk=2, engine="torch")
    wanted = {row["image"]: row for row in predicted if isinstance(row, dict)}
    for row in rows:
        if row["error"]:
            assert (Path(row["image"]).name, row["predictions"]) == ("00003.jpg", [])
            continue
        assert [p["score"] for p in row["predictions"]] == pytest.approx(
            [p["score"] for p in wanted[row["image"]]["predictions"]], abs=1e-5
        )


def test_any_source_of_ray_is_classified(cluster, tiny, tmp_path):
    files = sorted(save_photos(tmp_path / "photos", 3).iterdir())
    table = ray.data.from_items([{"path": f"row {n}", "bytes": file.read_bytes()} for n, file in enumerate(files)])
    rows = on_ray.classify(table, Settings(tiny), workers=1).take_all()
    assert sorted(row["image"] for row in rows) == ["row 0", "row 1", "row 2"]
    assert all(len(row["predictions"]) == 3 for row in rows)


def test_a_folder_that_holds_something_is_left_alone(cluster, tiny, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="new or empty"):
        on_ray.predict([str(tmp_path)], str(tmp_path), Settings(tiny))
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_a_place_without_images_is_one_error(cluster, tiny, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ImageReadError, match="no images"):
        on_ray.predict([str(tmp_path)], str(tmp_path / "rows"), Settings(tiny))
    assert not (tmp_path / "rows").exists()


def test_ray_finds_the_images_that_predict_finds(cluster, tiny, tmp_path):
    photos = save_photos(tmp_path / "photos", 4)
    (photos / "00000.jpg").rename(photos / "_DSC0001.jpg")
    (photos / "00001.jpg").rename(photos / "._00001.jpg")
    (tmp_path / "more").mkdir()
    (photos / "00002.jpg").rename(tmp_path / "more/a.jpg")
    (photos / "linked").symlink_to(tmp_path / "more")
    (photos / "lost.jpg").symlink_to("nowhere")
    with pytest.warns(UserWarning, match="ignored: 1 hidden file"):
        (error,) = on_ray.predict([str(photos)], str(tmp_path / "rows"), Settings(tiny), workers=1)
    assert error.where == photos / "lost.jpg"
    found = [row["image"] for row in pyarrow.parquet.read_table(tmp_path / "rows").to_pylist()]
    assert sorted(found) == [str(photos / name) for name in ("00003.jpg", "_DSC0001.jpg", "linked/a.jpg")]


def test_the_command_tells_of_what_cannot_be_read(cluster, tiny, tmp_path, capsys):
    photos = save_photos(tmp_path / "photos", 3)
    (photos / "00001.jpg").write_text("no image")
    command = ["predict", str(photos), "--model", tiny, "--ray", "--workers", "1"]
    with pytest.raises(SystemExit) as exited:
        main([*command, "--output", str(tmp_path / "rows")])
    out, err = capsys.readouterr()
    assert (exited.value.code, out) == (1, f"{tmp_path / 'rows'}\n")
    assert f"  where: {photos / '00001.jpg'}\n" in err
    with pytest.raises(SystemExit) as exited:
        main(command)
    assert exited.value.code == 2
