"""Faults in the trainers, and in sharing a batch between devices."""

from faults.planting import fault

TRAINERS, DEVICES = "training/trainers.py", "training/devices.py"
TRUNCATED = "test_train.py::test_truncated_trainer"
REACHING_BACK = f"{TRUNCATED}_is_an_update_a_segment_whose_gradient_reaches_back[12-2-6]"
CHECKPOINTS = "test_checkpoints.py::test"
ON_DEVICES = "test_sharding.py::test"
ALIKE = f"{ON_DEVICES}_everything_is_as_on_one_device[8]"

FAULTS = (
    fault(
        TRAINERS,
        "truncated_trainer.window_loss",
        "window cut at its segment",
        "loss(params, carry, segment, key)",
        "loss(params, jax.lax.stop_gradient(carry), segment, key)",
        REACHING_BACK,
    ),
    fault(
        TRAINERS,
        "truncated_trainer.window_loss",
        "next window from the end",
        "next_start = jax.tree.map(lambda c: c[0], carries)",
        "next_start = end",
        REACHING_BACK,
    ),
    fault(
        DEVICES,
        "data_parallel.part",
        "parts weigh alike",
        "w = weight(*args)",
        "w = jnp.ones(())",
        ALIKE,
    ),
    fault(
        DEVICES,
        "data_parallel.part",
        "sum for mean over parts",
        "w / jax.lax.psum(w, AXIS)",
        "w / w",
        ALIKE,
    ),
    fault(
        DEVICES,
        "_fold_key",
        "one noise for all parts",
        "jax.lax.axis_index(AXIS)",
        "0",
        f"{ON_DEVICES}_each_part_draws_noise_of_its_own",
    ),
    fault(
        DEVICES,
        "_fold_key",
        "one noise on all devices",
        "return jax.random.fold_in(x, jax.lax.axis_index(AXIS))",
        "return x",
        "cli/test_layers_and_dropout.py::test_each_device_draws_noise_of_its_own",
    ),
    fault(
        "training/stored_arrays.py",
        "require_same_checksums",
        "damage unseen",
        "fits = here == there or here is None or there is None",
        "fits = True",
        f"{CHECKPOINTS}_a_damaged_checkpoint_is_refused_or_restored_to_the_bit",
    ),
    fault(
        "training/stored_arrays.py",
        "describe_nodes",
        "types of nodes unseen",
        "nodes = {name: type(tree).__name__}",
        "nodes = {}",
        f"{CHECKPOINTS}_another_training_is_refused_and_the_first_difference_is_named[5]",
    ),
    fault(
        "training/stored_arrays.py",
        "_sharding",
        "devices forgotten",
        'is_committed = getattr(template, "committed", True)',
        "is_committed = False",
        f"{CHECKPOINTS}_arrays_come_back_on_their_devices",
    ),
)
