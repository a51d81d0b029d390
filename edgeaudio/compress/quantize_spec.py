"""`QuantizeSpec`: how a student becomes int8. Free of torch, so that recipes are read without it."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from edgeaudio.spec import Spec

# Fewer cannot show the ranges of all classes; how many are enough is in `ptq`.
MIN_CALIBRATION_WINDOWS = 32


class QatSpec(Spec):
    """Quantisation-aware fine-tuning of the trained student, measured in windows seen.

    What is learned from (loss terms, augmentation, unlabelled share) is the recipe's training itself.
    """

    windows_seen: int = Field(20_000, ge=1)
    batch_size: int = Field(64, ge=2, le=4096)
    learning_rate: float = Field(3e-4, gt=0, description="a tenth of the training's: weights move by rounding steps")
    weight_decay: float = Field(0.0, ge=0)
    ema_decay: float = Field(0.99, ge=0, lt=1, description="per step; the averaged student is the result")
    observe_share: float = Field(
        0.5, gt=0, le=1, description="activation ranges follow the data in this first part of the steps, then freeze"
    )
    checkpoint_every_steps: int = Field(250, ge=1, description="a kill loses at most this much work")


class QuantizeSpec(Spec):
    """Quantisation to int8, after training (ptq) or with training (qat)."""

    method: Literal["ptq", "qat"] = "ptq"
    calibration_windows: int = Field(512, ge=MIN_CALIBRATION_WINDOWS, le=20_000)
    per_channel: bool = Field(True, description="one scale per output channel of weights; off: one per layer")
    compact: bool = Field(False, description="onnx int8 in QOperator form: the smallest file, for onnxruntime alone")
    keep_float: tuple[str, ...] = Field((), description="layers or submodules of the student that stay float")
    max_drop: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="ptq: largest loss of accuracy (multi-label: mean average precision) on held-out training "
        "windows; while it is larger, the most harmful layer stays float",
    )
    sensitivity: bool = Field(False, description="ptq: also rank the layers by the harm that int8 does to each")
    qat: QatSpec = QatSpec()
    control: bool = Field(True, description="qat: also fine-tune in float for the same steps, then ptq")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.keep_float)) != len(self.keep_float):
            raise ValueError(f"keep_float names one twice: {list(self.keep_float)}")
        if self.max_drop is not None and not self.per_channel:
            raise ValueError("max_drop finds layers with one scale per channel; leave per_channel on")
        if self.method == "qat" and self.max_drop is not None:
            raise ValueError("max_drop belongs to method ptq; with qat name the layers in keep_float")
        if self.method == "ptq" and self.qat != QatSpec():
            raise ValueError("qat belongs to method qat, and only to it")
        return self
