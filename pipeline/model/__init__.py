"""Models: a card says what an ONNX file means, a session per process runs it."""

from pipeline.model.card import Card, Model, ModelRef
from pipeline.model.load import load_model
from pipeline.model.patches import predict_block, quantise

__all__ = ["Card", "Model", "ModelRef", "load_model", "predict_block", "quantise"]
