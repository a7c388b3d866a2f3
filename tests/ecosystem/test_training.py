"""Other libraries train the networks."""

import lightning
import peft
import pytest
import torch
import torch.nn.functional as F
from fastai.vision.all import ImageDataLoaders, Resize, vision_learner
from torch.utils.data import DataLoader, TensorDataset

import mnv2zoo
from mnv2zoo.models.mobilenetv2 import MobileNetV2
from tests.ecosystem.conftest import IMAGES

LABELS = torch.tensor([0, 1, 2])


@pytest.mark.ecosystem("fastai", "`vision_learner` trains a new head on verified weights, with their normalization")
def test_fastai_trains_a_head_on_frozen_weights(photos):
    torch.manual_seed(0)
    data = ImageDataLoaders.from_folder(photos, valid_pct=0.25, seed=0, item_tfms=Resize(64), bs=6, num_workers=0)
    learner = vision_learner(data, "mnv2zoo_100_c20", pretrained=True)
    body = learner.model[0].model
    assert isinstance(body, MobileNetV2)
    normalize = data.after_batch[-1]
    assert normalize.mean.flatten().tolist() == pytest.approx(list(body.pretrained_cfg["mean"]))
    before = {name: parameter.clone() for name, parameter in learner.model.named_parameters()}
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(2, 1e-2)
    losses = [row[0] for row in learner.recorder.values]
    assert losses[1] < losses[0]
    weights = mnv2zoo.weights.load("mnv2zoo_100_c20")
    for name, parameter in learner.model.named_parameters():
        changed = not torch.equal(parameter.cpu(), before[name].cpu())
        assert changed == parameter.requires_grad, name
        if name.endswith("conv_pwl.weight"):
            assert torch.equal(parameter.cpu(), weights[name.removeprefix("0.model.")])


class Module(lightning.LightningModule):
    def __init__(self, network):
        super().__init__()
        self.model = network

    def training_step(self, batch, index):
        images, labels = batch
        return F.cross_entropy(self.model(images), labels)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


@pytest.mark.ecosystem(
    "lightning", "`Trainer` trains and saves a checkpoint, which `mnv2zoo weights convert` takes back; equal logits"
)
def test_a_checkpoint_of_lightning_comes_back(tmp_path, network_035):
    before = network_035.conv_head.weight.clone()
    trainer = lightning.Trainer(
        max_steps=4, accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path
    )
    trainer.fit(Module(network_035), DataLoader(TensorDataset(IMAGES, LABELS), batch_size=3))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert not torch.equal(network_035.conv_head.weight, before)
    again = Module.load_from_checkpoint(tmp_path / "last.ckpt", network=MobileNetV2(network_035.arch_config, 3))
    mnv2zoo.model_dir.from_checkpoint.convert_checkpoint(tmp_path / "last.ckpt", tmp_path / "converted")
    converted = mnv2zoo.models.names.describe(str(tmp_path / "converted")).build()
    for model in (again.model, converted):
        torch.testing.assert_close(model.eval()(IMAGES), network_035.eval()(IMAGES), rtol=1e-5, atol=1e-5)


@pytest.mark.ecosystem("peft", "LoRA trains adapters of the 1x1 convolutions alone, and merges them; equal logits")
def test_lora_changes_adapters_alone_and_merges(network_035):
    torch.manual_seed(0)
    before = {name: tensor.clone() for name, tensor in network_035.state_dict().items()}
    settings = peft.LoraConfig(r=4, target_modules=r".*conv_pwl?", modules_to_save=["classifier"])
    adapted = peft.get_peft_model(network_035, settings)
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01)
    adapted.eval()  # running statistics stay, so that only weights can change
    for _ in range(4):
        F.cross_entropy(adapted(IMAGES), LABELS).backward()
        optimizer.step()
        optimizer.zero_grad()
    logits = adapted(IMAGES)
    with adapted.disable_adapter():
        mnv2zoo_logits = adapted(IMAGES)
    assert not torch.allclose(logits, mnv2zoo_logits, atol=0.1)
    merged = adapted.merge_and_unload()
    assert isinstance(merged, MobileNetV2)
    torch.testing.assert_close(merged(IMAGES), logits, rtol=1e-3, atol=1e-3)
    state = merged.state_dict()
    assert state.keys() == before.keys()
    changed = {name for name in state if not torch.equal(state[name], before[name])}
    adapters = {name for name in state if name.endswith(("conv_pw.weight", "conv_pwl.weight"))}
    assert changed == adapters | {"classifier.weight", "classifier.bias"}
