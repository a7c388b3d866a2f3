"""What engines start from is kept, and used only while it is what was kept."""

import os
import threading
import warnings

import pytest
import timm
import torch
from torch import nn
from torchvision.transforms.functional import to_pil_image

import mnv2zoo
from mnv2zoo import deploy
from mnv2zoo.deploy import engines
from mnv2zoo.deploy.fingerprint import cache_key
from mnv2zoo.errors import DeployError
from mnv2zoo.runtimes import cache
from mnv2zoo.runtimes.cache import Cache
from tests.conftest import random_state_dict

SMALL = "mnv2zoo_035"
KEPT = [name for name, engine in engines.ENGINES.items() if engine.prepare]


def network(name=SMALL, **kwargs):
    torch.manual_seed(0)
    model = timm.create_model(name, **kwargs).eval()
    model.load_state_dict(random_state_dict(name, **kwargs))
    return model


@pytest.fixture
def x():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def kept(tmp_path):
    return Cache(tmp_path / "engines", {"model": "a"})


def entries(folder):
    return sorted(folder.glob("*.engine"))


def refuse(*args, **kwargs):
    raise AssertionError("made again")


@pytest.mark.slow
@pytest.mark.parametrize("engine", KEPT)
def test_a_second_process_makes_nothing_again(engine, x, tmp_path, monkeypatch):
    first = deploy.optimize(network(), x, engine, cache=tmp_path)
    (file,) = entries(tmp_path)
    before = file.read_bytes()
    monkeypatch.setattr(engines, "to_onnx", refuse)
    second = deploy.optimize(network(), x, engine, cache=tmp_path)
    assert torch.equal(first(x), second(x))
    assert file.read_bytes() == before
    assert file.stat().st_mode & 0o077 == 0


