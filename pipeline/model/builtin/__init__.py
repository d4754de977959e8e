"""Models that come with the package: ``nuclei.onnx``, its card, and what builds it."""
