"""How well YAMNet with a trained head does on ESC-10: the peer that students are held against.

    python benchmarks/yamnet_head.py ../shared/peers/yamnet.tflite ../shared/data/esc10 --out OUT

Every clip is cut into patches of 15,600 samples each 0.48 s. A logistic regression on what YAMNet says of a patch, its
1,024 embedding values or its 521 scores, is trained on four folds and tried on the fifth; a clip's answer is the mean
over its patches. How strongly the weights are held back is chosen on the training folds alone, one of them left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray
from recording import write_record

from edgeaudio.audio.files import decode_file
from edgeaudio.audio.resample import resample
from edgeaudio.data.loaders import load_esc50

PATCH, HOP, RATE_HZ = 15_600, 7_680, 16_000
EMBEDDING = "yamnet_frames/global_average_pooling2d/Mean"
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)

Float32 = NDArray[np.float32]


class Features(NamedTuple):
    """Of every patch: what YAMNet says `(patches, n)`, and the clip it belongs to `(patches,)`."""

    values: Float32
    clip: NDArray[np.int64]


def features(model: Path, waveforms: list[Float32]) -> dict[str, Features]:
    """Embeddings and scores of all patches of all clips."""
    # A delegate keeps what is between its ends to itself.
    interpreter = Interpreter(
        str(model),
        num_threads=1,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    (given,) = interpreter.get_input_details()
    embedding = next(d["index"] for d in interpreter.get_tensor_details() if d["name"] == EMBEDDING)
    tensors = {"embedding": embedding, "scores": interpreter.get_output_details()[0]["index"]}
    found: dict[str, list[Float32]] = {name: [] for name in tensors}
    clip = []
    for number, waveform in enumerate(waveforms):
        padded = np.pad(waveform, (0, max(0, PATCH - len(waveform))))
        for start in range(0, len(padded) - PATCH + 1, HOP):
            interpreter.set_tensor(given["index"], padded[None, start : start + PATCH])
            interpreter.invoke()
            for name, index in tensors.items():
                found[name].append(interpreter.get_tensor(index)[0].copy())
            clip.append(number)
    return {name: Features(np.stack(rows), np.array(clip)) for name, rows in found.items()}


def fit(values: Float32, targets: NDArray[np.int64], n_classes: int, penalty: float) -> Any:
    """A logistic regression on standardised values, by L-BFGS; what it makes of values."""
    mean, deviation = values.mean(0), values.std(0) + 1e-6

    def scaled(rows: Float32) -> torch.Tensor:
        return torch.from_numpy((rows - mean) / deviation)

    x, y = scaled(values), torch.from_numpy(targets)
    weight = torch.zeros(values.shape[1], n_classes, requires_grad=True)
    bias = torch.zeros(n_classes, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(x @ weight + bias, y) + penalty * weight.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return lambda rows: (scaled(rows) @ weight + bias).softmax(1).detach().numpy()


def n_right(found: Features, labels: NDArray[np.int64], train: NDArray[np.bool_], penalty: float) -> int:
    """Clips outside `train (clips,)` that are named rightly after training on those inside."""
    inside = train[found.clip]
    classify = fit(found.values[inside], labels[found.clip[inside]], int(labels.max()) + 1, penalty)
    probs = classify(found.values)
    return sum(
        int(probs[found.clip == clip].mean(0).argmax() == labels[clip]) for clip in np.flatnonzero(~train)
    )  # fmt: skip


def cross_validated(
    found: Features, labels: NDArray[np.int64], folds: NDArray[np.int64]
) -> tuple[list[int], list[float]]:
    """(clips right per official fold, penalty chosen for each)."""
    right, chosen = [], []
    names = np.unique(folds)
    for fold, stand_in in zip(names, np.roll(names, -1), strict=True):
        rest = folds != fold
        kept = rest[found.clip]
        number = np.cumsum(rest) - 1
        inner = Features(found.values[kept], number[found.clip[kept]])
        scores = [n_right(inner, labels[rest], folds[rest] != stand_in, penalty) for penalty in PENALTIES]
        chosen.append(PENALTIES[int(np.argmax(scores))])
        right.append(n_right(found, labels, rest, chosen[-1]))
    return right, chosen


def main() -> None:
    """See the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path)
    parser.add_argument("esc10", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    clips = load_esc50(arguments.esc10, esc10=True).clips
    decoded = [decode_file(clip.path) for clip in clips]
    waveforms = [resample(one.waveform, one.sample_rate, RATE_HZ) for one in decoded]
    labels = np.array([clip.labels[0] for clip in clips])
    folds = np.array([clip.fold for clip in clips])
    record = {}
    for name, found in features(arguments.model, waveforms).items():
        right, penalties = cross_validated(found, labels, folds)
        record[name] = {"right_per_fold": right, "right": sum(right), "clips": len(clips), "penalties": penalties}
    lines = [
        "# YAMNet with a trained head on ESC-10",
        "",
        "    python benchmarks/yamnet_head.py yamnet.tflite ../shared/data/esc10 --out OUT",
        "",
        "| head on | clips right per fold | of 400 |",
        "| --- | --- | --- |",
        *(f"| {name} | {' '.join(map(str, row['right_per_fold']))} | {row['right']} |" for name, row in record.items()),
        "",
    ]
    write_record(arguments.out, "\n".join(lines), record)


if __name__ == "__main__":
    main()