@pytest.mark.slow
@pytest.mark.parametrize("engine", KEPT)
def test_int8_keeps_what_was_measured_and_reads_no_image_again(engine, tmp_path, monkeypatch):
    model = network("mnv2zoo_050_c20", num_classes=2)
    pictures = torch.rand(12, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for number, image in enumerate(pictures):
        folder = tmp_path / "photos" / ("even", "odd")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        to_pil_image(image).save(folder / f"{number}.png")

    def optimize():
        return deploy.optimize(
            model, pictures[:1], engine, "int8", calibration=tmp_path / "photos", cache=tmp_path / "engines"
        )

    first = optimize()
    monkeypatch.setattr(mnv2zoo.data.decode, "read", refuse)
    second = optimize()
    assert (first.agreement, first.accuracy) == (second.agreement, second.accuracy)
    assert torch.equal(first(pictures), second(pictures))
    (tmp_path / "photos/odd/1.png").rename(tmp_path / "photos/even/1.png")
    with pytest.raises(AssertionError, match="made again"):
        optimize()


@pytest.mark.slow
def test_auto_keeps_what_it_tries(x, tmp_path, monkeypatch):
    deploy.optimize(network(), x, cache=tmp_path)
    assert len(entries(tmp_path)) == len(KEPT)
    monkeypatch.setattr(engines, "to_onnx", refuse)
    fast = deploy.optimize(network(), x, cache=tmp_path)
    assert {attempt.engine for attempt in fast.tried if attempt.milliseconds} == {"torch", *KEPT}


def flip(content):
    return content[:-100] + bytes([content[-100] ^ 1]) + content[-99:]


@pytest.mark.parametrize(
    "alter", [flip, lambda content: content[: len(content) // 2], lambda content: b"", lambda content: b"junk\njunk"]
)
def test_what_was_altered_is_made_again_with_a_warning(alter, kept):
    parts = {"model": bytes(range(256)) * 10}
    assert kept.fetch({}, lambda: parts, dict) == parts
    (file,) = entries(kept.folder)
    sound = file.read_bytes()
    file.write_bytes(alter(sound))
    with pytest.warns(UserWarning, match="is rebuilt"):
        assert kept.fetch({}, lambda: parts, dict) == parts
    assert file.read_bytes() == sound
    assert kept.fetch({}, refuse, dict) == parts


def test_an_entry_under_another_name_is_not_used(kept):
    kept.fetch({"engine": "one"}, lambda: {"model": b"one"}, dict)
    (one,) = entries(kept.folder)
    kept.fetch({"engine": "two"}, lambda: {"model": b"two"}, dict)
    two = next(file for file in entries(kept.folder) if file != one)
    two.write_bytes(one.read_bytes())
    with pytest.warns(UserWarning, match="built for another key"):
        assert kept.fetch({"engine": "two"}, lambda: {"model": b"two"}, dict) == {"model": b"two"}


@pytest.mark.slow
@pytest.mark.parametrize("engine", KEPT)
@pytest.mark.parametrize("other", ["another network", "no network"])
def test_an_entry_whose_hash_was_altered_too_must_compute_what_the_model_computes(engine, other, x, tmp_path):
    model = network()
    deploy.optimize(model, x, engine, cache=tmp_path)
    (file,) = entries(tmp_path)
    known = bytes(cache.safetensors.numpy.load(file.read_bytes().partition(b"\n")[2])["key"])
    stranger = timm.create_model(SMALL).eval()
    forged = engines.to_onnx(stranger, x) if other == "another network" else b"no network at all"
    cache._write(file, known, {"model": forged})
    with pytest.warns(UserWarning, match="is rebuilt"):
        fast = deploy.optimize(model, x, engine, cache=tmp_path)
    with torch.inference_mode():
        torch.testing.assert_close(fast(x), model(x), rtol=1e-3, atol=1e-3)


def test_what_fails_its_check_is_not_kept(kept):
    def check(parts):
        raise DeployError("unfit")

    with pytest.raises(DeployError, match="unfit"):
        kept.fetch({}, lambda: {"model": b"x"}, check)
    assert entries(kept.folder) == []


def test_another_network_or_image_is_another_entry(x):
    model = network()
    key = cache_key(model, x)
    assert cache_key(network(), x[:1]) == key
    changed = network()
    with torch.no_grad():
        changed.conv_head.weight[0, 0] += 1e-6
    others = [
        cache_key(changed, x),
        cache_key(network(pad_type="same"), x),
        cache_key(network("mnv2zoo_050"), x),
        cache_key(model, x[..., :32]),
        cache_key(model, x.double()),
        cache_key(model, x, "calibration"),
        *(
            cache_key(mnv2zoo.features.BottleneckTaps(model, names, where), x)
            for names in (["C1", "Bottleneck_3"], ["Bottleneck_3", "C1"])
            for where in ("output", "expansion")
        ),
    ]
    known = [key, *others]
    assert len({str(sorted(found.items())) for found in known}) == len(known)


def test_versions_are_of_packages_as_they_are_imported():
    import PIL

    assert cache.versions(["PIL", "torch"]) == {"PIL": PIL.__version__, "torch": torch.__version__.partition("+")[0]}


def test_one_makes_it_while_others_wait(kept):
    made, ready, results = [], threading.Barrier(3), []

    def make():
        made.append(1)
        return {"model": b"x"}

    def work():
        ready.wait()
        results.append(kept.fetch({}, make, dict))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [{"model": b"x"}] * 3
    assert len(made) == 1


def test_a_folder_that_cannot_be_written_serves_what_it_holds(kept):
    kept.fetch({}, lambda: {"model": b"x"}, dict)
    for lock in kept.folder.glob("*.lock"):
        lock.unlink()
        lock.mkdir()  # no lock can be had, whoever runs this
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kept.fetch({}, refuse, dict) == {"model": b"x"}
    entries(kept.folder)[0].write_bytes(b"altered")
    with pytest.raises(DeployError, match="cannot write to the cache folder"):
        kept.fetch({}, refuse, dict)


def test_a_folder_that_others_may_write_is_refused(x, tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(DeployError, match="chmod go-w"):
        deploy.optimize(network(), x, "onnxruntime", cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_others_may_write_is_not_used(kept):
    kept.fetch({}, lambda: {"model": b"x"}, dict)
    entries(kept.folder)[0].chmod(0o660)
    with pytest.warns(UserWarning, match="other users may write"):
        assert kept.fetch({}, lambda: {"model": b"y"}, dict) == {"model": b"y"}
    assert kept.fetch({}, refuse, dict) == {"model": b"y"}


def test_bad_caches_are_told(x, tmp_path):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(DeployError, match="cannot write to the cache folder"):
        deploy.optimize(network(), x, "onnxruntime", cache=tmp_path / "file" / "engines")
    with pytest.raises(DeployError, match="Leave out cache="):
        deploy.optimize(Odd().eval(), x, "onnxruntime", cache=tmp_path)


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.function = lambda x: x.mean((2, 3))

    def forward(self, x):
        return self.function(x)


def test_entries_that_were_not_used_for_the_longest_time_make_room(tmp_path):
    full = Cache(tmp_path / "engines", most=5000)
    for number in range(3):
        full.fetch({"number": str(number)}, lambda: {"model": bytes(1500)}, dict)
    for age, entry in enumerate(full.entries()):
        os.utime(entry.file, (1000 - age, 1000 - age))
    oldest = full.entries()[-1].about["number"]
    assert full.fetch({"number": oldest}, refuse, dict) == {"model": bytes(1500)}  # so it is the youngest now
    full.fetch({"number": "3"}, lambda: {"model": bytes(1500)}, dict)
    left = {entry.about["number"] for entry in full.entries()}
    assert left == {"3", oldest}


def test_the_newest_entry_stays_however_large_it_is(tmp_path):
    full = Cache(tmp_path / "engines", most=10)
    full.fetch({"number": "0"}, lambda: {"model": bytes(1500)}, dict)
    full.fetch({"number": "1"}, lambda: {"model": bytes(1500)}, dict)
    assert [entry.about["number"] for entry in full.entries()] == ["1"]


def test_entries_are_listed_and_cleared(kept):
    assert (kept.entries(), kept.clear()) == ([], 0)
    kept.fetch({"engine": "one"}, lambda: {"model": b"x"}, dict)
    kept.folder.joinpath("junk.engine").write_bytes(b"junk")
    listed = {entry.file.name: entry.about for entry in kept.entries()}
    assert listed.pop("junk.engine") == {}
    assert list(listed.values()) == [{"engine": "one", "model": "a"}]
    taken = sum(entry.size for entry in kept.entries())
    assert kept.clear() == taken
    assert list(kept.folder.iterdir()) == []


def test_an_optional_folder_that_others_may_write_is_done_without(tmp_path):
    tmp_path.chmod(0o777)
    with pytest.warns(UserWarning, match="engines are not cached: other users may write"):
        assert Cache(tmp_path, optional=True).fetch({}, lambda: {"model": b"x"}, dict) == {"model": b"x"}
    assert list(tmp_path.iterdir()) == []


def test_an_optional_folder_that_cannot_be_written_is_done_without(tmp_path):
    (tmp_path / "file").write_text("mine")
    made = []

    def make():
        made.append(1)
        return {"model": b"x"}

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Cache(tmp_path / "file" / "engines", optional=True).fetch({}, make, dict) == {"model": b"x"}
    assert made == [1]


def test_a_user_without_a_home_keeps_nothing(monkeypatch):
    monkeypatch.setenv("MNV2ZOO_HOME", "~nobody-of-that-name/x")
    assert Cache.at_home().folder is None


def test_numbers_are_added_up_over_processes_by_key(kept, tmp_path):
    assert kept.add({"kept": "count"}, 700) == 700
    assert Cache(tmp_path / "engines", {"model": "a"}).add({"kept": "count"}, 900) == 1600
    assert Cache(tmp_path / "engines", {"model": "b"}).add({"kept": "count"}, 1) == 1
    (about,) = (entry.about for entry in kept.entries() if entry.about["model"] == "a")
    assert about == {"model": "a", "kept": "count"}


def test_a_damaged_sum_starts_again(kept):
    kept.add({}, 700)
    (file,) = entries(kept.folder)
    file.write_bytes(file.read_bytes()[:-1])
    assert kept.add({}, 900) == 900
    assert kept.add({}, 1) == 901


def test_threads_lose_no_number(kept):
    threads = [threading.Thread(target=kept.add, args=({}, 10)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kept.add({}, 0) == 80


def test_without_a_folder_numbers_are_not_added_up(tmp_path):
    (tmp_path / "file").touch()
    unwritable = tmp_path / "file/engines"
    for cache_ in (Cache(None), Cache(unwritable, optional=True)):
        assert [cache_.add({}, 700), cache_.add({}, 900)] == [700, 900]
    with pytest.raises(DeployError, match="cannot write to the cache folder"):
        Cache(unwritable).add({}, 700)
