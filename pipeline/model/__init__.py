"""ONNX models: their cards, their sessions, and patches through them."""

from pipeline.model.card import Card
from pipeline.model.checked import Footprint, Model
from pipeline.model.load import load_model, load_models
from pipeline.model.patches import map_boxes, predict_block
from pipeline.model.refs import MapRef, ModelRef, ObjectsRef, OutputRef, SessionRef
from pipeline.model.session import facts

__all__ = [
    "Card",
    "Footprint",
    "MapRef",
    "Model",
    "ModelRef",
    "ObjectsRef",
    "OutputRef",
    "SessionRef",
    "facts",
    "load_model",
    "load_models",
    "map_boxes",
    "predict_block",
]
