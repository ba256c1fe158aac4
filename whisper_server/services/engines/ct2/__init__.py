"""Models run by CTranslate2, with their encoder on onnxruntime where that is faster."""
