"""The recipe: everything that decides a result, in one validated file."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from edgeaudio.bundle.stateful import STATEFUL_FORMATS
from edgeaudio.compress.prune_spec import PruneSpec
from edgeaudio.compress.quantize_spec import QuantizeSpec
from edgeaudio.data.windows import AugmentSpec
from edgeaudio.distill.losses import LossWeights
from edgeaudio.distill.module import TrainSpec
from edgeaudio.pipeline.sweep_spec import SweepSpec
from edgeaudio.spec import DecisionSpec, ExitSpec, FrontendSpec, Spec, WindowSpec, digest_json
from edgeaudio.students.spec import DSCNNSpec, StudentSpec, TransformerSpec
from edgeaudio.teachers.finetune_spec import FinetuneSpec

Format = Literal["onnx", "tflite", "tensorrt"]
#: What a teacher brings: its first blocks, its embedding, its answers, and its view of unlabelled sounds.
Part = Literal["blocks", "embedding", "logits", "pool"]


class DataSpec(Spec):
    """Which sounds, and which folds are held out as test sets (one whole run each)."""

    kind: Literal["esc10", "esc50", "folder", "csv", "synth"] = "folder"
    root: str | None = Field(None, description="dataset folder")
    csv: str | None = Field(None, description="kind csv: the table of files and labels")
    licence: str = "unknown"
    test_folds: tuple[int, ...] = Field((1,), min_length=1)
    exclude_folds: tuple[int, ...] = Field(
        (), description="folds that this run must not touch, such as the real test fold while a recipe is chosen"
    )
    assigned_folds: int = Field(5, ge=2, le=100, description="folds made when the dataset names none")
    labels_per_class: int | None = Field(
        None, ge=1, description="use so many labels of each class; the other training clips are heard as unlabelled"
    )
    unlabelled: str | None = Field(None, description="a folder of sounds without labels")
    unlabelled_licence: str = "unknown"
    max_skipped: float = Field(0.01, ge=0, le=1, description="fail above this fraction of unusable files")
    synth_clips_per_class: int = Field(40, ge=5, le=10_000, description="synth: labelled clips")
    synth_unlabelled: int = Field(300, ge=0, le=100_000, description="synth: unlabelled clips")

    @model_validator(mode="after")
    def _root(self) -> Self:
        if self.kind != "synth" and not self.root:
            raise ValueError(f"data.root is missing: the folder of the {self.kind} dataset (--set data.root=FOLDER)")
        both = set(self.test_folds) & set(self.exclude_folds)
        if both:
            raise ValueError(f"data.exclude_folds: fold {min(both)} is in data.test_folds too")
        if (self.kind == "csv") != (self.csv is not None):
            raise ValueError("data.csv (the table) belongs to data.kind csv, and only to it")
        return self

    @property
    def has_unlabelled(self) -> bool:
        """Whether there is a folder of sounds without labels."""
        return bool(self.unlabelled) or (self.kind == "synth" and self.synth_unlabelled > 0)


class TeacherSpec(Spec):
    """The foundation model and how it learns the task."""

    name: str = "mn04"
    weights: str | None = Field(None, description="checkpoint file; none means the cache that 'tag --fetch' fills")
    adapt: Literal["head", "finetune"] = Field(
        "head", description="a head on frozen embeddings, or all weights fine-tuned on each fold's training clips"
    )
    finetune: FinetuneSpec = FinetuneSpec()
    view: Literal["window", "clip", "both"] = Field(
        "window", description="what the teacher hears when it labels a window: it, its whole clips, or their mean"
    )
    head_c: float = Field(1e-3, gt=0, description="inverse L2 strength of the head on frozen embeddings")
    width: int = Field(64, ge=4, le=128, description="wide-cnn: its size")
    train: TrainSpec = Field(
        TrainSpec(windows_seen=40_000, loss=LossWeights(labels=1, logits=0, embedding=0)),
        description="wide-cnn: its own training",
    )


class WindowsSpec(Spec):
    """The windows that the teacher labels."""

    count: int = Field(16_000, ge=64, description="per fold, from training clips only")
    unlabelled_count: int = Field(40_000, ge=0, description="from the unlabelled folder, shared by the folds")
    held_out: int = Field(512, ge=16, description="of count: not trained on, for the learning curve")
    augment: AugmentSpec = AugmentSpec()
    seed: int | None = Field(
        None, ge=0, lt=2**31, description="of the windows alone; a run with another seed then shares their labels"
    )


class PruneRecipe(PruneSpec):
    """Structured pruning after training, trained as before after every cut."""

    finish_windows: int = Field(0, ge=0, description="windows of training after the last cut")
    learning_rate: float = Field(1e-3, gt=0, description="of the training after cuts")

    def cuts(self) -> PruneSpec:
        """The cuts alone."""
        return PruneSpec.model_validate(self.model_dump(include=set(PruneSpec.model_fields)))


class ExitRecipe(ExitSpec):
    """Early exits, trained jointly with the student that is there."""

    train: TrainSpec = TrainSpec(
        windows_seen=40_000, learning_rate=1e-3, loss=LossWeights(exit_labels=0.1, exit_teacher=0.9, exit_final=0.5)
    )

    def heads(self) -> ExitSpec:
        """The exits alone."""
        return ExitSpec.model_validate(self.model_dump(include=set(ExitSpec.model_fields)))


class StatefulSpec(Spec):
    """The stateful form for streams: each step takes new frames alone."""

    step_frames: int | None = Field(
        None, ge=1, description="new frames of a step; none is window.hop_frames, which it must divide"
    )


def _switch(value: Any) -> Any:
    """`stateful: true` as the section without fields, `false` as none."""
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


class VerifySpec(Spec):
    """Gates that the exported artefacts must pass."""

    fp32_tolerance: float = Field(1e-3, gt=0, description="largest |logit difference| to torch")
    int8_min_agreement: float = Field(0.99, ge=0, le=1, description="windows with the argmax of fp32, but for ties")
    # A few steps of int8 logits (0.04 to 0.08 each). Digital silence is taught as "no class": its best two
    # classes lie 0.02 to 0.09 apart, and which of them leads says nothing.
    int8_tie_margin: float = Field(0.25, ge=0, description="fp32 logits; nearer classes are a tie")
    int8_max_clips_lost: int = Field(1, ge=0, description="per 80 test clips, against fp32")


class Recipe(Spec):
    """One distillation from sounds to verified bundles. `edgeaudio run recipe.yaml` executes it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,40}$")
    seed: int = Field(0, ge=0, lt=2**31)
    threads: int = Field(
        1, ge=1, le=256, description="of torch; a part of what makes a result repeatable, and 1 is as fast as 2 here"
    )
    data: DataSpec
    frontend: FrontendSpec = FrontendSpec()
    window: WindowSpec = WindowSpec()
    teacher: TeacherSpec = TeacherSpec()
    windows: WindowsSpec = WindowsSpec()
    student: StudentSpec = DSCNNSpec()
    pretrain: TrainSpec | None = Field(None, description="on unlabelled windows, before the task")
    train: TrainSpec = TrainSpec()
    control: bool = Field(True, description="also train the same student, same budget, on labels only")
    ablate: tuple[Part, ...] = Field((), description="also train the same student, same budget, without each of these")
    prune: PruneRecipe | None = Field(None, description="cut the trained student to a budget")
    exits: ExitRecipe | None = Field(None, description="let a device stop early on easy windows")
    quantize: QuantizeSpec = QuantizeSpec()
    formats: tuple[Format, ...] = Field(
        ("onnx", "tflite"),
        min_length=1,
        description="onnx, tflite and, for NVIDIA GPUs, tensorrt (not run on hardware)",
    )
    # Not by default: it doubles files and export time, transformers have none, and tables of clips do not need it.
    stateful: Annotated[StatefulSpec | None, BeforeValidator(_switch)] = Field(
        None, description="also export the student as steps for 'stream --stateful' (dscnn, mn): true, or its fields"
    )
    verify: VerifySpec = VerifySpec()
    decision: DecisionSpec = DecisionSpec()
    fit_decision: bool = Field(
        True, description="fit smoothing and thresholds of every artefact to its answers on streams of training clips"
    )
    sweep: SweepSpec | None = Field(None, description="what 'edgeaudio sweep' varies; a run takes no notice of it")

    def digest(self) -> str:
        """As any spec's, but without `sweep`, which decides nothing in a run."""
        return digest_json(self.model_dump(mode="json", exclude={"sweep"}))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, values in (
            ("data.test_folds", self.data.test_folds),
            ("formats", self.formats),
            ("ablate", self.ablate),
        ):
            if len(set(values)) != len(values):
                raise ValueError(f"{name} names one twice: {list(values)}")
        self._check_frontend()
        self._check_stateful()
        self._check_windows()
        self._check_losses()
        needs = {"pretrain": self.pretrain is not None, "train.unlabelled_share": self.train.unlabelled_share > 0}
        for field, wanted in needs.items():
            heard = self.data.has_unlabelled and self.windows.unlabelled_count > 0
            if field == "train.unlabelled_share":
                heard = heard or self.data.labels_per_class is not None
            if wanted and not heard:
                raise ValueError(f"{field} needs data.unlabelled (a folder) and windows.unlabelled_count above 0")
        if self.quantize.compact and "onnx" not in self.formats:
            raise ValueError("quantize.compact is a form of ONNX; add onnx to formats")
        if self.exits is not None and self.quantize.method == "qat":
            raise ValueError("exits: their stages are quantised after training; use quantize.method: ptq")
        if self.exits is not None and (self.quantize.keep_float or self.quantize.max_drop is not None):
            raise ValueError("exits: their stages are int8 throughout; leave out quantize.keep_float and max_drop")
        if self.teacher.adapt == "finetune" and self.teacher.name != "mn04":
            raise ValueError(f"teacher.adapt: finetune is for mn04; {self.teacher.name} is adapted otherwise")
        if self.pretrain is not None and self.pretrain.loss.labels + self.pretrain.loss.logits > 0:
            raise ValueError("pretrain.loss: labels and logits must be 0, unlabelled sounds have no task labels")
        return self

    @property
    def step_frames(self) -> int | None:
        """Frames of one step of the stateful form; None without it."""
        return None if self.stateful is None else self.stateful.step_frames or self.window.hop_frames

    @property
    def windows_seed(self) -> int:
        """The seed of windows and of the choice of labels."""
        return self.seed if self.windows.seed is None else self.windows.seed

    @property
    def uses_unlabelled(self) -> bool:
        """Whether the distilled student learns from unlabelled sounds."""
        return self.pretrain is not None or self.train.unlabelled_share > 0

    def _check_stateful(self) -> None:
        if self.step_frames is None:
            return
        if isinstance(self.student, TransformerSpec):
            raise ValueError(
                "stateful: a transformer looks at its whole window at once and cannot be streamed; "
                "use student.family dscnn or mn, or leave stateful out"
            )
        if not set(self.formats) & set(STATEFUL_FORMATS):
            raise ValueError("stateful comes as onnx and tflite; add one of them to formats, or leave stateful out")
        if self.window.hop_frames % self.step_frames or self.step_frames > self.window.frames:
            raise ValueError(
                f"stateful.step_frames is {self.step_frames}; it must divide window.hop_frames "
                f"({self.window.hop_frames}) and fit into window.frames ({self.window.frames})"
            )

    def _check_frontend(self) -> None:
        if self.frontend.centre or self.frontend.preemphasis:
            raise ValueError("frontend.centre and frontend.preemphasis are for teachers: a stream has neither")

    def _check_windows(self) -> None:
        held_out = self.windows.held_out
        if held_out >= self.windows.count:
            raise ValueError(f"windows.held_out {held_out} leaves none of windows.count to train on")
        if self.pretrain is not None and 0 < self.windows.unlabelled_count <= held_out:
            raise ValueError(f"windows.held_out {held_out} leaves none of windows.unlabelled_count to pretrain on")
        batch, share = self.train.batch_size, self.train.unlabelled_share
        if round(batch * share) >= batch:
            raise ValueError(f"train.unlabelled_share {share} leaves no labelled window in a batch of {batch}")

    def _check_losses(self) -> None:
        trainings = {"train": self.train, "pretrain": self.pretrain}
        if self.teacher.name == "wide-cnn":
            trainings["teacher.train"] = self.teacher.train
            loss = self.teacher.train.loss
            if loss.uses_teacher or not loss.labels:
                raise ValueError(
                    "teacher.train.loss: wide-cnn has no teacher itself; "
                    "use {labels: 1, logits: 0, embedding: 0, foundation_logits: 0}"
                )
            if self.teacher.width % 2:
                raise ValueError(f"teacher.width is {self.teacher.width}; wanted an even number")
        for name, training in trainings.items():
            if training is not None and not (training.loss.labels or training.loss.uses_teacher):
                raise ValueError(f"{name}.loss: every term is 0, so there is nothing to learn; raise one")
