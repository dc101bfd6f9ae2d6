"""From a checkpoint to a verified artifact. Only this area imports torch, transformers and onnx."""
