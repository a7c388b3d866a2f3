"""Each of Accelerate's variables is honored whole or refused by name."""

import os

import pytest
import torch
from timm.data import Mixup

import mnv2zoo
from mnv2zoo.errors import DeviceError, RecipeError
from mnv2zoo.tasks.recipe import Recipe
from mnv2zoo.training import accelerate_settings
from tests.training.runs import MODEL, ONE, cli, equal


@pytest.mark.slow
def test_mixup_asks_each_process_for_an_even_batch(monkeypatch):
    class Two:
        num_processes, device = 2, torch.device("cpu")

        def __init__(self, dataloader_config, **options):
            self.dataloader_config = dataloader_config

    monkeypatch.setattr(accelerate_settings, "Accelerator", Two)
    with pytest.raises(RecipeError) as error:
        accelerate_settings.start(Recipe(batch_size=6, mixup=0.2))
    assert (error.value.where, "3 images per process" in str(error.value.found)) == ("batch_size", True)
    with pytest.raises(AssertionError):  # what would come of it
        Mixup(0.2)(torch.rand(3, 3, 8, 8), torch.zeros(3, dtype=torch.long))
    accelerate_settings.start(Recipe(batch_size=8, mixup=0.2))
    accelerate_settings.start(Recipe(batch_size=6))
    with pytest.raises(RecipeError):
        accelerate_settings.start(Recipe(batch_size=2))


@pytest.mark.slow
@pytest.mark.environment
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GRADIENT_ACCUMULATION_STEPS", "8"),
        ("GRADIENT_ACCUMULATION_STEPS", "many"),
        ("MIXED_PRECISION", "bf16"),
        ("MIXED_PRECISION", "fp16"),
        ("MIXED_PRECISION", "fp8"),
        ("DYNAMO_BACKEND", "INDUCTOR"),
        ("USE_DEEPSPEED", "true"),
        ("USE_FSDP", "true"),
        ("USE_MEGATRON_LM", "true"),
        ("USE_PARALLELISM_CONFIG", "true"),
        ("USE_SAGEMAKER", "true"),
        ("DOWNCAST_BF16", "1"),
        ("GRADIENT_CLIPPING", "1.0"),
    ],
)
def test_an_environment_that_would_change_the_result_is_refused_by_name(photos, tmp_path, monkeypatch, variable, value):
    monkeypatch.setenv(f"ACCELERATE_{variable}", value)
    with pytest.raises(RecipeError) as error:
        mnv2zoo.finetune(photos, MODEL, tmp_path / "run", **ONE)
    assert error.value.where == f"ACCELERATE_{variable}"
    assert f"ACCELERATE_{variable}" in error.value.fix
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("device", ["toaster", "cuda:99"])
def test_a_device_that_is_not_there_is_an_error_before_anything_is_written(photos, tmp_path, device):
    with pytest.raises(DeviceError) as error:
        mnv2zoo.finetune(photos, MODEL, tmp_path / "run", device=device, **ONE)
    assert device in error.value.problem
    assert "cpu" in error.value.expected
    assert not (tmp_path / "run").exists()


@pytest.mark.environment
def test_several_processes_are_given_a_kind_of_device_alone(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DeviceError) as error:
        accelerate_settings.start(Recipe(), "cpu:0")
    assert (error.value.where, error.value.found) == ("device", "cpu:0")
    assert "--device cpu" in error.value.fix


def test_fp16_needs_a_gpu(photos, tmp_path):
    with pytest.raises(RecipeError) as error:
        mnv2zoo.finetune(photos, MODEL, tmp_path / "run", device="cpu", **ONE, precision="fp16")
    assert error.value.where == "precision"
    assert not (tmp_path / "run").exists()


def test_deterministic_algorithms_are_asked_for_during_the_training_alone(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = torch.backends.cudnn.benchmark
    with accelerate_settings.algorithms(Recipe(deterministic=True), sizes_differ=False):
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert not torch.backends.cudnn.benchmark
    assert not torch.are_deterministic_algorithms_enabled()
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    for sizes_differ in (False, True):
        with accelerate_settings.algorithms(Recipe(), sizes_differ):
            assert torch.backends.cudnn.benchmark != sizes_differ
    assert torch.backends.cudnn.benchmark == before


def test_the_device_that_is_passed_comes_before_that_of_the_environment(monkeypatch):
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "meta")
    assert accelerate_settings.start(Recipe()).device.type == "meta"
    assert accelerate_settings.start(Recipe(), "cpu").device.type == "cpu"
    assert os.environ["ACCELERATE_TORCH_DEVICE"] == "meta"


@pytest.mark.slow
@pytest.mark.environment
def test_an_environment_that_is_accepted_changes_nothing(photos, tmp_path):
    plain, other = tmp_path / "plain", tmp_path / "other"
    options = ["--epochs", "2", "--opt", "adamw", "--lr", "0.001"]
    assert cli(*words(photos, plain), *options).returncode == 0
    names = {
        "GRADIENT_ACCUMULATION_STEPS": "1",
        "MIXED_PRECISION": "no",
        "USE_CPU": "true",
        "USE_FSDP": "false",
        "DYNAMO_BACKEND": "NO",
        "DYNAMO_MODE": "max-autotune",
        "DEBUG_MODE": "true",
        "LOG_LEVEL": "debug",
        "TORCH_DEVICE": "cpu",
        "SPLIT_BATCHES": "true",
        "BYPASS_DEVICE_MAP": "true",
    }
    done = cli(*words(photos, other), *options, **{f"ACCELERATE_{name}": value for name, value in names.items()})
    assert done.returncode == 0, done.stderr
    assert equal(plain, other)


@pytest.mark.slow
@pytest.mark.environment
def test_an_environment_that_accelerate_cannot_read_is_one_line(photos, tmp_path):
    done = cli(*words(photos, tmp_path / "run"), ACCELERATE_USE_CPU="perhaps")
    assert done.returncode == 1
    assert "Accelerate cannot start" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.environment
def test_the_launchers_configuration_file_is_refused_where_it_asks_for_more(photos, tmp_path):
    config = tmp_path / "accelerate.yaml"
    config.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: 'NO'\nmixed_precision: bf16\nnum_processes: 1\n"
        "use_cpu: true\nmachine_rank: 0\nnum_machines: 1\n"
    )
    launcher = ["accelerate.commands.launch", "--config_file", str(config)]
    done = cli(*words(photos, tmp_path / "run"), launcher=launcher)
    assert done.returncode != 0
    assert "ACCELERATE_MIXED_PRECISION" in done.stderr
    assert not (tmp_path / "run").exists()
    done = cli(*words(photos, tmp_path / "run"), "--precision", "bf16", launcher=launcher)
    assert done.returncode == 0, done.stderr


def words(data, run, **values):
    options = {"model": MODEL, **ONE, **values}
    flags = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return ["finetune", str(data), "--out", str(run), *flags]
