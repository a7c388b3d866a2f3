"""Makes files of Keras' MobileNetV2 with random weights, and what Keras answers: a process of its own.

    KERAS_BACKEND=torch python tests/convert/keras_models.py FOLDER

Everything is in double precision as far as Keras computes in it. `FOLDER/NAME.npz` holds images as Keras takes
them (N, H, W, C) and its answer to them; the models lie beside it. `FOLDER/native.npz`, with weights by Keras'
paths, is there before, and answered too.
"""

import json
import sys
from pathlib import Path

import h5py
import keras
import numpy as np
from keras import layers
from keras.applications import mobilenet_v2
from keras.src.legacy.saving import legacy_h5_format

FOLDER = Path(sys.argv[1])
RANDOM = np.random.default_rng(0)
SIZE = (49, 50)  # odd and even, so that TensorFlow's padding differs between the sides

keras.config.set_floatx("float64")


def network(size=SIZE, alpha=0.35, **kwargs):
    return keras.applications.MobileNetV2((*size, 3), alpha=alpha, weights=None, **kwargs)


def classifier(size=SIZE, alpha=0.35, **kwargs):
    return network(size, alpha, classes=10, classifier_activation=None, **kwargs)


def dense(features, classes=5):
    return layers.Dense(classes)(layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(features)))


def functional(head=dense, **kwargs):
    """The network as a layer, as Keras' guide to transfer learning has it."""
    base = network(include_top=False, **kwargs)
    base.trainable = False
    images = keras.Input((*SIZE, 3))
    features = mobilenet_v2.preprocess_input(layers.RandomFlip()(images))
    return keras.Model(images, head(base(features, training=False)))


def rescaled(**values):
    images = keras.Input((*SIZE, 3))
    return keras.Model(images, dense(network(include_top=False)(layers.Rescaling(**values)(images))))


def sequential():
    head = (layers.GlobalAveragePooling2D(), layers.Dropout(0.2), layers.Dense(5, use_bias=False))
    return keras.Sequential([network(include_top=False), *head])


def extended():
    """The network's layers among the model's own."""
    base = network(include_top=False)
    return keras.Model(base.input, dense(base.output))


def hidden(features):
    pooled = layers.GlobalAveragePooling2D()(features)
    return layers.Dense(4)(layers.Dense(8, activation="relu")(pooled))


def randomized(model):
    """Gives every variable values that a mistake would show in, as `networks.randomized` does."""
    for variable in model.weights:
        shape = variable.shape
        if variable.name == "kernel":
            fan = np.prod(shape[:2] if variable.path.rpartition("/")[0].endswith("depthwise") else shape[:-1])
            value = RANDOM.normal(0, fan**-0.5, shape)
        else:
            low = {"gamma": 0.5, "moving_variance": 0.1}.get(variable.name, -0.5)
            value = RANDOM.uniform(low, low + 1, shape)
        variable.assign(value)
    return model


def answer(name, model, size=SIZE, high=1.0):
    images = RANDOM.uniform(-1, 1, (2, *size, 3)) if high == 1 else RANDOM.integers(0, high, (2, *size, 3))
    np.savez(FOLDER / f"{name}.npz", images=images, answer=model.predict(images.astype(float), verbose=0))


def save_legacy_weights(model, path):
    # What `model.save_weights("x.h5")` wrote before Keras 3, which asks for `.weights.h5`.
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)


WAYS = {
    ".keras": lambda model, path: model.save(path),
    ".h5": lambda model, path: model.save(path),
    ".weights.h5": lambda model, path: model.save_weights(path),
    "-legacy.h5": save_legacy_weights,
}


def make(name, model, ways=WAYS, **kwargs):
    randomized(model)
    answer(name, model, **kwargs)
    for way in ways:
        WAYS[way](model, str(FOLDER / f"{name}{way}"))


make("whole", classifier())
make("backbone", network(include_top=False))
model = functional()
model.compile("adam", "mse")
model.optimizer.build(model.trainable_variables)
make("functional", model, high=256)
make("sequential", sequential())
make("extended", extended())
make("unit", rescaled(scale=1 / 255), [".keras", ".h5"], high=256)
make("colored", rescaled(scale=[0.02, 0.01, 0.03], offset=[-2.0, -1.0, -3.0]), [".keras"], high=256)
make("even", classifier((64, 96)), [".keras"], size=(64, 96))
make("any_size", model := network((None, None), include_top=False, pooling="avg"), [".keras"], size=(64, 96))
answer("any_size-odd", model)
make("softmax", network(classes=10), [".keras"])
for alpha in (1.0, 1.4):
    make(f"alpha_{alpha}", classifier(alpha=alpha), [".weights.h5"])
make("alpha_1.3", classifier(alpha=1.3), [".weights.h5"])

make("hidden", functional(hidden), [".keras", ".h5", ".weights.h5"])
make("flattened", functional(lambda features: layers.Dense(4)(layers.Flatten()(features))), [".weights.h5"])
make("max_pooled", functional(lambda features: layers.Dense(4)(features), pooling="max"), [".keras", ".h5"])
images = keras.Input((*SIZE, 3))
rows = [network(include_top=False, pooling="avg", name=name)(images) for name in ("left", "right")]
make("two", keras.Model(images, layers.Dense(4)(layers.Add()(rows))), [".weights.h5"])

shapes = {}
for alpha in (0.35, 0.5, 0.75, 1.0, 1.4):
    shapes[alpha] = {weight.path: list(weight.shape) for weight in network((32, 32), alpha).weights}
(FOLDER / "shapes.json").write_text(json.dumps(shapes))

ours = network(classes=1000, classifier_activation=None)
with np.load(FOLDER / "native.npz") as native:
    for weight in ours.weights:
        weight.assign(native[weight.path])
answer("ours", ours)
