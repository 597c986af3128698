"""Training with optax: trainers, checkpoints, and data parallelism over devices."""

from jaxrnn.training.checkpoints import Checkpoint as Checkpoint, Checkpoints as Checkpoints
from jaxrnn.training.devices import data_parallel as data_parallel
from jaxrnn.training.trainers import Trainer as Trainer, TrainState as TrainState
from jaxrnn.training.trainers import trainer as trainer, truncated_trainer as truncated_trainer
