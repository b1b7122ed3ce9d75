"""The model of a run in the formats of other programs, each with a model card and the classes beside it."""

from feddtl.export.class_embeddings import export_class_embeddings
from feddtl.export.merged import export_merged, merge
from feddtl.export.onnx_models import export_onnx

__all__ = ["export_class_embeddings", "export_merged", "export_onnx", "merge"]
