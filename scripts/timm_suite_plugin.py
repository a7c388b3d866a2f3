"""The pytest plugin of `timm_suite.py`: timm's own tests, over our names.

Every test of timm's `test_models.py` is a requirement here unless it is about another architecture;
both kinds are written down below, and `timm_suite.py` refuses to run where timm has a test of neither.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import mnv2zoo
from mnv2zoo.architecture import CONFIGS

NAMES = tuple(CONFIGS)
IMAGENET_NAMES = tuple(name for name, config in CONFIGS.items() if config.num_classes == 1000)

# The module in which timm lists its own MobileNetV2: a list for it is a list for ours.
TIMM_MODULE = "efficientnet"

MARKERS = "base forward backward cfg cfg_nonstd torchscript features fxforward fxbackward"


@dataclass(frozen=True)
class Run:
    """How a test that timm gives names, or names in its body, runs on ours.

    Attributes:
        listed: Whether the test takes its names from one of timm's lists, which `_list_models` replaces by our list.
        rows: For each name, values of the arguments parametrized together with the name.
        instead_of: The name that stands in the test's body, where ours is put instead.
        without: Arguments to leave out when the model is created, as they belong to the other architecture.
        fixed: Values for further parametrized arguments.
        settled: Give the batch norms the statistics of noise first. Without them PyTorch's own initialization, which
            the 20-class models have, gives features that hardly depend on the image.
        tolerance: `rtol` and `atol` of comparisons for which the test names none. timm's small test models differ
            by less than a network of fifty layers (timm's own MobileNetV2 included) when sums change their order.
        names: The names to run on.
    """

    listed: bool = False
    rows: tuple[tuple[Any, ...], ...] = ((),)
    instead_of: str | None = None
    without: tuple[str, ...] = ()
    fixed: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    settled: bool = False
    tolerance: tuple[float, float] | None = None
    names: tuple[str, ...] = NAMES


LISTED = Run(listed=True)
WITHOUT_KWARGS = Run(rows=(({},),))

APPLIES: dict[str, dict[str, Run]] = {
    "test_models.py": {
        "test_model_forward": LISTED,
        "test_model_backward": LISTED,
        "test_model_default_cfgs": LISTED,
        "test_model_load_pretrained": LISTED,
        "test_model_features_pretrained": LISTED,
        "test_model_forward_torchscript": LISTED,
        "test_model_forward_features": LISTED,
        "test_model_forward_intermediates_features": LISTED,
        "test_model_forward_intermediates": LISTED,
        "test_prune_intermediate_layers_contract": LISTED,
        "test_model_forward_fx": LISTED,
        "test_model_backward_fx": LISTED,
        "test_model_forward_fx_torchscript": LISTED,
        "test_model_forward_torchscript_with_features_fx": Run(),
        "test_reset_classifier_keeps_pool": Run(settled=True),
        "test_gcvit_batch_consistency": Run(instead_of="gcvit_xxtiny"),
        "test_features_only_grad_checkpointing_backward": Run(),
        "test_feature_hook_net_grad_checkpointing_order": Run(instead_of="xception41"),
        # Expects 1000 logits.
        "test_pruned_efficientnet_in_chans": Run(names=IMAGENET_NAMES),
        "test_convit_dtype_change_after_forward": Run(instead_of="convit_tiny"),
        # Expects reductions 2, 4, 8, 16, 32, which are ours.
        "test_model_features_space2depth_reduction": Run(),
        "test_model_features_output_stride": Run(),
        "test_pruned_features_torchscript": Run(without=("img_size",)),
        "test_feature_getter_stage_ends_torchscript": Run(),
        "test_prune_intermediate_layers_params_used": Run(),
        "test_prune_extra_blocks_stem_width": Run(),
        "test_head_hidden_size": WITHOUT_KWARGS,
        "test_features_only_feature_cls_class": Run(),
        "test_resnet_pruned_grad_checkpointing": Run(instead_of="test_resnet"),
        "test_forward_after_prune_intermediate_layers": Run(),
        "test_prune_intermediate_layers_last_feature": Run(rows=((True,),)),
        "test_prune_to_stem_feature": Run(),
        "test_forward_intermediates_stop_early_final_norm": WITHOUT_KWARGS,
        "test_resnetv2_stem_feature_odd_size": WITHOUT_KWARGS,
        "test_nfnet_stem_feature_consistency": Run(
            instead_of="test_nfnet", without=("stem_type",), fixed=(("stem_type", ("none",)),)
        ),
        "test_mobilenetv5_intermediate_final_features": Run(
            instead_of="mobilenetv5_base",
            without=("channel_multiplier", "num_features", "msfa_output_resolution", "use_msfa"),
            fixed=(("use_msfa", (False,)),),
        ),
        "test_model_init_weights_after_to_empty": WITHOUT_KWARGS,
        "test_headless_checkpoint_reload": WITHOUT_KWARGS,
    },
    "test_prune.py": {"test_pruned_feature_info_matches_forward": Run()},
    "test_input_conv.py": {
        "test_create_model_transfers_multispectral_checkpoint": Run(instead_of="test_resnet", tolerance=(1e-4, 1e-3))
    },
    "test_model_input.py": {
        "test_script_resolution_defaults_to_multispectral_source": Run(instead_of="resnet18"),
        "test_conv_model_image_size_is_preprocessing_only": Run(instead_of="resnet18"),
        "test_export_data_config_test_size_roundtrip": Run(instead_of="test_resnet"),
        "test_export_tracks_reset_pool_in_head": Run(rows=((3, "max"), (0, ""))),
        "test_export_tracks_reset_classifier_structure": Run(rows=(({}, None, None), ({}, "max", None))),
        "test_export_does_not_inherit_training_regularization": Run(
            instead_of="test_resnet", without=("drop_block_rate",), fixed=(("vit", (False,)),)
        ),
    },
    "test_utils.py": {"test_freeze_unfreeze_root_parameters": Run()},
}

# Tests of timm's registry itself, which must hold with ours registered in it.
AS_THEY_ARE = ("test_factory.py",)

# Tests of `test_models.py` that are about other architectures, by pattern.
OTHERS = {
    "test_model_inference": "compares timm's published test_* models with outputs recorded for them",
    "test_model_default_cfgs_non_std": "a weaker test_model_default_cfgs, for models without a map of features",
    "test_inception_v3_*": "auxiliary classifier",
    "test_prune_class_token_avg_pool": "class token",
    "test_eva_*": "attention pooling",
    "test_catavgmax_unsupported": "models that refuse a pooling which ours take (test_head_hidden_size has it)",
    "test_samvit_*": "neck after a vision transformer",
    "test_*naflex*": "patches of variable resolution",
    "test_radio_*": "conversion of another architecture's checkpoint",
    "test_gemma4_*": "vision encoder with dictionaries as output",
    "test_vit_classifier_*": "vision encoder inside a classifier",
    "test_efficientvim_*": "several outputs",
    "test_mobile_model_fusion_features": "models that fuse themselves through timm's reparameterisation",
    "test_swin_*": "attention windows",
    "test_hybrid_vit_*": "patches",
    "test_relpos_*": "relative positions",
    "test_eval_*": "attention biases",
    "test_attention_bias_*": "attention biases",
}


def _list_models(filter: Any = "", module: Any = "", **options: Any) -> list[str]:
    modules = [module] if isinstance(module, str) else list(module)
    if any(modules) and TIMM_MODULE not in modules:
        return []
    return timm.models.list_models(filter, module="mnv2zoo", **options)


def _list_pretrained(filter: Any = "", exclude_filters: Any = "") -> list[str]:
    return _list_models(filter, exclude_filters=exclude_filters, pretrained=True, include_tags=True)


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS.split():
        config.addinivalue_line("markers", f"{marker}: a timm test")
    assert set(timm.list_models(module="mnv2zoo")) == set(NAMES), f"{mnv2zoo.__name__} has not registered its models"
    timm.list_models, timm.list_pretrained = _list_models, _list_pretrained
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Coverage(config))


def _run_of(item: Any) -> Run | None:
    return APPLIES.get(item.path.name, {}).get(item.originalname)


@pytest.hookimpl(tryfirst=True)  # before the names in timm's parametrize marks are taken
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    run = _run_of(metafunc.definition)
    if run is None or run.listed:
        return
    marks = metafunc.definition.own_markers
    fixed = dict(run.fixed)
    for mark in [mark for mark in marks if mark.name == "parametrize"]:
        names = mark.args[0]
        first = names.split(",")[0].strip() if isinstance(names, str) else names[0]
        if first in fixed:
            marks.remove(mark)
            metafunc.parametrize(first, fixed[first])
        elif first in ("model_name", "name"):
            marks.remove(mark)
            rows = [(name, *row) for name in run.names for row in run.rows]
            metafunc.parametrize(names, rows if run.rows != ((),) else list(run.names))
    if run.instead_of:
        metafunc.parametrize("our_name", run.names, indirect=True)


def _settle(model: torch.nn.Module) -> torch.nn.Module:
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    momenta, training = [norm.momentum for norm in norms], model.training
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.randn(4, model.in_chans, 64, 64))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.train(training)


@pytest.fixture(autouse=True)
def our_name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str | None]:
    """Puts our name, and what else a `Run` says, into the calls that a test makes to timm."""
    torch.manual_seed(0)
    run, name = _run_of(request.node) or Run(), getattr(request, "param", None)
    calls = []

    def ours(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(model_name: str, *args: Any, **kwargs: Any) -> Any:
            if name and model_name == run.instead_of:
                model_name = name
                calls.append(name)
            made = function(model_name, *args, **{k: v for k, v in kwargs.items() if k not in run.without})
            return _settle(made) if run.settled else made

        return call

    if name or run.without or run.settled:
        for holder in (request.module, timm):
            for function in ("create_model", "resolve_model_input_args"):
                if hasattr(holder, function):
                    monkeypatch.setattr(holder, function, ours(getattr(holder, function)))
    if run.tolerance:
        assert_close = partial(torch.testing.assert_close, **dict(zip(("rtol", "atol"), run.tolerance, strict=True)))
        monkeypatch.setattr(torch.testing, "assert_close", assert_close)
    yield name
    assert calls or not name, f"timm's test no longer makes {run.instead_of!r}"


@pytest.fixture(autouse=True)
def checkpoint_filter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives our module the filter that a test looks for; ours has none, as it loads checkpoints as they are."""
    module = importlib.import_module("mnv2zoo.models.mobilenetv2")
    if request.node.originalname == "test_headless_checkpoint_reload" and not hasattr(module, "checkpoint_filter_fn"):
        monkeypatch.setattr(module, "checkpoint_filter_fn", lambda state_dict, model: state_dict, raising=False)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Function]) -> None:
    kept = []
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        name = params.get("our_name") or params.get("model_name") or params.get("name") or ""
        if _run_of(item):
            item.user_properties.append(("ours", (item.path.name, item.originalname, name.partition(".")[0])))
        if _run_of(item) or item.path.name in AS_THEY_ARE:
            kept.append(item)
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


class Coverage:
    """Fails the session unless each test has run on each of its names."""

    def __init__(self, config: pytest.Config) -> None:
        files = {Path(argument.split("::")[0]).name for argument in config.args}
        whole = not (config.option.keyword or config.option.markexpr or any("::" in a for a in config.args))
        self.missing = {
            (file, test, name)
            for file, tests in APPLIES.items()
            if whole and file in files
            for test, run in tests.items()
            for name in run.names
        }

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and not report.skipped:
            self.missing -= {tuple(value) for key, value in report.user_properties if key == "ours"}

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.missing and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        for file, test, name in sorted(self.missing):
            terminalreporter.write_line(f"NOT RUN {file}::{test} on {name}", red=True)
