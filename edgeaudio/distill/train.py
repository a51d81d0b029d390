"""Train one student, resumably: a kill loses at most one checkpoint interval and changes no result."""

from __future__ import annotations

import copy
import logging
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from edgeaudio.distill.losses import TaskKind
from edgeaudio.distill.module import DistillData, DistillModule, TrainSpec
from edgeaudio.errors import EdgeAudioError, VerificationError
from edgeaudio.spec import FrontendSpec
from edgeaudio.spec.fs import atomic_path

logger = logging.getLogger(__name__)
# Lightning announces devices and products at INFO on every run.
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)


class TrainingDivergedError(EdgeAudioError):
    """The loss is no longer a number; the last checkpoint is kept and named."""


class AtomicCheckpointIO(TorchCheckpointIO):  # type: ignore[misc]
    """Checkpoints appear whole or not at all, and are read without unpickling code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Temporary name, fsync, rename."""
        with atomic_path(Path(path)) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(self, path: Any, *_args: Any, **_options: Any) -> dict[str, Any]:
        """Tensors and plain values only."""
        try:
            checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise VerificationError(
                f"checkpoint {path} cannot be read: {error}. Delete it to train from the start."
            ) from error
        return checkpoint


class StopOnNonFinite(Callback):  # type: ignore[misc]
    """Three non-finite losses in a row end the run."""

    patience = 3

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, *_args: Any) -> None:
        """Count."""
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        self.count = 0 if torch.isfinite(loss) else self.count + 1
        if self.count >= self.patience:
            raise TrainingDivergedError(
                f"loss was not finite {self.patience} times in a row at step {trainer.global_step}. "
                f"Lower train.learning_rate; the last checkpoint is in {self.folder}."
            )


def train_student(
    student: nn.Module,
    data: DistillData,
    spec: TrainSpec,
    *,
    kind: TaskKind,
    frontend: FrontendSpec,
    seed: int,
    folder: Path,
    progress_bar: bool = False,
) -> nn.Module:
    """Train `student` in `folder` (checkpoints, CSV and TensorBoard logs) and return the averaged one.

    `student` itself is not changed. Called again after a kill it continues from the last checkpoint
    and ends with the same weights.
    """
    checkpoints = folder / "checkpoints"
    # A copy: the caller's network keeps its weights and memory format, so that what it computes afterwards
    # does not depend on whether training ran in this process or was read from disk.
    trainee = _in_memory_format(copy.deepcopy(student), torch.channels_last)
    module = DistillModule(trainee, data, spec, kind=kind, frontend=frontend, seed=seed)
    epochs = -(-spec.steps // spec.checkpoint_every_steps)
    keeper = ModelCheckpoint(checkpoints, filename="{step:07d}", every_n_epochs=1, save_top_k=1, save_last=False)
    with warnings.catch_warnings():
        # Our loaders are plain iterables in this process; Lightning advises workers for them.
        warnings.filterwarnings("ignore", module="lightning")
        trainer = L.Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            reload_dataloaders_every_n_epochs=1,
            num_sanity_val_steps=0,
            check_val_every_n_epoch=1,
            log_every_n_steps=25,
            gradient_clip_val=5.0,
            enable_model_summary=False,
            enable_progress_bar=progress_bar,
            callbacks=[keeper, StopOnNonFinite(checkpoints)],
            plugins=[AtomicCheckpointIO()],
            logger=[CSVLogger(folder, name="logs"), TensorBoardLogger(folder, name="tensorboard")],
            default_root_dir=folder,
        )
        found = sorted(checkpoints.glob("*.ckpt"))
        if found:
            logger.info("continuing from %s", found[-1].name)
        trainer.fit(module, ckpt_path=found[-1] if found else None)
    result: nn.Module = module.averaged.module
    return _in_memory_format(result, torch.contiguous_format).eval()


def _in_memory_format(network: nn.Module, memory_format: torch.memory_format) -> nn.Module:
    """`network` with its convolutions laid out so; channels last trains twice as fast on CPUs."""
    return network.to(memory_format=memory_format)  # type: ignore[call-overload, no-any-return]


def save_student(student: nn.Module, path: Path) -> None:
    """Weights as safetensors, atomically."""
    with atomic_path(path) as temporary:
        save_file({name: value.contiguous() for name, value in student.state_dict().items()}, temporary)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors that `save_student` wrote."""
    try:
        state: dict[str, torch.Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise VerificationError(f"{path} does not hold weights: {error}. Delete its folder to train again.") from error
    return state


def load_student(student: nn.Module, path: Path) -> nn.Module:
    """Strictly load weights into `student`; those of a pruned one: `compress.reshape.load_pruned_student`."""
    _load(student, path, keep=())
    return student.eval()


def load_body(student: nn.Module, path: Path) -> nn.Module:
    """Load all weights but those of the head, which belong to a task and stay as they are."""
    _load(student, path, keep=("head.",))
    return student.eval()


def _load(student: nn.Module, path: Path, *, keep: tuple[str, ...]) -> None:
    kept = {name: value for name, value in student.state_dict().items() if name.startswith(keep)} if keep else {}
    state = read_weights(path) | kept
    try:
        student.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise VerificationError(
            f"{path} does not hold this student's weights: {error}. Delete its folder to train again."
        ) from error
