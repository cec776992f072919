"""Crops cut on the device are those of the loader, however the images lie on the devices."""

import jax
import numpy as np
import pytest
from test_steps import PREPROCESS, drawn, images, setup

from apinet_jax.data.batch import Batch
from apinet_jax.data.crops import ArrayReader, CropPlace, RandomCrop
from apinet_jax.method.device_images import DeviceImages, cut_crops, layout_of
from apinet_jax.method.objective import Objective
from apinet_jax.method.steps import make_train_step
from apinet_jax.setup.program_costs import collectives_of
from apinet_jax.system.mesh import make_mesh, replicated, to_global

COUNT, SIZE, CROP, SEED, STEP = 13, 20, 16, 3, 7
PHOTOS = np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE, 3), np.uint8)
INDICES = np.arange(16) * 5 % COUNT


def on_devices(layout, mesh):
    rows = np.zeros(layout.shape, np.uint8)
    rows[:COUNT] = PHOTOS.reshape(COUNT, SIZE, 3 * SIZE)
    return jax.device_put(rows, layout.sharding(mesh))


@pytest.mark.parametrize(
    ("devices", "layout"),
    [
        (1, DeviceImages(COUNT, SIZE, CROP, divided=False)),
        (8, DeviceImages(COUNT, SIZE, CROP, divided=False)),
        (8, DeviceImages(16, SIZE, CROP, divided=True)),
    ],
)
def test_crops_are_those_of_the_loader(devices, layout):
    mesh = make_mesh(jax.devices()[:devices])
    crop, place = RandomCrop(ArrayReader(PHOTOS), CROP, SEED), CropPlace(SIZE, CROP, SEED)
    expected = np.stack([crop(index, STEP, slot) for slot, index in enumerate(INDICES.tolist())])
    places = np.stack([place(index, STEP, slot) for slot, index in enumerate(INDICES.tolist())])
    assert len(np.unique(places[:, 3])) == 2  # mirrored ones and others
    batch = to_global(Batch(places, INDICES, INDICES, INDICES), mesh)
    cut = jax.jit(lambda images, places: cut_crops(images, places, layout, mesh))
    np.testing.assert_array_equal(cut(on_devices(layout, mesh), batch.image), expected)


@pytest.mark.parametrize(
    ("count", "devices", "rows", "divided"),
    [(5994, 1, 5994, False), (1200, 8, 1200, False), (5994, 8, 6000, True)],
)
def test_large_data_sets_are_divided(count, devices, rows, divided):
    assert layout_of(count, 512, 448, devices) == DeviceImages(rows, 512, 448, divided)


@pytest.mark.parametrize("divided", [False, True])
def test_only_divided_images_add_an_exchange(divided):
    mesh, model, optimizer, plain = setup(devices=8)
    layout = DeviceImages(16, 36, 32, divided)
    step = make_train_step(
        mesh,
        model=model,
        optimizer=optimizer,
        objective=Objective(),
        preprocess=PREPROCESS,
        stage="full",
        device_images=layout,
    )
    batch = images(np.repeat(np.arange(4), 4))
    pixels, places = to_global(batch, mesh), batch._replace(image=np.zeros((16, 4), np.int32))
    photos = jax.device_put(np.zeros(layout.shape, np.uint8), layout.sharding(mesh))
    state, key = jax.device_put(drawn(), replicated(mesh)), jax.random.key(0)

    def exchanged(step, *arguments):
        found = collectives_of(step.lower(*arguments).compile().as_text())
        return sorted((one.kind, size) for one in found for size in one.sizes)

    before = exchanged(plain, state, pixels, key)
    after = exchanged(step, state, to_global(places, mesh), key, photos)
    for one in before:
        after.remove(one)
    crops = 16 * 32 * 32 * 3
    # CPUs reduce everything and keep their part, where accelerators scatter.
    allowed = [("all-gather", 16 * 4), ("all-reduce", crops), ("reduce-scatter", crops // 8)]
    assert bool(after) == divided
    assert all(one in allowed for one in after), after
