"""Student -> ONNX and TFLite files, and the parity gate. Import the modules; this package imports nothing heavy."""

from .artefact import ExportedArtefact

__all__ = ["ExportedArtefact"]
