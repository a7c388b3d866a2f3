"""Our networks train under the trainers of others as timm's do: transformers, Lightning, Accelerate and PEFT."""

import copy
import warnings

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import mnv2zoo  # noqa: F401  # registers the networks

pytestmark = pytest.mark.slow

OURS, TIMMS = "mnv2zoo_035", "mobilenetv2_035"


@pytest.fixture(scope="module")
def batch():
    """Images of two kinds, and their classes."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(16) % 2
    images = torch.randn(16, 3, 32, 32, generator=generator) + (2.0 * labels - 1).view(-1, 1, 1, 1)
    return images, labels


def build(name):
    """The same weights in our network and in timm's."""
    torch.manual_seed(0)
    state = timm.create_model(TIMMS, num_classes=2).state_dict()
    model = timm.create_model(name, num_classes=2)
    model.load_state_dict(state)
    return model


def loss_of(model, batch):
    with torch.inference_mode():
        return F.cross_entropy(copy.deepcopy(model).train()(batch[0]), batch[1]).item()


def assert_like_timms(train, batch):
    """Our network learns, and ends with the weights that timm's network ends with."""
    ours, theirs = train(build(OURS)), train(build(TIMMS))
    before = build(OURS)
    assert loss_of(ours, batch) < loss_of(before, batch) / 2
    for (name, mine), (_, other) in zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


class ForTransformers(nn.Module):
    """What transformers' Trainer wants of any network: a loss from named arguments."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, pixel_values, labels):
        logits = self.network(pixel_values)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def transformers_trainer(model, batch, folder, **options):
    transformers = pytest.importorskip("transformers")
    rows = [{"pixel_values": image, "labels": label} for image, label in zip(*batch, strict=True)]
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=16,
        max_steps=8,
        learning_rate=0.01,
        logging_steps=1,
        save_strategy="no",
        report_to=["tensorboard"],
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        seed=0,
    )
    return transformers.Trainer(model, arguments, train_dataset=rows, **options)


def test_transformers_trainer_trains_a_wrapped_network(batch, tmp_path):
    def train(network):
        trainer = transformers_trainer(ForTransformers(network), batch, tmp_path / type(network).__module__)
        losses = trainer.train().training_loss
        assert losses > 0
        return network.cpu()

    assert_like_timms(train, batch)
    assert list(tmp_path.rglob("events.out.tfevents.*"))


def test_transformers_trainer_with_tensorboard_trains_the_network_itself(batch, tmp_path, monkeypatch):
    # The Trainer looks at attributes of the network it is given, such as `config`, which our network must not have.
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))

    def train(network):
        from transformers import Trainer

        class Own(Trainer):
            def compute_loss(self, model, inputs, return_outputs=False, **options):
                loss = F.cross_entropy(model(inputs["pixel_values"]), inputs["labels"])
                return (loss, {}) if return_outputs else loss

        trainer = transformers_trainer(network, batch, tmp_path / "out")
        own = Own(network, trainer.args, train_dataset=trainer.train_dataset)
        own.args.remove_unused_columns = False
        own.train()
        own.save_model(str(tmp_path / "saved"))
        return network.cpu()

    assert_like_timms(train, batch)
    assert list((tmp_path / "events").rglob("events.out.tfevents.*"))
    assert list((tmp_path / "saved").glob("*.safetensors"))


def test_the_network_has_no_attribute_that_the_ecosystem_takes_for_its_own():
    network = build(OURS)
    for name in ("config", "generation_config", "hf_device_map", "hf_quantizer", "peft_config", "is_parallelizable"):
        assert not hasattr(network, name), name
    assert network.arch_config.name == OURS


def test_lightning_trainer_trains_the_network(batch, tmp_path):
    lightning = pytest.importorskip("lightning", reason='Lightning is not installed: pip install -e ".[dev]"')

    class Module(lightning.LightningModule):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def training_step(self, batch, index):
            images, labels = batch
            loss = F.cross_entropy(self.network(images), labels)
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=0.01)

    def train(network):
        trainer = lightning.Trainer(
            max_steps=8,
            accelerator="cpu",
            default_root_dir=tmp_path,
            logger=lightning.pytorch.loggers.TensorBoardLogger(tmp_path),
            enable_progress_bar=False,
            enable_model_summary=True,
            log_every_n_steps=1,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about workers and devices
            trainer.fit(Module(network), DataLoader(TensorDataset(*batch), batch_size=16))
        return network

    assert_like_timms(train, batch)


def test_accelerate_trains_saves_and_restores_the_network(batch, tmp_path):
    from accelerate import Accelerator

    def train(network):
        accelerator = Accelerator(cpu=True)
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
        loader = DataLoader(TensorDataset(*batch), batch_size=16)
        network, optimizer, loader = accelerator.prepare(network.train(), optimizer, loader)
        for _ in range(8):
            for images, labels in loader:
                accelerator.backward(F.cross_entropy(network(images), labels))
                optimizer.step()
                optimizer.zero_grad()
        trained = accelerator.unwrap_model(network)
        accelerator.save_state(str(tmp_path / "state"))
        before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
        with torch.no_grad():
            trained.conv_stem.weight.zero_()
        accelerator.load_state(str(tmp_path / "state"))
        assert all(torch.equal(tensor, before[name]) for name, tensor in trained.state_dict().items())
        return trained

    assert_like_timms(train, batch)


def test_peft_trains_adapters_of_convolutions_and_the_classifier(batch, tmp_path):
    peft = pytest.importorskip("peft", reason='PEFT is not installed: pip install -e ".[dev]"')

    def train(network):
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        torch.manual_seed(3)
        settings = peft.LoraConfig(r=4, target_modules=r".*conv_pw|conv_head", modules_to_save=["classifier"])
        adapted = peft.get_peft_model(network, settings)
        trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
        assert all("lora_" in name or "classifier" in name for name in trained)
        optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=0.01)
        adapted.train()
        for _ in range(8):
            F.cross_entropy(adapted(batch[0]), batch[1]).backward()
            optimizer.step()
            optimizer.zero_grad()
        adapted.save_pretrained(str(tmp_path / "adapter"))
        adapted.eval()
        with torch.inference_mode():
            expected = adapted(batch[0])
        merged = adapted.merge_and_unload()
        with torch.inference_mode():
            torch.testing.assert_close(merged.eval()(batch[0]), expected, rtol=1e-3, atol=1e-4)
        state = merged.state_dict()
        assert state.keys() == before.keys()
        assert torch.equal(state["conv_stem.weight"], before["conv_stem.weight"])  # outside the adapters
        assert not torch.equal(state["conv_head.weight"], before["conv_head.weight"])
        return merged

    assert_like_timms(train, batch)
