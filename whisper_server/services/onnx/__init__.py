"""The part of ONNX that is written and run here."""
